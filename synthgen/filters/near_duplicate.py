"""Images that look like one already kept."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise
from math import comb
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from synthgen.backends import Filter, FilterConfig
from synthgen.types import Sample

_FEW = 512  # that are all compared with each other
_AT_ONCE = 1 << 20  # pairs
# Nanoseconds on an EPYC: to compare with a kept hash, to look one up under a mask, and for each pair that it finds.
_COMPARED, _LOOKED_UP, _FOUND = 3.3, 250.0, 30.0
_MOST = 3  # bands in which hashes agree; with more, there are hundreds of masks

Hashes = NDArray[np.uint64]


class Config(FilterConfig):
    """Options of `near_duplicate`."""

    judged: ClassVar[frozenset[str]] = frozenset({"on_fail", "max_distance"})

    on_fail: Literal["reject"] = Field("reject", description="An image is rejected; it has no other way to fail.")
    max_distance: int = Field(4, ge=0, le=16, description="Bits of 64 that may differ between images called alike.")


class Backend(Filter[Config]):
    """A 64-bit perceptual hash; an image fails within `max_distance` bits of an earlier image that is kept.

    The hash is pHash's: the grey image averaged to 32x32 px, its cosine transform, the 8x8 lowest frequencies but
    the constant row and column, a bit each for being above their median (C. Zauner, "Implementation and Benchmarking
    of Perceptual Image Hash Functions", 2010, section 3.2.1). Blind to colour, brightness and fine detail.
    """

    scope = "image"
    dtype = np.uint64
    whole_dataset = True

    def measure(self, sample: Sample) -> NDArray[Any]:
        """-> uint64 (): the hash, the lowest frequency in the highest bit."""
        import cv2

        grey = cv2.cvtColor(sample.image, cv2.COLOR_RGB2GRAY).astype(np.float64)
        spectrum = cv2.dct(cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA))
        # Rounding keeps the last bits of float arithmetic from deciding where a frequency is absent.
        low = spectrum[1:9, 1:9].round(6)
        return np.asarray(np.packbits(low > np.median(low)).view(">u8")[0], np.uint64)

    def fails(self, values: Hashes) -> NDArray[np.bool_]:
        """Hashes uint64 (M,), in order of id -> bool (M,)."""
        # A second equal hash fails: its twin was kept, or lies near a kept one, which is then near it too.
        _, first = np.unique(values, return_index=True)
        first.sort()
        failed = np.ones(len(values), bool)
        failed[first[_kept(values[first], self.config.max_distance)]] = False
        return failed

    def original(self, values: Hashes, kept: NDArray[np.bool_], place: int) -> int | None:
        """The nearest kept one of those before it."""
        earlier = np.flatnonzero(kept[:place])
        return int(earlier[np.bitwise_count(values[earlier] ^ values[place]).argmin()]) if len(earlier) else None


def _kept(hashes: Hashes, distance: int) -> NDArray[np.bool_]:
    """Which of them are within `distance` of no earlier one that is kept, (M,). Of the second half, those that are near
    none kept in the first are compared with each other: so nothing is compared with what has failed."""
    if len(hashes) <= _FEW:
        near = np.bitwise_count(hashes[:, None] ^ hashes) <= distance
        alive = np.ones(len(hashes), bool)
        for i in np.flatnonzero(np.triu(near, 1).any(1)):
            if alive[i]:
                alive[i + 1 :] &= ~near[i, i + 1 :]
        return alive
    half = len(hashes) // 2
    kept = np.zeros(len(hashes), bool)
    kept[:half] = _kept(hashes[:half], distance)
    rest = half + np.flatnonzero(~_near_any(hashes[half:], hashes[:half][kept[:half]], distance))
    kept[rest] = _kept(hashes[rest], distance)
    return kept


def _near_any(hashes: Hashes, kept: Hashes, distance: int) -> NDArray[np.bool_]:
    """For each of the hashes: is any of `kept` (at least one) within the distance?"""
    near = np.zeros(len(hashes), bool)
    masks = _masks(distance, len(kept))
    for mask in masks:
        left = np.flatnonzero(~near)
        found = _Agreeing.of(hashes[left], kept, mask)
        if found.count * _FOUND > len(left) * len(kept) * _COMPARED:  # so much alike that they share these bits
            masks = []
            break
        for rows, others in found.pairs():
            rows = left[rows]
            near[rows[np.bitwise_count(hashes[rows] ^ kept[others]) <= distance]] = True
    if not masks:
        for start in range(0, len(kept), _FEW):
            left = np.flatnonzero(~near)
            for rows in np.split(left, range(_FEW, len(left), _FEW)):
                differing = np.bitwise_count(hashes[rows, None] ^ kept[start : start + _FEW])
                near[rows] = (differing <= distance).any(1)
    return near


def _masks(distance: int, kept: int) -> list[np.uint64]:
    """Sets of bits, in one of which at least two hashes within the distance agree: of `distance + c` bands of bits, the
    c bands that are left where the others hold all the differences (G. S. Manku et al., "Detecting Near-Duplicates for
    Web Crawling", WWW 2007, section 3). With a larger c there are more sets to look up, and fewer pairs agree that are
    not near: taken is what costs the least for `kept` random hashes. None where comparing with all of them does."""
    costs = {0: _COMPARED * kept}
    for c in range(1, _MOST + 1):
        agree = 2.0 ** (-64 * c / (distance + c))
        costs[c] = comb(distance + c, c) * (_LOOKED_UP + _FOUND * kept * agree)
    chosen = min(costs, key=costs.__getitem__)
    if not chosen:
        return []
    edges = [64 * i // (distance + chosen) for i in range(distance + chosen + 1)]
    bands = [(1 << high) - (1 << low) for low, high in pairwise(edges)]
    return [np.uint64(sum(some)) for some in combinations(bands, chosen)]


@dataclass(frozen=True, slots=True)
class _Agreeing:
    """The pairs of hashes that agree in some bits: row `rows[i]` with `others[begin[i] : begin[i] + counts[i]]`."""

    rows: NDArray[np.intp]
    begin: NDArray[np.intp]
    counts: NDArray[np.intp]
    others: NDArray[np.intp]

    @classmethod
    def of(cls, hashes: Hashes, kept: Hashes, mask: np.uint64) -> Self:
        # Keys are looked up in their order: that stays in the cache, and takes a tenth of the time.
        keys, wanted = kept & mask, hashes & mask
        others, rows = keys.argsort(), wanted.argsort()
        keys, wanted = keys[others], wanted[rows]
        begin = keys.searchsorted(wanted)
        found = keys[np.minimum(begin, len(keys) - 1)] == wanted
        begin = begin[found]
        return cls(rows[found], begin, keys.searchsorted(wanted[found], "right") - begin, others)

    @property
    def count(self) -> int:
        return int(self.counts.sum())

    def pairs(self) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """Places in both, about `_AT_ONCE` at a time."""
        ends, first = self.counts.cumsum(), 0
        while first < len(ends):
            last = max(first + 1, int(ends.searchsorted(ends[first] - self.counts[first] + _AT_ONCE)))
            n = self.counts[first:last]
            within = np.arange(n.sum()) - np.repeat(n.cumsum() - n, n)
            yield np.repeat(self.rows[first:last], n), self.others[np.repeat(self.begin[first:last], n) + within]
            first = last
