"""How the objects of two datasets are distributed over classes, sizes and scores, and how far the two are apart."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# COCO's sizes: the area from which an object has the size, px. https://cocodataset.org/#detection-eval
SIZES = {"small": 0, "medium": 32**2, "large": 96**2}


@dataclass(frozen=True, slots=True)
class Shares:
    """Counts of two datasets by some names.

    Attributes:
        counts: name -> the numbers in A and in B.
        total_variation: their distance: half the sum of the differences of the shares, from 0 (the same shares) to 1
            (nothing in common). D. A. Levin, Y. Peres, Markov Chains and Mixing Times, 2nd edition, 2017, section 4.1.
            None if A or B has nothing to count.
    """

    counts: Mapping[str, tuple[int, int]]
    total_variation: float | None

    @classmethod
    def of(cls, a: Mapping[str, int], b: Mapping[str, int]) -> Shares:
        counts = {name: (a.get(name, 0), b.get(name, 0)) for name in {**a, **b}}
        in_a, in_b = sum(a.values()), sum(b.values())
        if not in_a or not in_b:
            return cls(counts, None)
        return cls(counts, sum(abs(x / in_a - y / in_b) for x, y in counts.values()) / 2)


@dataclass(frozen=True, slots=True)
class Spread:
    """The values of one score in two datasets.

    Attributes:
        counts: the numbers of values in A and in B.
        a, b: the `QUANTILES` of each; empty without values.
        wasserstein: their distance: the area between the two cumulative distributions, in units of the score. If all
            values rise by 0.1, it is 0.1. A. Ramdas, N. García Trillos, M. Cuturi, On Wasserstein Two-Sample Testing,
            Entropy 19(2), 2017, section 4. None if A or B has no values.
    """

    counts: tuple[int, int]
    a: tuple[float, ...]
    b: tuple[float, ...]
    wasserstein: float | None

    @classmethod
    def of(cls, a: NDArray[np.float32], b: NDArray[np.float32]) -> Spread:
        a, b = np.sort(a), np.sort(b)
        distance = _wasserstein(a, b) if len(a) and len(b) else None
        return cls((len(a), len(b)), _quantiles(a), _quantiles(b), distance)


def _quantiles(values: NDArray[np.float32]) -> tuple[float, ...]:
    return tuple(np.quantile(values, QUANTILES).tolist()) if len(values) else ()


def _wasserstein(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Of two sorted lists of values."""
    steps = np.sort(np.concatenate([a, b]))
    below_a, below_b = (np.searchsorted(v, steps[:-1], "right") / len(v) for v in (a, b))
    return float(np.abs(below_a - below_b) @ np.diff(steps.astype(np.float64)))


@dataclass(slots=True)
class Tally:
    """The objects of one dataset, counted as they are read. Objects to be ignored count as such alone."""

    ignored: int = 0
    classes: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(SIZES, 0)))
    scores: dict[str, array[float]] = field(default_factory=dict)

    def add(self, category: str, area: float, ignore: bool, scores: Mapping[str, float | None]) -> None:
        if ignore:
            self.ignored += 1
            return
        self.classes[category] += 1
        self.sizes["small" if area < SIZES["medium"] else "medium" if area < SIZES["large"] else "large"] += 1
        for name, value in scores.items():
            if value is not None and value == value:  # null in a COCO file, NaN in a run: it could not be measured
                if name not in self.scores:
                    self.scores[name] = array("f")
                self.scores[name].append(value)

    def values(self, score: str) -> NDArray[np.float32]:
        return np.frombuffer(self.scores.get(score, array("f")), np.float32)
