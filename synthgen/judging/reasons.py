"""Why images and labels are not kept: names in a fixed order, and any set of them as the bits of one number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Bits = NDArray[np.uint64]


@dataclass(frozen=True)
class Reasons:
    """At most 64 names. The name at index k is bit k of a set; a list of reasons begins with the lowest bit."""

    names: tuple[str, ...]

    def bits(self, *names: str) -> np.uint64:
        """The set of these names."""
        return np.uint64(sum(1 << self.names.index(name) for name in set(names)))

    def listed(self, bits: int | np.uint64) -> list[str]:
        return [name for k, name in enumerate(self.names) if int(bits) >> k & 1]

    def having(self, sets: Bits, weights: NDArray[Any] | None = None) -> dict[str, int]:
        """How many of the sets hold each name, or the sum of their weights. Names that no set holds are left out."""
        found: dict[str, int] = {}
        every = int(np.bitwise_or.reduce(sets, initial=np.uint64(0)))
        for name in self.listed(every):
            has = sets & self.bits(name) != 0
            found[name] = int(has.sum() if weights is None else weights[has].sum())
        return found

    def table(self, sets: Bits) -> pa.ListArray:
        """A list of names for each set."""
        ends = np.bitwise_count(sets).cumsum(dtype=np.int32)
        codes = np.zeros(ends[-1] if len(ends) else 0, np.int8)
        full = np.flatnonzero(sets)
        place, left = ends[full] - np.bitwise_count(sets[full]), sets[full]
        while len(left):
            codes[place] = np.bitwise_count(~left & (left - np.uint64(1)))  # the place of the lowest bit
            left &= left - np.uint64(1)
            more = left != 0
            place, left = place[more] + 1, left[more]
        names = pa.DictionaryArray.from_arrays(codes, pa.array(self.names, pa.string())).cast(pa.string())
        return pa.ListArray.from_arrays(np.concatenate([np.zeros(1, np.int32), ends]), names)


def lowest(sets: Bits) -> Bits:
    """The first name of each set, as a set."""
    return sets & (~sets + np.uint64(1))


def gathered(sets: Bits, holder: NDArray[np.integer[Any]], count: int) -> Bits:
    """The union of the sets of each of `count` groups. `holder`: the group of each set."""
    found = np.zeros(count, np.uint64)
    np.bitwise_or.at(found, holder, sets)
    return found
