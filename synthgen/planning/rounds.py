"""How many images are made, and of what: the first round, and further ones that replace what judging rejected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from synthgen.spec import DatasetSpec

IMAGES_PER_RUN = 10_000_000  # a job's id is (run - 1) * this + index + 1, so that runs can be merged

SLACK = 1.15  # a round makes more images than the yield calls for: a few too many cost less than another round


def run_of(image_id: int) -> int:
    """The number of the run that an image belongs to."""
    return (image_id - 1) // IMAGES_PER_RUN + 1


@dataclass(frozen=True, slots=True)
class Round:
    """Jobs that are planned together: `count` of them from `start` on, with the weights of their classes and objects.

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
    """The round of a new run: `count` images, with classes of equal weight."""
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
    """The round that replaces what judging rejected, for `count` and for classes that are short of their quotas. Its
    weights favour what is missing. None if nothing is missing, or the budget is spent.

    Args:
        number: of this round.
        made, accepted: images so far.
        asked, classes: instances by category id: those asked for in all images, and those accepted.
        objects: accepted images by the number of objects that they were asked for.
    """
    deficit, room = max(0, spec.count - accepted), min(spec.max_images, IMAGES_PER_RUN) - made
    short = {c: n - classes.get(c, 0) for c, n in spec.quotas.items() if n > classes.get(c, 0)}
    if not (deficit or short) or room <= 0:
        return None
    images: float = ceil(SLACK * deficit / _yield(accepted, made))
    share = {k: w / sum(spec.objects_per_image.values()) for k, w in spec.objects_per_image.items()}
    each = spec.count * sum(k * w for k, w in share.items()) / len(spec.classes)
    # A class that is short of its quota counts as having met it here: `asks` below adds what it lacks.
    have = {c.id: max(classes.get(c.id, 0), spec.quotas.get(c.id, 0)) for c in spec.categories}
    weights = {c: max(0.0, each - n) for c, n in have.items()}
    weights = weights if sum(weights.values()) > 0 else dict.fromkeys(weights, 1.0)
    sizes = {k: max(0.0, spec.count * w - objects.get(k, 0)) for k, w in share.items()}
    sizes = sizes if sum(sizes.values()) > 0 else share
    if short:
        # The objects of the missing images go to short classes first, then to the others. Further images, which hold
        # nothing else, take the objects for which the missing images have no room.
        asks = {c: SLACK * n / _yield(classes.get(c, 0), asked.get(c, 0)) for c, n in short.items()}
        spare = images * _mean(sizes) - sum(asks.values())
        total = sum(weights.values())
        weights = {c: asks.get(c, 0.0) + max(0.0, spare) * w / total for c, w in weights.items()}
        with_objects = {k: w if k else 0.0 for k, w in share.items()}
        further = max(0.0, -spare) / _mean(with_objects)
        mixed = ((images, sizes), (further, with_objects))
        sizes = {k: sum(n * weight[k] / sum(weight.values()) for n, weight in mixed) for k in share}
        images += further
    return Round(number, made, min(ceil(images) + 1, room), weights, sizes)


def _yield(accepted: int, tried: int) -> float:
    """The share that was accepted so far; at least a tenth, so that nothing is divided by 0."""
    return max(accepted / tried if tried else 1.0, 0.1)


def _mean(weights: Mapping[int, float]) -> float:
    return sum(k * w for k, w in weights.items()) / sum(weights.values())
