"""A round becomes jobs: each says everything that decides its image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from synthgen.planning.draws import Dealer, stable_hash, stable_hash_of_json, to_json
from synthgen.planning.layouts import ASPECT_RATIO, place_boxes
from synthgen.planning.prompts import PromptDealer
from synthgen.planning.rounds import IMAGES_PER_RUN, Round
from synthgen.spec import DatasetSpec
from synthgen.types import Job


def plan_round(
    spec: DatasetSpec, run: int, round: Round, aspect_ratios: Mapping[str, tuple[float, float]] | None = None
) -> Iterator[Job]:
    """The jobs of a round, in order.

    Args:
        run: its number.
        aspect_ratios: class name -> (least, most) width over height, as the model declares it.

    Raises:
        SpecError: objects do not fit into the image as the layout asks.
    """
    key = (spec.seed, run, round.number)
    classes = Dealer(round.classes, *key, "class")
    objects = Dealer(round.objects, *key, "objects")
    prompts = PromptDealer(spec, *key)
    ratios = {
        c.id: s.aspect_ratio or (aspect_ratios or {}).get(c.name) or ASPECT_RATIO
        for c, s in zip(spec.categories, spec.classes, strict=True)
    }
    noise = to_json(("noise", spec.seed, run))[:-1]
    for index in range(round.start, round.start + round.count):
        asked = tuple([classes.deal() for _ in range(objects.deal())])
        template, slots = prompts.template(bool(asked))
        layout = (
            place_boxes(spec.layout, [ratios[c] for c in asked], spec.height, spec.width, spec.seed, run, index)
            if spec.layout
            else None
        )
        family = f"{stable_hash(template, slots, asked, layout):016x}"
        yield Job(
            id=(run - 1) * IMAGES_PER_RUN + index + 1,
            run=run,
            round=round.number,
            index=index,
            family=family,
            split=split_of(family, spec.splits),
            prompt=prompts.prompt(template, slots, asked),
            negative_prompt=spec.prompts.negative_prompt,
            slots=slots,
            asked=asked,
            layout=layout,
            seed=stable_hash_of_json(f"{noise},{index}]", bits=63),
            height=spec.height,
            width=spec.width,
        )


def retry_seed(seed: int, attempt: int) -> int:
    """The seed of an image's further attempt, counted from 1, after the one with `seed` has failed."""
    return stable_hash("again", seed, attempt, bits=63)


def split_of(family: str, splits: Mapping[str, float]) -> str:
    """The split of a family of images. Its hash alone decides it, so a family stays in its split in every run.

    Args:
        splits: name -> share; their order counts.
    """
    position, edge = stable_hash_of_json(f'["split",{to_json(family)}]') / 2**64, 0.0
    for name, share in splits.items():
        edge += share
        if position < edge:
            return name
    return name
