"""What a report shows of a run, in numbers: the second part of `quality.json`. Plain data, of pandas frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from synthgen.backends import Filter, ScoreFilter, ThresholdFilter
from synthgen.precision import shuffled
from synthgen.spec import DatasetSpec
from synthgen.tables import Tables
from synthgen.verdicts import EMPTY, NOT_MADE, Verdicts

if TYPE_CHECKING:
    import pandas as pd

BINS = 30  # of a score's histogram
EDGES = np.linspace(0, 1, 21)  # of long sides, in shares of the image's shorter side; the last bar holds larger ones
GRID = 8  # cells a side, of positions
SHOWN = 48  # images of a kind
PAIRS = 12  # of near-duplicates
# Areas of COCO's small and medium objects, px: pycocotools, cocoeval.py, `areaRng`.
SMALL, MEDIUM = 32**2, 96**2

Plain = dict[str, Any]


def figures(spec: DatasetSpec, filters: Mapping[str, Filter[Any]], tables: Tables, found: Verdicts) -> Plain:
    """Everything but times, models, and what jobs say of the images that are shown."""
    labels = tables.labels.sort_values(["image_id", "instance"], ignore_index=True)
    labels["verdict"] = found.instances["verdict"].to_numpy()
    labels["category_id"] = found.instances["category_id"].to_numpy()
    accepted = found.images.loc[found.images["verdict"] == "accepted", "image_id"]
    kept = labels[labels["verdict"].eq("kept") & labels["image_id"].isin(accepted)]
    jobs = tables.jobs.sort_values("image_id", ignore_index=True)
    margins = Margins.of(filters, tables.measures)
    return {
        "funnel": list(funnel(filters, found)),
        "asked_found": asked_found(spec, jobs, labels),
        "distributions": {
            "classes": classes(spec, jobs, labels, kept),
            "counts": counts(spec, jobs, kept, accepted),
            "sizes": sizes(spec, jobs, kept),
            "positions": positions(jobs, kept),
        },
        "scores": list(scores(filters, tables.measures, labels)),
        "samples": samples(spec, found, margins),
        "duplicates": duplicates(filters, found),
    }


def funnel(filters: Mapping[str, Filter[Any]], found: Verdicts) -> Iterable[Plain]:
    """Images left after each step. An image leaves at the first of its reasons: `first`; those that have the reason at
    all, and those that have no other, are `images` and `alone`."""
    rejected = found.images.loc[found.images["verdict"] == "rejected", "reasons"]
    first = Counter(reasons[0] for reasons in rejected)
    having = Counter(name for reasons in rejected for name in reasons)
    alone = Counter(reasons[0] for reasons in rejected if len(reasons) == 1)
    left = len(found.images)
    none = {"first": 0, "images": 0, "alone": 0}
    yield {"step": "made", "left": left, **none}
    instances = [n for n, f in filters.items() if f.scope == "instance"]
    images = [n for n, f in filters.items() if f.scope == "image" and not f.whole_dataset]
    whole = [n for n, f in filters.items() if f.whole_dataset]
    reviewed = sorted(name for name in having if name not in {*filters, EMPTY, NOT_MADE})
    for name in (NOT_MADE, EMPTY, *instances, *images, *reviewed, *whole):
        if having[name] or name in filters:
            left -= first[name]
            yield {"step": name, "left": left, "first": first[name], "images": having[name], "alone": alone[name]}
    counts = Counter(found.images["verdict"])
    if counts["surplus"]:
        yield {"step": "surplus", "left": counts["accepted"], **none, "first": counts["surplus"]}
    yield {"step": "accepted", "left": counts["accepted"], **none}


def _exploded(jobs: pd.DataFrame) -> pd.DataFrame:
    """image_id, category_id: a row an asked object."""
    import pandas as pd

    lengths = jobs["asked"].map(len).to_numpy(int)
    asked = np.concatenate([np.zeros(0, np.int64), *map(np.asarray, jobs["asked"])]).astype(np.int64)
    return pd.DataFrame({"image_id": np.repeat(jobs["image_id"].to_numpy(), lengths), "category_id": asked})


def asked_found(spec: DatasetSpec, jobs: pd.DataFrame, labels: pd.DataFrame) -> list[Plain]:
    """How many objects asked for as `asked` were labelled as `found`; null: nothing. Of each image, like goes with
    like; what is left of both is paired in the order of the classes, and the rest has no partner."""
    import pandas as pd

    keys = ["image_id", "category_id"]
    asked = _exploded(jobs).groupby(keys).size().rename("asked")
    found = labels[labels["area"] > 0].groupby(keys).size().rename("found")
    both = pd.concat([asked, found], axis=1).fillna(0).astype(int).sort_index()
    both["same"] = both.min(axis=1)
    names = {c.id: c.name for c in spec.categories}
    cells: Counter[tuple[str | None, str | None]] = Counter()
    same = both.groupby("category_id")["same"].sum()
    for category_id, n in zip(same.index.tolist(), same.tolist(), strict=True):
        cells[names[category_id], names[category_id]] += n
    rest = both[both["asked"] != both["found"]].reset_index()
    sides = []
    for side in ("asked", "found"):
        left = rest.loc[rest.index.repeat(rest[side] - rest["same"]), keys]
        left["place"] = left.groupby("image_id").cumcount()
        sides.append(left.set_index(["image_id", "place"])["category_id"].rename(side))
    paired = pd.concat(sides, axis=1).astype("Int64")
    for a, f in zip(*(paired[side].fillna(0).tolist() for side in ("asked", "found")), strict=True):
        cells[names.get(a), names.get(f)] += 1
    order = {name: i for i, name in enumerate(names.values())}
    listed = sorted(cells.items(), key=lambda cell: [order.get(n or "", len(order)) for n in cell[0]])
    return [{"asked": a, "found": f, "instances": n} for (a, f), n in listed if n]


def classes(spec: DatasetSpec, jobs: pd.DataFrame, labels: pd.DataFrame, kept: pd.DataFrame) -> list[Plain]:
    """Instances by class: of all asked for, labelled and accepted."""
    asked = _exploded(jobs)["category_id"].value_counts()
    labelled = labels.loc[labels["area"] > 0, "category_id"].value_counts()
    accepted = kept["category_id"].value_counts()
    return [
        {
            "class": c.name,
            "asked": int(asked.get(c.id, 0)),
            "labelled": int(labelled.get(c.id, 0)),
            "accepted": int(accepted.get(c.id, 0)),
            "quota": spec.quotas.get(c.id, 0),
        }
        for c in spec.categories
    ]


def counts(spec: DatasetSpec, jobs: pd.DataFrame, kept: pd.DataFrame, accepted: pd.Series[int]) -> list[Plain]:
    """Images by number of objects: the share that the spec wants, asked for in all images, labels in accepted ones."""
    asked = Counter(jobs["asked"].map(len))
    held = kept["image_id"].value_counts()
    have = Counter(held.tolist())
    have[0] += len(accepted) - len(held)
    total = sum(spec.objects_per_image.values())
    every = sorted({*asked, *(n for n, images in have.items() if images), *spec.objects_per_image})
    return [
        {
            "objects": n,
            "wanted": _round(spec.objects_per_image.get(n, 0.0) / total),
            "asked": asked[n],
            "accepted": have[n],
        }
        for n in every
    ]


def _layout_boxes(jobs: pd.DataFrame) -> NDArray[np.float64]:
    """Every asked box with its image's height and width: (N, 6)."""
    rows = jobs[jobs["layout_xyxy"].notna()]
    lengths = rows["layout_xyxy"].map(len).to_numpy(int)
    if not lengths.sum():
        return np.zeros((0, 6))
    boxes = np.concatenate([np.asarray(b, np.float64).reshape(-1, 4) for b in rows["layout_xyxy"] if len(b)])
    return np.column_stack([boxes, np.repeat(rows[["height", "width"]].to_numpy(), lengths, axis=0)])


