"""How well each measure tells good labels from bad ones, in images of known truth with planted faults: the spec's
filters measure all of it as they would measure a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synthgen.backends import Filter, ThresholdFilter, measured
from synthgen.calibration.faults import KINDS, Planted
from synthgen.errors import SpecError
from synthgen.judging.verdicts import EMPTY
from synthgen.masks import mask_areas
from synthgen.pipeline.check import problems_of, request_of
from synthgen.pipeline.stages import Stages
from synthgen.spec import DatasetSpec

SEES = 0.75  # AUROC from which a measure is said to see a kind of fault


@dataclass(frozen=True, slots=True)
class Measured:
    """What a filter makes of the planted images.

    Attributes:
        name: the filter's, in the spec.
        keeps: "above" or "below" its threshold, "between" two; "unknown" where the spec sets none, and then higher
            counts as better; "" where its numbers have no order.
        auroc: fault -> how well its numbers tell that fault from good labels; no entry where it cannot be said.
        caught: fault -> share of the images with it that fail.
        lost: share of the images without fault that fail.
        sees: the faults with an AUROC of `SEES` or more.
        threshold, yielded: the loosest threshold at which the wanted share of what is kept is good, counting as bad
            only what it sees, and the share of what is good that it keeps; None where there is no such threshold.
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
    """Of all filters, and `EMPTY` the last, which is a reason without one. `caught` and `lost` are of all together;
    `images`: fault -> how many; `good`: how many have none."""

    measures: Sequence[Measured]
    caught: Mapping[str, float]
    lost: float
    images: Mapping[str, int]
    good: int
    precision: float


def prepared(spec: DatasetSpec) -> Stages:
    """The spec's backends, of which the segmenter and the filters have been checked: nothing else is used.

    Raises:
        SpecError: with every problem found.
    """
    stages = Stages.of(spec)
    used = {k: stage for k, stage in stages.named().items() if k == "segmenter" or k.startswith("filters.")}
    if problems := problems_of(used, request_of(spec)):
        raise SpecError(problems)
    return stages


