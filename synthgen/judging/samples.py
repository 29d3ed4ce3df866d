"""The images that a report shows: a few of each kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synthgen.backends import Filter, ThresholdFilter
from synthgen.judging.precision import shuffled
from synthgen.judging.tables import Tables
from synthgen.judging.verdicts import Verdicts

SHOWN = 48  # images of a kind
PAIRS = 12  # of near-duplicates

Plain = dict[str, Any]


@dataclass(frozen=True)
class Margins:
    """How far each image is from failing, by its worst number. A number's margin is its distance to the threshold,
    in interquartile ranges of its filter's numbers; below 0 it fails. A number that could not be measured has minus
    infinity, and an image without thresholds infinity.

    Attributes:
        margin: float64 (N,).
        value: float64 (N,), that number.
        filter: int16 (N,), the index of its filter in the spec; -1 for an image without thresholds.
        label: int32 (N,), the index of its label; -1 for a number of the image.
        failed: filter -> the indices of the images that fail it, the worst first.
    """

    margin: NDArray[np.float64]
    value: NDArray[np.float64]
    filter: NDArray[np.int16]
    label: NDArray[np.int32]
    failed: Mapping[str, NDArray[np.int32]]

    @classmethod
    def of(cls, filters: Mapping[str, Filter[Any]], tables: Tables) -> Margins:
        count = len(tables.images["image_id"])
        found = cls(np.full(count, np.inf), np.full(count, np.nan), np.full(count, -1, np.int16),
                    np.full(count, -1, np.int32), failed := {})  # fmt: skip
        begins = np.flatnonzero(np.diff(tables.holder, prepend=-1))
        for number, (name, f) in enumerate(filters.items()):
            if not isinstance(f, ThresholdFilter) or (f.config.min is None and f.config.max is None):
                continue
            values = tables.measures[name].astype(np.float64)
            margin = _margins(values, f.config.min, f.config.max)
            label, place = np.full(count, -1, np.int32), np.arange(count, dtype=np.int32)
            if f.scope == "instance":
                margin[tables.added] = np.inf  # They were not measured.
                # Each image that has labels has the margin of the first of its worst labels.
                place = tables.holder[begins]
                worst = np.minimum.reduceat(margin, begins) if len(begins) else margin
                lengths = np.diff(begins, append=len(margin))
                row = np.flatnonzero(margin == np.repeat(worst, lengths))
                label = row[row.searchsorted(begins)].astype(np.int32)
                values, margin = values[label], worst
            fails = np.flatnonzero(f.fails(values.astype(f.dtype)))
            failed[name] = place[fails[margin[fails].argsort(kind="stable")]]
            worse = (margin < found.margin[place]) | (found.filter[place] < 0)
            place = place[worse]
            found.margin[place], found.value[place], found.label[place] = margin[worse], values[worse], label[worse]
            found.filter[place] = number
        return found


def _margins(values: NDArray[np.float64], low: float | None, high: float | None) -> NDArray[np.float64]:
    numbers = values[np.isfinite(values)]
    spread = float(np.subtract(*np.percentile(numbers, (75, 25)))) if len(numbers) else 0.0
    scale = spread or (float(np.std(numbers)) if len(numbers) else 0.0) or 1.0
    above = values - (low if low is not None else -np.inf)
    below = (high if high is not None else np.inf) - values
    margin = np.where(np.isfinite(values), np.minimum(above, below) / scale, -np.inf)
    # A share of 1 is typical where 1 is asked: most numbers are at the threshold, and none of them nearly failed.
    if 2 * np.count_nonzero(margin == 0) > len(margin):
        margin[margin == 0] = np.inf
    return margin


def samples(verdicts: Verdicts, margins: Margins) -> Plain:
    """Images to look at. `worst`: for each reason, the rejected images that fail it most. `borderline`: the accepted
    and the rejected images nearest to a threshold. `random`: some accepted images."""
    tables, sets, names = verdicts.tables, verdicts.image_reasons, [*verdicts.filters]
    ids = tables.images["image_id"]
    accepted = np.flatnonzero(verdicts.image_is("accepted"))
    queues: dict[str, NDArray[Any]] = {}
    for name in verdicts.reasons.names:
        if name not in verdicts.filters or not verdicts.filters[name].whole_dataset:
            has = sets & verdicts.reasons.bits(name) != 0
            if has.any():  # by reason, in order of id
                failed = margins.failed.get(name)
                queues[name] = np.flatnonzero(has) if failed is None else failed[has[failed]]
    # The reasons take turns; the one of the first image begins.
    turns = sorted(queues.values(), key=lambda queue: int(queue.min()))
    worst: list[int] = []
    for turn in range(SHOWN):
        for queue in turns:
            if turn < len(queue) and queue[turn] not in worst and len(worst) < SHOWN:
                worst.append(int(queue[turn]))
    finite = np.flatnonzero(np.isfinite(margins.margin))
    near = finite[np.abs(margins.margin[finite]).argsort(kind="stable")]
    sides = [near[verdicts.image_is(verdict)[near]][: SHOWN // 2] for verdict in ("accepted", "rejected")]
    borderline = np.concatenate(sides)
    borderline = borderline[np.abs(margins.margin[borderline]).argsort(kind="stable")]
    chosen = accepted[shuffled(ids[accepted], verdicts.spec.seed)[:SHOWN]]

    def shown(place: int) -> Plain:
        row: Plain = {
            "image_id": int(ids[place]),
            "verdict": str(verdicts.images["verdict"].iloc[place]),
            "reasons": verdicts.reasons.listed(sets[place]),
        }
        if margins.filter[place] >= 0 and margins.margin[place] < np.inf:
            measured, label = bool(np.isfinite(margins.margin[place])), margins.label[place]
            row["nearest"] = {
                "filter": names[margins.filter[place]],
                "instance": None if label < 0 else int(tables.labels["instance"][label]),
                "value": _round(margins.value[place]) if measured else None,
                "margin": _round(margins.margin[place]) if measured else None,
            }
        return row

    return {
        "worst": [shown(place) for place in worst],
        "borderline": [shown(place) for place in borderline.tolist()],
        "random": [shown(place) for place in chosen.tolist()],
    }


def duplicates(verdicts: Verdicts) -> list[Plain]:
    """The first near-duplicates of each filter, each with the image that was kept instead."""
    pairs: list[Plain] = []
    for name, compared in verdicts.compared.items():
        for place in np.flatnonzero(compared.failed)[:PAIRS]:
            other = verdicts.filters[name].original(compared.values, ~compared.failed, int(place))
            if other is not None:
                pairs.append({"filter": name, "image_id": int(compared.image_ids[place]),
                              "like": int(compared.image_ids[other])})  # fmt: skip
    return pairs


def _round(value: Any) -> float:
    return float(f"{float(value):.6g}")