def _kept_boxes(jobs: pd.DataFrame, kept: pd.DataFrame) -> NDArray[np.float64]:
    size = jobs.set_index("image_id")[["height", "width"]]
    return np.column_stack([kept[["x0", "y0", "x1", "y1"]].to_numpy(float), size.loc[kept["image_id"]].to_numpy(float)])


def sizes(spec: DatasetSpec, jobs: pd.DataFrame, kept: pd.DataFrame) -> Plain:
    """Long sides of boxes, in shares of the image's shorter side: those of layouts, and of accepted masks; and accepted
    instances by COCO's three areas."""

    def histogram(boxes: NDArray[np.float64]) -> list[int]:
        sides = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
        shares = np.clip(sides / boxes[:, 4:].min(1, initial=np.inf), 0, EDGES[-1] - 1e-9)
        return _whole(np.histogram(shares, EDGES)[0])

    asked = _layout_boxes(jobs)
    area = kept["area"].to_numpy()
    return {
        "edges": [_round(e) for e in EDGES],
        "wanted": list(spec.layout.size) if spec.layout else None,
        "asked": histogram(asked) if spec.layout else None,
        "accepted": histogram(_kept_boxes(jobs, kept)),
        "coco": {
            "small": int((area < SMALL).sum()),
            "medium": int(((area >= SMALL) & (area < MEDIUM)).sum()),
            "large": int((area >= MEDIUM).sum()),
        },
    }


