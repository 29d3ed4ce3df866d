"""How well each measure tells good labels from bad ones. The spec's filters measure images of known truth with planted
faults in the same way as they measure the images of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synthgen.backends import Filter, ScoreFilter, ThresholdFilter, measured
from synthgen.calibration.faults import KINDS, Planted
from synthgen.errors import SpecError
from synthgen.judging.verdicts import EMPTY
from synthgen.masks import mask_areas
from synthgen.pipeline.check import problems_of, request_of
from synthgen.pipeline.stages import Stages
from synthgen.spec import DatasetSpec

SEES = 0.75  # A measure sees a kind of fault if its AUROC on it is this or more.


@dataclass(frozen=True, slots=True)
class Measured:
    """How one filter judges the planted images.

    Attributes:
        name: the filter's name in the spec.
        keeps: which numbers pass: "above" or "below" a threshold, or "between" two. "unknown": the spec sets no
            threshold, and higher counts as better. "": the filter's numbers have no order.
        auroc: fault -> how well the numbers tell this fault from good labels; only faults for which it is defined.
        caught: fault -> the share of the images with this fault that fail.
        lost: the share of the images without a fault that fail.
        sees: the faults with an AUROC of `SEES` or more.
        threshold: the loosest threshold at which the wanted share of what is kept is good. Only the faults in `sees`
            count as bad. None if there is no such threshold.
        yielded: the share of the good that this threshold keeps; None without a threshold.
    """

    name: str
    keeps: str
    auroc: Mapping[str, float]
    caught: Mapping[str, float]
    lost: float
    sees: tuple[str, ...] = ()
    threshold: float | None = None
    yielded: float | None = None


@dataclass(frozen=True, slots=True)
class Calibration:
    """How all filters judge the planted images.

    Attributes:
        measures: one entry a filter; the last one is `EMPTY`, a reason without a filter.
        caught, lost: as in `Measured`, by any of the filters.
        images: fault -> the number of images with it.
        good: the number of images without a fault.
        precision: the share of good that the thresholds are to reach.
    """

    measures: Sequence[Measured]
    caught: Mapping[str, float]
    lost: float
    images: Mapping[str, int]
    good: int
    precision: float


def checked_stages(spec: DatasetSpec) -> Stages:
    """The spec's backends. Checks the segmenter and the filters, since a calibration uses no others; filters of scores
    of the grounder are left out.

    Raises:
        SpecError: they have problems; lists all.
    """
    stages = Stages.of(spec)
    of_grounder = {n for n, f in stages.filters.items() if isinstance(f, ScoreFilter) and f.given_by}
    stages = replace(stages, filters={n: f for n, f in stages.filters.items() if n not in of_grounder})
    used = {k: stage for k, stage in stages.named().items() if k == "segmenter" or k.startswith("filters.")}
    if problems := problems_of(used, request_of(spec)):
        raise SpecError(problems)
    return stages


def calibrate(filters: Mapping[str, Filter[Any]], planted: Iterable[Planted], precision: float) -> Calibration:
    """Measures planted images with each filter, one image at a time, and keeps only the numbers.

    Args:
        filters: name -> filter.
        planted: the images; each is read once.
        precision: the share of what a threshold keeps that is to be good.

    Raises:
        BackendError: a filter's numbers do not have the shape that its scope needs.
    """
    rows: list[_Row] = []
    values: dict[str, list[NDArray[Any]]] = {name: [] for name in filters}
    for index, item in enumerate(planted):
        empty = bool((mask_areas(item.sample.instances.masks) == 0).any())
        rows.append(_Row(item.fault, item.bad, item.bad_image, index if item.twin is None else item.twin, empty))
        for name, f in filters.items():
            values[name] += measured(name, f, [item.sample])
    clean = np.array([not row.bad_image for row in rows], bool)
    twins = np.array([row.twin for row in rows], int)
    has = {kind: at for kind in KINDS if (at := np.array([row.fault == kind for row in rows], bool)).any()}
    failing = {name: _failing(f, values[name]) for name, f in filters.items()}
    failing[EMPTY] = np.array([row.empty for row in rows], bool)
    together = _together(filters, values, failing)

    def caught(failed: NDArray[np.bool_]) -> dict[str, float]:
        # A run may keep an image or its twin, so a duplicate is caught if either fails.
        either = failed | failed[twins]
        return {kind: _mean(either[at]) for kind, at in has.items()}

    measures = []
    for name, failed in failing.items():
        result = Measured(name, "", {}, caught(failed), _mean(failed[clean]))
        if isinstance(ordered := filters.get(name), ThresholdFilter):
            result = _with_threshold(ordered, result, values[name], rows, precision)
        measures.append(result)
    images = {kind: int(at.sum()) for kind, at in has.items()}
    return Calibration(measures, caught(together), _mean(together[clean]), images, int(clean.sum()), precision)


def auroc(good: Sequence[float], bad: Sequence[float]) -> float:
    """The probability that a good number is above a bad one, where a tie counts half. This is the area under the ROC
    curve (J. A. Hanley and B. J. McNeil, Radiology 143, 1982). Neither sequence may be empty."""
    import pandas as pd

    ranks = pd.Series([*good, *bad], dtype="float64").rank().to_numpy()
    above = ranks[: len(good)].sum() - len(good) * (len(good) + 1) / 2
    return float(above / (len(good) * len(bad)))


@dataclass(frozen=True, slots=True)
class _Row:
    """What a calibration keeps of a planted image.

    Attributes:
        twin: the index of the image that it repeats, or its own index.
        empty: whether one of its masks is empty.
    """

    fault: str
    bad: NDArray[np.bool_]
    bad_image: bool
    twin: int
    empty: bool


def _failing(f: Filter[Any], values: list[NDArray[Any]]) -> NDArray[np.bool_]:
    """bool (images,): which images fail, by themselves or by one of their instances."""
    if f.scope == "instance":
        return np.array([bool(f.fails(numbers).any()) for numbers in values], bool)
    return f.fails(np.stack(values)) if values else np.zeros(0, bool)


def _together(
    filters: Mapping[str, Filter[Any]], values: Mapping[str, list[NDArray[Any]]], failing: Mapping[str, Any]
) -> NDArray[np.bool_]:
    """bool (images,): which images fail by any filter. As in a run, a filter of the whole dataset sees only the images
    that pass all others."""
    failed = np.zeros(len(failing[EMPTY]), bool)
    for name in failing:
        if name not in filters or not filters[name].whole_dataset:
            failed |= failing[name]
    for name, f in filters.items():
        if f.whole_dataset and not failed.all():
            passing = np.flatnonzero(~failed)
            failed[passing[f.fails(np.stack(values[name])[passing])]] = True
    return failed


def _with_threshold(
    f: ThresholdFilter[Any], result: Measured, values: list[NDArray[Any]], rows: Sequence[_Row], precision: float
) -> Measured:
    """Adds AUROC and threshold, which need numbers that have an order."""
    good, bad = _numbers(f, values, rows)
    areas = {kind: auroc(good, bad[kind]) for kind in KINDS if good and bad.get(kind)}
    sees = tuple(kind for kind, area in areas.items() if area >= SEES)
    keeps, threshold, yielded = _keeps(f), None, None
    if sees and keeps != "between":
        threshold, yielded = loosest_threshold(good, [v for kind in sees for v in bad[kind]], precision)
        threshold = -threshold if threshold is not None and keeps == "below" else threshold
    return replace(result, keeps=keeps, auroc=areas, sees=sees, threshold=threshold, yielded=yielded)


def _keeps(f: ThresholdFilter[Any]) -> str:
    low, high = f.config.min is not None, f.config.max is not None
    return ("between" if high else "above") if low else ("below" if high else "unknown")


def _margin(f: ThresholdFilter[Any], numbers: NDArray[Any]) -> NDArray[np.float64]:
    """Numbers turned so that higher is better for the filter. With both limits, this is the distance to the nearer one,
    positive between them. NaN, which could not be measured, becomes the worst."""
    raw = numbers.astype(np.float64)
    keeps = _keeps(f)
    margin = -raw if keeps == "below" else raw
    if keeps == "between":
        margin = np.minimum(raw - f.config.min, f.config.max - raw)
    return np.where(np.isnan(raw), -np.inf, margin)


def _numbers(
    f: ThresholdFilter[Any], values: list[NDArray[Any]], rows: Sequence[_Row]
) -> tuple[list[float], dict[str, list[float]]]:
    """Margins of what is good, and fault -> margins of what is bad: of instances, or of images."""
    good: list[float] = []
    bad: dict[str, list[float]] = {}
    for numbers, row in zip(values, rows, strict=True):
        margins = _margin(f, np.atleast_1d(numbers))
        # If an image is bad and none of its labels is, every label of it counts as bad.
        by_instance = f.scope == "instance" and row.bad.any()
        wrong = row.bad if by_instance else np.full(len(margins), row.bad_image)
        good.extend(margins[~wrong].tolist())
        bad.setdefault(row.fault, []).extend(margins[wrong].tolist())
    return good, bad


def loosest_threshold(
    good: Sequence[float], bad: Sequence[float], precision: float
) -> tuple[float | None, float | None]:
    """The loosest margin at which a share of `precision` of what it keeps is good, and the share of the good that it
    keeps; (None, None) if no margin does."""
    margins = np.array([*good, *bad])
    is_good = np.arange(len(margins)) < len(good)
    order = np.argsort(-margins, kind="stable")
    ordered, kept_good = margins[order], is_good[order].cumsum()
    share = kept_good / np.arange(1, len(margins) + 1)
    last = np.append(ordered[1:] != ordered[:-1], True)  # Equal numbers pass or fail together.
    enough = np.flatnonzero((share >= precision) & last & np.isfinite(ordered))
    if not len(enough):
        return None, None
    return float(ordered[enough[-1]]), float(kept_good[enough[-1]] / len(good))


def _mean(failed: NDArray[np.bool_]) -> float:
    return float(failed.mean()) if len(failed) else 0.0
