"""Distances of distributions whose values are known."""

from __future__ import annotations

import numpy as np
import pytest

from synthgen.dataset.distributions import Shares, Spread, Tally


def test_total_variation() -> None:
    assert Shares.of({"cup": 3, "car": 1}, {"cup": 6, "car": 2}).total_variation == 0
    assert Shares.of({"cup": 3, "car": 1}, {"car": 1, "cat": 3}).total_variation == 0.75
    assert Shares.of({"cup": 1}, {"cat": 5}) == Shares({"cup": (1, 0), "cat": (0, 5)}, 1)
    assert Shares.of({"cup": 1}, {"cup": 0}).total_variation is None


def test_wasserstein() -> None:
    rng = np.random.default_rng(0)
    values = rng.random(1000).astype(np.float32)
    assert Spread.of(values, rng.permutation(values)).wasserstein == 0
    assert Spread.of(values, values + np.float32(0.5)).wasserstein == pytest.approx(0.5, abs=1e-6)
    # A quarter of the mass moves by 2.
    assert Spread.of(np.float32([1, 1, 1, 1]), np.float32([1, 3, 1, 1])).wasserstein == 0.5
    assert Spread.of(np.float32([0, 1]), np.float32([0, 0, 1, 1, 1, 1])).wasserstein == pytest.approx(1 / 6)
    empty = Spread.of(values, values[:0])
    assert (empty.wasserstein, empty.b, empty.counts) == (None, (), (1000, 0))


def test_quantiles() -> None:
    assert Spread.of(np.arange(101, dtype=np.float32), np.float32([7])).a == (5, 25, 50, 75, 95)


def test_sizes_of_coco() -> None:
    tally = Tally()
    for area in (1, 1023, 1024, 9215, 9216):
        tally.add("cup", area, False, {"iou": 0.5, "clip": None, "nan": float("nan")})
    tally.add("cup", 5, True, {"iou": 0.25})
    assert dict(tally.sizes) == {"small": 2, "medium": 2, "large": 1}
    assert (tally.classes["cup"], tally.ignored, tally.values("iou").tolist()) == (5, 1, [0.5] * 5)
    assert len(tally.values("clip")) == len(tally.values("nan")) == 0
