"""Numbers of six digits: the same as Python's own formatting gives, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest

from synthgen.exporters._rounding import FEW, rounded

RNG = np.random.default_rng(0)
EDGES = [0.0, -0.0, float("inf"), -1.5, 999999.5, 99999.95, 0.9999995, 0.99999949999, 5e-324, 1e300]
NUMBERS = {
    "scores": RNG.random(20_000).astype(np.float32).astype(float).tolist(),
    "any size": (RNG.choice([-1, 1], 20_000) * 10.0 ** RNG.uniform(-20, 8, 20_000)).tolist(),
    "any bits": RNG.integers(0, 2**64, 20_000, dtype=np.uint64).view(np.float64).tolist(),
    "halves of the last digit": [k / 2e6 for k in range(1, 2_000_000, 101)],
    "around powers of ten": [
        value for k in range(-25, 12) for value in (10.0**k, *np.nextafter(10.0**k, [0, 1e99]))
    ] + EDGES,
    "few": [1 / 3] * (FEW - 1),
}  # fmt: skip


@pytest.mark.parametrize("kind", NUMBERS)
def test_rounding_is_that_of_python(kind: str) -> None:
    values = [float(value) for value in NUMBERS[kind]]
    assert [repr(value) for value in rounded(values)] == [repr(float(f"{value:.6g}")) for value in values]


def test_integers_stay_as_they_are() -> None:
    values = [2**64 - 1, 0.123456789] * FEW
    assert rounded(values) == [2**64 - 1, 0.123457] * FEW
    assert rounded([]) == []
