"""A spec becomes jobs. Pure: the same spec, run and round give the same jobs, on any machine and library version.

Every choice is drawn from a stream keyed by a hash of what it is for. Choices among named things (classes, numbers
of objects, templates, slot values) are dealt out rather than thrown: after any number of jobs, things of equal weight
have come up equally often, give or take one, so classes are balanced by construction. Of n things with weights, one of
share s has come up as often as s says, give or take less than 1 + s * (n - 2).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from heapq import heapify, heapreplace
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


_json = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=str).encode


def _hash(*parts: object, bits: int = 64) -> int:
    """A hash of plain values, below 2**bits, the same on every machine and in every version."""
    return _hash_of(_json(parts), bits)


def _hash_of(text: str, bits: int = 64) -> int:
    """`text`: the values as JSON, which takes longer than the hash; so what is planned a million times composes it."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) >> (64 - bits)


def _stream(*key: object) -> Callable[[], float]:
    """Random numbers in [0, 1) from a key: of `Random.random`, whose values Python promises for ever."""
    return Random(_hash(*key)).random


class _Dealer(Generic[K]):
    """Deals out keys in proportion to their weights, in random order: the k-th time of a key of weight w lies at
    (k + u) / w for a uniform u, and the earliest comes next. With equal weights every key comes once a turn. At any
    time t a key has come |d| < 1 more often than w * t; the bound in the module's docstring is what is left of these d
    when t is eliminated."""

    def __init__(self, weights: Mapping[K, float], *key: object) -> None:
        self._keys = [k for k, w in weights.items() if w > 0]
        self._weights = [weights[k] for k in self._keys]
        self._streams = [_stream(*key, str(k)) for k in self._keys]
        self._dealt = [0] * len(self._keys)
        # When each comes next, and its place: the first of those that come at one time.
        self._next = [(draw() / w, i) for i, (draw, w) in enumerate(zip(self._streams, self._weights, strict=True))]
        heapify(self._next)

    def deal(self) -> K:
        place = self._next[0][1]
        self._dealt[place] += 1
        heapreplace(self._next, ((self._dealt[place] + self._streams[place]()) / self._weights[place], place))
        return self._keys[place]


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
    things = {c.id: one(c.name) for c in spec.categories}
    words = {i: _Dealer(c.prompt, *key, "words", c.name) for i, c in enumerate(spec.classes, 1) if c.prompt}
    ratios = {
        c.id: s.aspect_ratio or (aspect_ratios or {}).get(c.name) or ASPECT_RATIO
        for c, s in zip(spec.categories, spec.classes, strict=True)
    }
    named = {
        kind: [(t.text, sorted(template_slots(t.text) - {"objects"})) for t in ts] for kind, ts in templates.items()
    }
    noise = _json(("noise", spec.seed, run))[:-1]
    for index in range(round.start, round.start + round.count):
        asked = tuple([classes.deal() for _ in range(objects.deal())])
        text, fields = named[bool(asked)][chosen[bool(asked)].deal()]
        filled = {name: slots[name].deal() for name in fields}
        layout = (
            place(spec.layout, [ratios[c] for c in asked], spec.height, spec.width, spec.seed, run, index)
            if spec.layout
            else None
        )
        family = f"{_hash(text, filled, asked, layout):016x}"
        yield Job(
            id=(run - 1) * IMAGES_PER_RUN + index + 1,
            run=run,
            round=round.number,
            index=index,
            family=family,
            split=split_of(family, spec.splits),
            prompt=text.format(objects=phrase([words[c].deal() if c in words else things[c] for c in asked]), **filled),
            negative_prompt=spec.prompts.negative_prompt,
            slots=filled,
            asked=asked,
            layout=layout,
            seed=_hash_of(f"{noise},{index}]", bits=63),
            height=spec.height,
            width=spec.width,
        )


def retry_seed(seed: int, attempt: int) -> int:
    """The seed of an image's further attempt, from 1, where that with `seed` has failed."""
    return _hash("again", seed, attempt, bits=63)


def one(name: str) -> str:
    """`umbrella` -> "an umbrella"."""
    return ("an " if name[0].lower() in "aeiou" else "a ") + name


def phrase(things: list[str]) -> str:
    """`["a cat", "an umbrella"]` -> "a cat and an umbrella"."""
    return " and ".join(things)


def split_of(family: str, splits: Mapping[str, float]) -> str:
    """The split of a family of images: by its hash alone, so it stays as the dataset grows, over seeds and runs."""
    place, edge = _hash_of(f'["split",{_json(family)}]') / 2**64, 0.0
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
    draw, tries = _stream("layout", *key), 2000
    low_x, low_y = ceil(layout.margin * width), ceil(layout.margin * height)
    free_x, free_y, shorter = width - 2 * low_x, height - 2 * low_y, min(height, width)
    least, span = layout.size[0], layout.size[1] - layout.size[0]
    logs = [(log(low), log(high) - log(low)) for low, high in ratios]
    # Written out, with few calls: boxes take longer than all else that is planned.
    for attempt in range(tries):
        boxes: list[Box] = []
        more = least + span * min(1, 2 * (1 - attempt / tries)) - least
        for low, spread in logs:
            ratio = exp(low + spread * draw())
            long = (least + more * draw()) * shorter
            w, h = (round(long), round(long / ratio)) if ratio >= 1 else (round(long * ratio), round(long))
            w, h = w if w > MIN_SIDE_PX else MIN_SIDE_PX, h if h > MIN_SIDE_PX else MIN_SIDE_PX
            if w > free_x or h > free_y:
                break
            x = low_x + int(draw() * (free_x - w + 1))
            y = low_y + int(draw() * (free_y - h + 1))
            box = (x, y, x + w, y + h)
            for other in boxes:
                apart = x >= other[2] or other[0] >= box[2] or y >= other[3] or other[1] >= box[3]
                if not apart and _covered(box, other) > layout.max_overlap:
                    break
            else:
                boxes.append(box)
                continue
            break
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
