"""The figures of a report: the second part of `quality.json`, as plain data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synthgen.backends import Filter, ScoreFilter, ThresholdFilter
from synthgen.judging.reasons import lowest
from synthgen.judging.samples import Margins, duplicates, samples
from synthgen.judging.tables import Tables, pairs
from synthgen.judging.verdicts import Verdicts
from synthgen.spec import DatasetSpec

BINS = 30  # of a score's histogram
EDGES = np.linspace(0, 1, 21)  # of long sides, in shares of the image's shorter side; the last bar holds larger ones
GRID = 8  # cells a side, of positions
# Areas of COCO's small and medium objects, px: pycocotools, cocoeval.py, `areaRng`.
SMALL, MEDIUM = 32**2, 96**2

Plain = dict[str, Any]


def figures(verdicts: Verdicts) -> Plain:
    """All figures except times, models, and what the jobs of the shown images say."""
    tables, chosen = verdicts.tables, verdicts.chosen
    planned = Boxes.of(tables, tables.layouts.values, tables.layouts.holder)
    accepted = Boxes.of(tables, tables.boxes[chosen], tables.holder[chosen])
    return {
        "funnel": list(funnel(verdicts)),
        "asked_found": asked_found(verdicts),
        "distributions": {
            "classes": classes(verdicts),
            "counts": counts(verdicts),
            "sizes": sizes(verdicts.spec, planned, accepted, tables.labels["area"][chosen]),
            "positions": positions(planned, accepted),
        },
        "scores": list(scores(verdicts.filters, tables)),
        "samples": samples(verdicts, Margins.of(verdicts.filters, tables)),
        "duplicates": duplicates(verdicts),
    }


def funnel(verdicts: Verdicts) -> Iterable[Plain]:
    """The images that are left after each step. `first`: the images whose first reason this is; `images`: all images
    with this reason; `alone`: the images with no other reason."""
    sets = verdicts.image_reasons
    first, having = verdicts.reasons.having(lowest(sets)), verdicts.reasons.having(sets)
    alone = verdicts.reasons.having(sets[np.bitwise_count(sets) == 1])
    left = len(verdicts.images)
    none = {"first": 0, "images": 0, "alone": 0}
    yield {"step": "made", "left": left, **none}
    for name in verdicts.reasons.names:
        if name in having or name in verdicts.filters:
            left -= first.get(name, 0)
            yield {"step": name, "left": left, "first": first.get(name, 0), "images": having.get(name, 0),
                   "alone": alone.get(name, 0)}  # fmt: skip
    accepted, surplus = (int(verdicts.image_is(verdict).sum()) for verdict in ("accepted", "surplus"))
    if surplus:
        yield {"step": "surplus", "left": accepted, **none, "first": surplus}
    yield {"step": "accepted", "left": accepted, **none}


def asked_found(verdicts: Verdicts) -> list[Plain]:
    """How many objects that were asked for as `asked` were labelled as `found`; null stands for no object. In each
    image, objects of the same class are paired first, then others in order of class; the rest has no partner.
    """
    tables, size = verdicts.tables, len(verdicts.spec.classes) + 1  # category ids begin at 1: 0 is nothing
    seen = verdicts.labelled
    sides = (
        pairs(tables.asked.holder, tables.asked.values, size),
        pairs(tables.holder[seen], verdicts.categories[seen], size),
    )
    both = np.sort(np.concatenate(sides))
    both = both[np.diff(both, prepend=-1) > 0]
    numbers = [np.bincount(both.searchsorted(keys), minlength=len(both)) for keys in sides]
    same = np.minimum(*numbers)
    cells = np.zeros((size, size), np.int64)
    np.add.at(cells, (both % size, both % size), same)

    # The unpaired objects of each side, by image and by position among the unpaired objects of that image.
    rest = [np.repeat(both, row - same) for row in numbers]
    places = []
    for keys in rest:
        image = keys // size
        places.append(image * (len(both) + 1) + np.arange(len(keys)) - image.searchsorted(image))
    partner = np.minimum(places[1].searchsorted(places[0]), max(len(places[1]) - 1, 0))
    paired = places[1][partner] == places[0] if len(places[1]) else np.zeros(len(places[0]), bool)
    np.add.at(cells, (rest[0][paired] % size, rest[1][partner[paired]] % size), 1)
    np.add.at(cells[:, 0], rest[0][~paired] % size, 1)
    np.add.at(cells[0], np.delete(rest[1], partner[paired]) % size, 1)
    names = {c.id: c.name for c in verdicts.spec.categories}
    order = [*names, 0]
    return [
        {"asked": names.get(a), "found": names.get(f), "instances": int(cells[a, f])}
        for a in order for f in order if cells[a, f]
    ]  # fmt: skip


def classes(verdicts: Verdicts) -> list[Plain]:
    """Instances of each class: asked for, labelled, and accepted."""
    size, tables = len(verdicts.spec.classes) + 1, verdicts.tables
    asked = np.bincount(tables.asked.values, minlength=size)
    labelled = np.bincount(verdicts.categories[verdicts.labelled], minlength=size)
    accepted = np.bincount(verdicts.categories[verdicts.chosen], minlength=size)
    return [
        {
            "class": c.name,
            "asked": int(asked[c.id]),
            "labelled": int(labelled[c.id]),
            "accepted": int(accepted[c.id]),
            "quota": verdicts.spec.quotas.get(c.id, 0),
        }
        for c in verdicts.spec.categories
    ]


def counts(verdicts: Verdicts) -> list[Plain]:
    """Images by their number of objects: the share that the spec wants, the images asked for, and the accepted ones."""
    tables = verdicts.tables
    held = np.bincount(tables.holder[verdicts.chosen], minlength=len(verdicts.images))[verdicts.image_is("accepted")]
    asked, have = (Counter(dict(enumerate(np.bincount(n).tolist()))) for n in (tables.asked.counts, held))
    total = sum(verdicts.spec.objects_per_image.values())
    every = sorted({*(+asked), *(+have), *verdicts.spec.objects_per_image})
    return [
        {
            "objects": n,
            "wanted": _round(verdicts.spec.objects_per_image.get(n, 0.0) / total),
            "asked": asked[n],
            "accepted": have[n],
        }
        for n in every
    ]


@dataclass(frozen=True)
class Boxes:
    """`xyxy`: float64 (K, 4), px; `height`, `width`: (K,), of the image of each."""

    xyxy: NDArray[np.float64]
    height: NDArray[np.int32]
    width: NDArray[np.int32]

    @classmethod
    def of(cls, tables: Tables, boxes: NDArray[Any], holder: NDArray[Any]) -> Boxes:
        return cls(boxes.astype(np.float64), tables.images["height"][holder], tables.images["width"][holder])


def sizes(spec: DatasetSpec, asked: Boxes, accepted: Boxes, areas: NDArray[np.int32]) -> Plain:
    """The long sides of boxes of layouts and of accepted masks, as shares of the image's shorter side; and how many
    accepted instances are in each of COCO's three ranges of area."""

    def histogram(boxes: Boxes) -> list[int]:
        sides = (boxes.xyxy[:, 2:] - boxes.xyxy[:, :2]).max(1, initial=0)
        shares = np.clip(sides / np.minimum(boxes.height, boxes.width), 0, EDGES[-1] - 1e-9)
        return _whole(np.histogram(shares, EDGES)[0])

    return {
        "edges": [_round(e) for e in EDGES],
        "wanted": list(spec.layout.size) if spec.layout else None,
        "asked": histogram(asked) if spec.layout else None,
        "accepted": histogram(accepted),
        "coco": {
            "small": int((areas < SMALL).sum()),
            "medium": int(((areas >= SMALL) & (areas < MEDIUM)).sum()),
            "large": int((areas >= MEDIUM).sum()),
        },
    }