def positions(jobs: pd.DataFrame, kept: pd.DataFrame) -> Plain:
    """Centres of boxes in a grid over the image, row by row from the top: of layouts, and of accepted masks."""

    def grid(boxes: NDArray[np.float64]) -> list[list[int]]:
        x, y = (boxes[:, 0] + boxes[:, 2]) / 2 / boxes[:, 5], (boxes[:, 1] + boxes[:, 3]) / 2 / boxes[:, 4]
        cells = np.histogram2d(y, x, bins=GRID, range=((0, 1), (0, 1)))[0]
        return [_whole(row) for row in cells]

    asked = _layout_boxes(jobs)
    return {"asked": grid(asked) if len(asked) else None, "accepted": grid(_kept_boxes(jobs, kept))}


def scores(filters: Mapping[str, Filter[Any]], measures: pd.DataFrame, labels: pd.DataFrame) -> Iterable[Plain]:
    """A histogram of every number that has a threshold or is a label's score. The outer bars hold what lies beyond the
    0.5th and the 99.5th percentile. Hashes and vectors are no scores."""
    taken = set()
    for name, f in filters.items():
        if isinstance(f, ThresholdFilter):
            taken.add(f.score if isinstance(f, ScoreFilter) else name)
            rows = measures[measures["instance"].isna() == (f.scope == "image")]
            values = rows[name].to_numpy(f.dtype)
            yield _histogram(name, f.scope, values, f.fails(values), f.config.min, f.config.max)
    known = {"image_id", "instance", "category_id", "area", "x0", "y0", "x1", "y1", "verdict"}
    for name in labels.columns:
        if name not in known | taken:
            values = labels[name].to_numpy(np.float32)
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


@dataclass(frozen=True)
class Margins:
    """How far each image is from failing, or past it: of all its numbers, the one that is worst off. A number's margin
    is its distance to the threshold in interquartile ranges of its filter's numbers; below 0 it fails. Infinite where
    nothing can be said: below 0 for what could not be measured.

    Attributes:
        frame: image_id -> margin, filter, instance (NA: the image's own), value; images without thresholds have none.
        failed: filter -> image_id -> its worst margin there, of images that fail it.
    """

    frame: pd.DataFrame
    failed: Mapping[str, pd.Series[float]]

    @classmethod
    def of(cls, filters: Mapping[str, Filter[Any]], measures: pd.DataFrame) -> Margins:
        import pandas as pd

        parts, failed = [], {}
        for name, f in filters.items():
            if not isinstance(f, ThresholdFilter) or (f.config.min is None and f.config.max is None):
                continue
            rows = measures.loc[measures["instance"].isna() == (f.scope == "image"), ["image_id", "instance", name]]
            values = rows[name].to_numpy(np.float64)
            numbers = values[np.isfinite(values)]
            spread = float(np.subtract(*np.percentile(numbers, (75, 25)))) if len(numbers) else 0.0
            low = values - (f.config.min if f.config.min is not None else -np.inf)
            high = (f.config.max if f.config.max is not None else np.inf) - values
            scale = spread or (float(np.std(numbers)) if len(numbers) else 0.0) or 1.0
            margin = np.where(np.isfinite(values), np.minimum(low, high) / scale, -np.inf)
            if np.mean(margin == 0) > 0.5:  # a share of 1 where 1 is asked: most are there, and none nearly failed
                margin[margin == 0] = np.inf
            part = pd.DataFrame({"image_id": rows["image_id"], "margin": margin, "filter": name,
                                 "instance": rows["instance"], "value": values})  # fmt: skip
            worst = part.loc[part.groupby("image_id")["margin"].idxmin()]
            parts.append(worst)
            fails = f.fails(worst["value"].to_numpy(f.dtype))
            failed[name] = worst[fails].set_index("image_id")["margin"].sort_values(kind="stable")
        if not parts:
            return cls(pd.DataFrame(columns=["margin", "filter", "instance", "value"]), failed)
        every = pd.concat(parts, ignore_index=True)
        return cls(every.loc[every.groupby("image_id")["margin"].idxmin()].set_index("image_id"), failed)