def calibrate(filters: Mapping[str, Filter[Any]], planted: Iterable[Planted], precision: float) -> Calibration:
    """Measures planted images by each filter, one at a time; numbers only are kept. `precision`: the share of good
    wanted in what is kept.

    Raises:
        BackendError: a filter's numbers have not the shape that its scope asks for.
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
        # Of an image and its twin one may stay, so it is enough that either fails.
        either = failed | failed[twins]
        return {kind: _mean(either[at]) for kind, at in has.items()}

    measures = []
    for name, failed in failing.items():
        plain = Measured(name, "", {}, caught(failed), _mean(failed[clean]))
        if isinstance(own := filters.get(name), ThresholdFilter):
            plain = _judged(own, plain, values[name], rows, precision)
        measures.append(plain)
    images = {kind: int(at.sum()) for kind, at in has.items()}
    return Calibration(measures, caught(together), _mean(together[clean]), images, int(clean.sum()), precision)


def auroc(good: Sequence[float], bad: Sequence[float]) -> float:
    """The probability that a good number is above a bad one, ties counting half: the area under the ROC curve (J. A.
    Hanley and B. J. McNeil, Radiology 143, 1982). Neither may be empty."""
    import pandas as pd

    ranks = pd.Series([*good, *bad], dtype="float64").rank().to_numpy()
    above = ranks[: len(good)].sum() - len(good) * (len(good) + 1) / 2
    return float(above / (len(good) * len(bad)))


@dataclass(frozen=True, slots=True)
class _Row:
    """What is kept of a planted image; `twin`: its own place where it repeats none."""

    fault: str
    bad: NDArray[np.bool_]
    bad_image: bool
    twin: int
    empty: bool


def _failing(f: Filter[Any], values: list[NDArray[Any]]) -> NDArray[np.bool_]:
    """Which images fail, by themselves or by one of their instances."""
    if f.scope == "instance":
        return np.array([bool(f.fails(own).any()) for own in values], bool)
    return f.fails(np.stack(values)) if values else np.zeros(0, bool)


def _together(
    filters: Mapping[str, Filter[Any]], values: Mapping[str, list[NDArray[Any]]], failing: Mapping[str, Any]
) -> NDArray[np.bool_]:
    """Which images fail by any filter. As in a run, those of the whole dataset see only what passes all before."""
    failed = np.zeros(len(failing[EMPTY]), bool)
    for name in failing:
        if name not in filters or not filters[name].whole_dataset:
            failed |= failing[name]
    for name, f in filters.items():
        if f.whole_dataset and not failed.all():
            passing = np.flatnonzero(~failed)
            failed[passing[f.fails(np.stack(values[name])[passing])]] = True
    return failed


def _judged(
    f: ThresholdFilter[Any], plain: Measured, values: list[NDArray[Any]], rows: Sequence[_Row], precision: float
) -> Measured:
    """With what only ordered numbers tell."""
    good, bad = _numbers(f, values, rows)
    areas = {kind: auroc(good, bad[kind]) for kind in KINDS if good and bad.get(kind)}
    sees = tuple(kind for kind, area in areas.items() if area >= SEES)
    keeps, threshold, yielded = _keeps(f), None, None
    if sees and keeps != "between":
        threshold, yielded = loosest_threshold(good, [v for kind in sees for v in bad[kind]], precision)
        threshold = -threshold if threshold is not None and keeps == "below" else threshold
    return replace(plain, keeps=keeps, auroc=areas, sees=sees, threshold=threshold, yielded=yielded)


def _keeps(f: ThresholdFilter[Any]) -> str:
    low, high = f.config.min is not None, f.config.max is not None
    return ("between" if high else "above") if low else ("below" if high else "unknown")


def _margin(f: ThresholdFilter[Any], numbers: NDArray[Any]) -> NDArray[np.float64]:
    """Numbers as they count for a filter, the better the higher. One with both limits has them on both sides; what
    could not be measured (NaN) is the worst."""
    plain = numbers.astype(np.float64)
    keeps = _keeps(f)
    margin = -plain if keeps == "below" else plain
    if keeps == "between":
        margin = np.minimum(plain - f.config.min, f.config.max - plain)
    return np.where(np.isnan(plain), -np.inf, margin)


def _numbers(
    f: ThresholdFilter[Any], values: list[NDArray[Any]], rows: Sequence[_Row]
) -> tuple[list[float], dict[str, list[float]]]:
    """Margins of what is good, and by fault those of what is bad: of instances, or of images."""
    good: list[float] = []
    bad: dict[str, list[float]] = {}
    for own, row in zip(values, rows, strict=True):
        margins = _margin(f, np.atleast_1d(own))
        # Of a bad image whose labels are as they were, all of it counts as bad.
        own_bad = f.scope == "instance" and row.bad.any()
        wrong = row.bad if own_bad else np.full(len(margins), row.bad_image)
        good.extend(margins[~wrong].tolist())
        bad.setdefault(row.fault, []).extend(margins[wrong].tolist())
    return good, bad


def loosest_threshold(
    good: Sequence[float], bad: Sequence[float], precision: float
) -> tuple[float | None, float | None]:
    """The loosest margin at which `precision` of what is kept is good, and the share of the good that it keeps."""
    margins = np.array([*good, *bad])
    is_good = np.arange(len(margins)) < len(good)
    order = np.argsort(-margins, kind="stable")
    ordered, kept_good = margins[order], is_good[order].cumsum()
    share = kept_good / np.arange(1, len(margins) + 1)
    last = np.append(ordered[1:] != ordered[:-1], True)  # equal numbers are kept or not together
    enough = np.flatnonzero((share >= precision) & last & np.isfinite(ordered))
    if not len(enough):
        return None, None
    return float(ordered[enough[-1]]), float(kept_good[enough[-1]] / len(good))


def _mean(failed: NDArray[np.bool_]) -> float:
    return float(failed.mean()) if len(failed) else 0.0
