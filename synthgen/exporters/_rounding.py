"""Numbers of six significant digits, as many as float32 holds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FEW = 64  # for fewer values, NumPy takes longer than Python
_POWERS = np.array([float(10**k) for k in range(23)])  # of ten: all that float64 holds exactly


def rounded(values: Sequence[float]) -> list[float]:
    """Each value as `float(f"{value:.6g}")` is it, many at once. Integers, such as hashes, stay as they are.

    A value times a power of ten is rounded to an integer of six digits and divided by the power. Both are exact, so the
    quotient is the float64 nearest to the decimal number, as Python reads it. A product that is too near to a half to
    be rounded with certainty is formatted.
    """
    if len(values) < FEW or not set(map(type, values)) <= {float}:
        return [value if isinstance(value, int) else _formatted(value) for value in values]
    numbers = np.array(values, np.float64)
    sizes = np.abs(numbers)
    is_usual = (sizes > 1e-16) & (sizes < 1e5)  # neither zero nor NaN, and its power is one of `_POWERS`
    powers = _POWERS[5 - np.floor(np.log10(np.where(is_usual, sizes, 1))).astype(int)]
    products = np.where(is_usual, numbers, 1) * powers
    integers = np.rint(products)
    is_sure = is_usual & (np.abs(products - integers) < 0.4999) & (np.abs(products) >= 1e5) & (np.abs(products) < 1e6)
    found: list[float] = (integers / powers).tolist()
    for i in np.flatnonzero(~is_sure).tolist():
        found[i] = _formatted(values[i])
    return found


def _formatted(value: float) -> float:
    return float(f"{value:.6g}")