def samples(spec: DatasetSpec, found: Verdicts, margins: Margins) -> Plain:
    """Images to look at: `worst`, of those rejected for each reason the ones that fail it most; `borderline`, accepted
    and rejected ones nearest to a threshold; `random`, of the accepted ones."""
    import pandas as pd

    verdict = found.images.set_index("image_id")["verdict"]
    reasons = dict(zip(found.images["image_id"], found.images["reasons"], strict=True))
    whole = {n for n, f in found.filters.items() if f.whole_dataset}
    rejected = [i for i in verdict.index[verdict == "rejected"] if not whole.issuperset(reasons[i])]
    queues: dict[str, list[int]] = {}
    for image_id in rejected:  # by reason, in order of id
        for name in reasons[image_id]:
            queues.setdefault(name, []).append(image_id)
    for name, failed in margins.failed.items():
        if name in queues:
            there = set(queues[name])
            queues[name] = [int(i) for i in failed.index if i in there]
    worst: list[int] = []
    for turn in range(SHOWN):
        for queue in queues.values():
            if turn < len(queue) and queue[turn] not in worst and len(worst) < SHOWN:
                worst.append(queue[turn])
    frame = margins.frame
    near = frame.assign(near=frame["margin"].abs())[np.isfinite(frame["margin"].to_numpy(float))]
    near = near.sort_values("near", kind="stable")
    sides = [[int(i) for i in near.index[verdict.reindex(near.index).eq(v)][: SHOWN // 2]]
             for v in ("accepted", "rejected")]  # fmt: skip
    borderline = sorted((i for side in sides for i in side), key=lambda i: float(near["near"][i]))
    accepted = verdict.index[verdict == "accepted"].to_numpy(np.int64)
    chosen = accepted[shuffled(accepted, spec.seed)[:SHOWN]]

    def shown(image_id: int) -> Plain:
        row: Plain = {"image_id": image_id, "verdict": str(verdict[image_id]), "reasons": reasons[image_id]}
        if image_id in frame.index and frame["margin"][image_id] < np.inf:
            at = frame.loc[image_id]
            finite = bool(np.isfinite(at["margin"]))
            row["nearest"] = {
                "filter": at["filter"],
                "instance": None if pd.isna(at["instance"]) else int(at["instance"]),
                "value": _round(at["value"]) if finite else None,
                "margin": _round(at["margin"]) if finite else None,
            }
        return row

    return {
        "worst": [shown(i) for i in worst],
        "borderline": [shown(i) for i in borderline],
        "random": [shown(int(i)) for i in chosen],
    }


def duplicates(filters: Mapping[str, Filter[Any]], found: Verdicts) -> list[Plain]:
    """The first near-duplicates of each filter, beside the image that was kept."""
    pairs: list[Plain] = []
    for name, compared in found.alike.items():
        for place in np.flatnonzero(compared.failed)[:PAIRS]:
            other = filters[name].original(compared.values, ~compared.failed, int(place))
            if other is not None:
                pairs.append({"filter": name, "image_id": int(compared.image_ids[place]),
                              "like": int(compared.image_ids[other])})  # fmt: skip
    return pairs


def _round(value: Any) -> float:
    return float(f"{float(value):.6g}")


def _whole(values: Sequence[Any] | NDArray[Any]) -> list[int]:
    return [int(v) for v in values]