def positions(asked: Boxes, accepted: Boxes) -> Plain:
    """The centres of boxes of layouts and of accepted masks, counted in a grid over the image, rows from the top."""

    def grid(boxes: Boxes) -> list[list[int]]:
        x, y = ((boxes.xyxy[:, k] + boxes.xyxy[:, k + 2]) / 2 for k in (0, 1))
        cells = np.histogram2d(y / boxes.height, x / boxes.width, bins=GRID, range=((0, 1), (0, 1)))[0]
        return [_whole(row) for row in cells]

    return {"asked": grid(asked) if len(asked.xyxy) else None, "accepted": grid(accepted)}


def scores(filters: Mapping[str, Filter[Any]], tables: Tables) -> Iterable[Plain]:
    """A histogram of every number that has a threshold, and of every score of labels. The outer bars hold what lies
    beyond the 0.5th and the 99.5th percentile. Hashes and vectors have no histogram."""
    taken = set()
    for name, f in filters.items():
        if isinstance(f, ThresholdFilter):
            taken.add(f.score if isinstance(f, ScoreFilter) else name)
            values = tables.measures[name]
            if f.scope == "instance":
                values = values[~tables.added]
            yield _histogram(name, f.scope, values, f.fails(values), f.config.min, f.config.max)
    for name, values in tables.scores.items():
        if name not in taken:
            values = values[~tables.added]
            yield _histogram(name, "instance", values, np.zeros(len(values), bool), None, None)


def _histogram(
    name: str, scope: str, values: NDArray[Any], failed: NDArray[np.bool_], low: float | None, high: float | None
) -> Plain:
    fine = np.isfinite(values)
    numbers, limits = values[fine].astype(np.float64), [v for v in (low, high) if v is not None]
    ends = [*(np.percentile(numbers, (0.5, 99.5)) if len(numbers) else (0.0, 1.0)), *limits]
    begin, end = min(ends), max(ends)
    edges = np.linspace(begin, end, BINS + 1) if end > begin else np.linspace(begin - 0.5, begin + 0.5, BINS + 1)
    clipped = np.clip(numbers, edges[0], edges[-1])
    return {
        "score": name,
        "scope": scope,
        "min": low,
        "max": high,
        "edges": [_round(e) for e in edges],
        "kept": _whole(np.histogram(clipped[~failed[fine]], edges)[0]),
        "failed": _whole(np.histogram(clipped[failed[fine]], edges)[0]),
        "values": len(values),
        "unmeasured": int((~fine).sum()),
        "fails": int(failed.sum()),
        "median": _round(np.median(numbers)) if len(numbers) else None,
    }


def _round(value: Any) -> float:
    return float(f"{float(value):.6g}")


def _whole(values: NDArray[Any]) -> list[int]:
    return [int(v) for v in values]
