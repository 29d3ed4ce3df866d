"""A spec becomes jobs. Pure: the same spec, run and round give the same jobs, on any machine and library version.

Every choice is drawn from a stream keyed by a hash of what it is for. Choices among named things (classes, numbers
of objects, templates, slot values) are dealt out rather than thrown: after any number of jobs, things of equal weight
have come up equally often, give or take one, so classes are balanced by construction. Of n things with weights, one of
share s has come up as often as s says, give or take less than 1 + s * (n - 2).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from math import ceil, exp, log
from random import Random
from typing import Generic, TypeVar

from synthgen.errors import Problem, SpecError
from synthgen.spec import DatasetSpec, LayoutSpec, template_slots
from synthgen.types import Box, Job

IMAGES_PER_RUN = 10_000_000  # a job's id is (run - 1) * this + index + 1, so that runs can be merged
ASPECT_RATIO = (0.6, 1.6)  # of layout boxes, where neither spec nor model says
MIN_SIDE_PX = 8
SLACK = 1.15  # a little more than the yield so far calls for: one round more costs less than many small ones

K = TypeVar("K")


def _hash(*parts: object, bits: int = 64) -> int:
    """A hash of plain values, below 2**bits, the same on every machine and in every version."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) >> (64 - bits)


class _Stream:
    """Random numbers from a key. Only `Random.random` is used: Python promises its values for ever."""

    def __init__(self, *key: object) -> None:
        self._random = Random(_hash(*key))

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self._random.random()

    def integer(self, low: int, high: int) -> int:
        """In [low, high], both included."""
        return min(high, low + int(self._random.random() * (high - low + 1)))


class _Dealer(Generic[K]):
    """Deals out keys in proportion to their weights, in random order: the k-th time of a key of weight w lies at
    (k + u) / w for a uniform u, and the earliest comes next. With equal weights every key comes once a turn. At any
    time t a key has come |d| < 1 more often than w * t; the bound in the module's docstring is what is left of these d
    when t is eliminated."""

    def __init__(self, weights: Mapping[K, float], *key: object) -> None:
        self._weights = {k: w for k, w in weights.items() if w > 0}
        self._streams = {k: _Stream(*key, str(k)) for k in self._weights}
        self._dealt = dict.fromkeys(self._weights, 0)
        self._next = {k: self._streams[k].uniform(0, 1) / w for k, w in self._weights.items()}

    def deal(self) -> K:
        key = min(self._next, key=self._next.__getitem__)
        self._dealt[key] += 1
        self._next[key] = (self._dealt[key] + self._streams[key].uniform(0, 1)) / self._weights[key]
        return key


@dataclass(frozen=True, slots=True)
class Round:
    """One batch of planning: `count` jobs from `start` on, and what they should make up for.

    Attributes:
        number: from 1.
        start: index of the first job.
        classes: category id -> weight.
        objects: number of objects -> weight.
    """

    number: int
    start: int
    count: int
    classes: Mapping[int, float]
    objects: Mapping[int, float]


def first_round(spec: DatasetSpec) -> Round:
    return Round(1, 0, spec.count, dict.fromkeys((c.id for c in spec.categories), 1.0), spec.objects_per_image)


def next_round(
    spec: DatasetSpec,
    number: int,
    made: int,
    accepted: int,
    asked: Mapping[int, int],
    classes: Mapping[int, int],
    objects: Mapping[int, int],
) -> Round | None:
    """The round that makes up what judging threw away, weighted to what is missing: images of `count`, and instances
    of classes short of their quotas. None with nothing missing, or the budget spent.

    Args:
        number: of this round.
        made, accepted: images so far.
        asked, classes: instances by category id, those asked for in all images and those accepted.
        objects: accepted images by number of objects asked.
    """
    deficit, room = max(0, spec.count - accepted), min(spec.max_images, IMAGES_PER_RUN) - made
    short = {c: n - classes.get(c, 0) for c, n in spec.quotas.items() if n > classes.get(c, 0)}
    if not (deficit or short) or room <= 0:
        return None
    images: float = ceil(SLACK * deficit / _yield(accepted, made))
    share = {k: w / sum(spec.objects_per_image.values()) for k, w in spec.objects_per_image.items()}
    each = spec.count * sum(k * w for k, w in share.items()) / len(spec.classes)
    # What a quota is short of is asked for below.
    have = {c.id: max(classes.get(c.id, 0), spec.quotas.get(c.id, 0)) for c in spec.categories}
    weights = {c: max(0.0, each - n) for c, n in have.items()}
    weights = weights if sum(weights.values()) > 0 else dict.fromkeys(weights, 1.0)
    sizes = {k: max(0.0, spec.count * w - objects.get(k, 0)) for k, w in share.items()}
    sizes = sizes if sum(sizes.values()) > 0 else share
    if short:
        # The objects of the images that are missing go to short classes first, then to the others; what these images
        # cannot hold goes into further ones, which hold nothing else.
        asks = {c: SLACK * n / _yield(classes.get(c, 0), asked.get(c, 0)) for c, n in short.items()}
        spare = images * _mean(sizes) - sum(asks.values())
        total = sum(weights.values())
        weights = {c: asks.get(c, 0.0) + max(0.0, spare) * w / total for c, w in weights.items()}
        filled = {k: w if k else 0.0 for k, w in share.items()}
        further = max(0.0, -spare) / _mean(filled)
        parts = ((images, sizes), (further, filled))
        sizes = {k: sum(n * part[k] / sum(part.values()) for n, part in parts) for k in share}
        images += further
    return Round(number, made, min(ceil(images) + 1, room), weights, sizes)


