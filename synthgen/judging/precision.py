"""Label precision: the share of labels that people find right, with its interval, from a random sample of them."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
Z = 1.959963984540054  # of the normal distribution, two-sided, for CONFIDENCE
HALF_WIDTHS = (0.1, 0.05, 0.03, 0.02)


def wilson(right: int, verdicts: int, population: int) -> tuple[float, float]:
    """The interval of a share, at `CONFIDENCE`, from a simple random sample without replacement.

    This is Wilson's score interval (J. Am. Stat. Assoc. 22, 1927, pp. 209-212) for a sample of n (N - 1) / (N - n): so
    many draws with replacement vary as much as n draws without (Cochran, Sampling Techniques, 1977, section 2.6). A
    sample of the whole population has an interval of width 0.

    Raises:
        ValueError: not 0 <= right <= verdicts <= population.
    """
    if not 0 <= right <= verdicts <= population:
        raise ValueError(f"takes 0 <= right <= verdicts <= population, got {right}, {verdicts}, {population}")
    if not verdicts:
        return 0.0, 1.0
    share = right / verdicts
    if verdicts == population:
        return share, share
    centre, half = _score_interval(share, verdicts * (population - 1) / (population - verdicts))
    return max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share))


def _score_interval(share: float, n: float) -> tuple[float, float]:
    """(centre, half width)."""
    spread = sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return (share + Z * Z / (2 * n)) / (1 + Z * Z / n), Z * spread / (1 + Z * Z / n)


def sample_size(half_width: float, population: int, share: float = 0.5) -> int:
    """The number of verdicts that make the interval no wider than ± `half_width` if `share` of them are right. A share
    of one half takes the most."""
    low, high = 1e-9, 1e9
    while high - low > 1e-6 * low:
        n = sqrt(low * high)
        low, high = (low, n) if _score_interval(share, n)[1] <= half_width else (n, high)
    return min(population, ceil(high * population / (population - 1 + high) - 1e-6)) if population else 0


@dataclass(frozen=True, slots=True)
class LabelPrecision:
    """What a review has shown so far.

    Attributes:
        population: the labels that pass the filters, in images that pass them; the sample is drawn from these.
        verdicts: those on the random sample, on labels as they are now.
        right: the verdicts that accept the label.
        share: `right` / `verdicts`; None without verdicts.
        low, high: the interval of the share at `confidence`.
        needed: pairs of a half width and the number of verdicts that surely gives it; the narrowest is last.
    """

    population: int
    verdicts: int
    right: int
    share: float | None
    low: float
    high: float
    confidence: float
    needed: tuple[tuple[float, int], ...]

    @classmethod
    def of(cls, right: int, verdicts: int, population: int) -> LabelPrecision:
        needed = tuple((width, sample_size(width, population)) for width in HALF_WIDTHS)
        share = right / verdicts if verdicts else None
        return cls(population, verdicts, right, share, *wilson(right, verdicts, population), CONFIDENCE, needed)

    @property
    def wanted(self) -> int:
        """The number of verdicts that gives ± 5 %."""
        return dict(self.needed)[0.05]

    def __str__(self) -> str:
        if self.share is None:
            if not self.population:
                return "not reviewed; there are no labels to review"
            return f"not reviewed: {self.wanted} verdicts give ± 5 %"
        interval = f"{100 * self.low:.1f} to {100 * self.high:.1f} %"
        return f"{100 * self.share:.1f} % ({interval}) by {self.verdicts} verdicts on a random sample"


def shuffled(keys: NDArray[np.int64], seed: int) -> NDArray[np.intp]:
    """The indices that put `keys` (N,) in a random order that is always the same. Which of two keys comes first depends
    on the seed and these two alone, so keys can be added or left out without a change in the order of the others. Keys
    are mixed by SplitMix64 (Steele et al., OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        z = keys.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + _mixed(np.uint64(seed % 2**64))
    return np.argsort(_mixed(z), kind="stable")


def _mixed(z: Any) -> Any:
    with np.errstate(over="ignore"):
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