def _yield(accepted: int, tried: int) -> float:
    """The share that came through so far; not below a tenth, so that nothing is divided by 0."""
    return max(accepted / tried if tried else 1.0, 0.1)


def _mean(weights: Mapping[int, float]) -> float:
    return sum(k * w for k, w in weights.items()) / sum(weights.values())


def plan_round(
    spec: DatasetSpec, run: int, round: Round, aspect_ratios: Mapping[str, tuple[float, float]] | None = None
) -> Iterator[Job]:
    """The jobs of a round, in order.

    Args:
        aspect_ratios: class name -> (least, most) width over height, as the model declares it.

    Raises:
        SpecError: objects do not fit into the image as the layout asks.
    """
    key = (spec.seed, run, round.number)
    classes = _Dealer(round.classes, *key, "class")
    objects = _Dealer(round.objects, *key, "objects")
    templates = {True: spec.prompts.templates, False: spec.prompts.background_templates}
    chosen = {
        kind: _Dealer({i: t.weight for i, t in enumerate(ts)}, *key, "template") for kind, ts in templates.items()
    }
    slots = {name: _Dealer(values, *key, "slot", name) for name, values in spec.prompts.slots.items()}
    names = {c.id: c.name for c in spec.categories}
    ratios = {
        c.id: s.aspect_ratio or (aspect_ratios or {}).get(c.name) or ASPECT_RATIO
        for c, s in zip(spec.categories, spec.classes, strict=True)
    }
    for index in range(round.start, round.start + round.count):
        asked = tuple(classes.deal() for _ in range(objects.deal()))
        template = templates[bool(asked)][chosen[bool(asked)].deal()]
        filled = {name: slots[name].deal() for name in sorted(template_slots(template.text) - {"objects"})}
        layout = (
            place(spec.layout, [ratios[c] for c in asked], spec.height, spec.width, spec.seed, run, index)
            if spec.layout
            else None
        )
        family = f"{_hash(template.text, filled, asked, layout):016x}"
        yield Job(
            id=(run - 1) * IMAGES_PER_RUN + index + 1,
            run=run,
            round=round.number,
            index=index,
            family=family,
            split=split_of(family, spec.splits),
            prompt=template.text.format(objects=phrase([names[c] for c in asked]), **filled),
            negative_prompt=spec.prompts.negative_prompt,
            slots=filled,
            asked=asked,
            layout=layout,
            seed=_hash("noise", spec.seed, run, index, bits=63),
            height=spec.height,
            width=spec.width,
        )


def retry_seed(seed: int, attempt: int) -> int:
    """The seed of an image's further attempt, from 1, where that with `seed` has failed."""
    return _hash("again", seed, attempt, bits=63)


def phrase(names: list[str]) -> str:
    """`["cat", "umbrella"]` -> "a cat and an umbrella"."""
    return " and ".join(("an " if name[0].lower() in "aeiou" else "a ") + name for name in names)


def split_of(family: str, splits: Mapping[str, float]) -> str:
    """The split of a family of images: by its hash alone, so it stays as the dataset grows, over seeds and runs."""
    place, edge = _hash("split", family) / 2**64, 0.0
    for name, share in splits.items():
        edge += share
        if place < edge:
            return name
    return name


def place(
    layout: LayoutSpec, ratios: list[tuple[float, float]], height: int, width: int, *key: object
) -> tuple[Box, ...]:
    """A box for each aspect-ratio range, xyxy px, by rejection; the longer it takes, the smaller the boxes, down to
    the least size.

    Raises:
        SpecError: no place found in 2,000 tries.
    """
    stream, tries = _Stream("layout", *key), 2000
    low_x, low_y = ceil(layout.margin * width), ceil(layout.margin * height)
    for attempt in range(tries):
        boxes: list[Box] = []
        most = layout.size[0] + (layout.size[1] - layout.size[0]) * min(1, 2 * (1 - attempt / tries))
        for low, high in ratios:
            ratio = exp(stream.uniform(log(low), log(high)))
            long = stream.uniform(layout.size[0], most) * min(height, width)
            w = max(MIN_SIDE_PX, round(long * min(1, ratio)))
            h = max(MIN_SIDE_PX, round(long / max(1, ratio)))
            if w > width - 2 * low_x or h > height - 2 * low_y:
                break
            x, y = stream.integer(low_x, width - low_x - w), stream.integer(low_y, height - low_y - h)
            box = (x, y, x + w, y + h)
            if any(_covered(box, other) > layout.max_overlap for other in boxes):
                break
            boxes.append(box)
        else:
            return tuple(boxes)
    raise SpecError(
        [
            Problem(
                "layout",
                f"{len(ratios)} objects of at least {layout.size[0]:g} of the shorter side do not fit into "
                f"{width}x{height} px with margin {layout.margin:g} and max_overlap {layout.max_overlap:g}; "
                "ask for fewer or smaller ones",
            )
        ]
    )


def _covered(a: Box, b: Box) -> float:
    """How much of the smaller box the other covers, from 0 to 1."""
    inner = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return inner / min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
