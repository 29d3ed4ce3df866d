"""Images that look like one already kept."""

from collections.abc import Iterator
from itertools import combinations, pairwise
from math import comb
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from synthgen.backends import Filter, FilterConfig
from synthgen.types import Sample

_AT_ONCE = 1 << 16  # pairs that are Python's at a time
_FEW = 512  # that are all compared with each other
# Nanoseconds on an EPYC: to compare with another hash, to sort one under a mask, and for each pair that it finds there.
_COMPARED, _SORTED, _FOUND = 3.3, 25.0, 30.0
_BANDS = (2, 3)  # in which hashes are to agree: those of images agree in one far more than chance has it
_PAIRS = 16  # an image, that are looked at; where there are more, a half is judged before the other
_MIX = np.uint64(0x9E3779B97F4A7C15)  # odd: brings each bit of a product's factor into its highest ones

Hashes = NDArray[np.uint64]


class Config(FilterConfig):
    """Options of `near_duplicate`."""

    judged: ClassVar[frozenset[str]] = frozenset({"on_fail", "max_distance"})

    on_fail: Literal["reject"] = Field("reject", description="An image is rejected; it has no other way to fail.")
    max_distance: int = Field(
        4, ge=0, le=16, description="Images are alike if at most so many of the 64 bits of their hashes differ."
    )


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
    """Which of them are within `distance` of no earlier one that is kept, (M,). Where too many are alike to look at all
    their pairs, what is near a kept one of the first half is first taken out of the second."""
    pairs = near_pairs(hashes, distance)
    if pairs is not None:
        alive = [True] * len(hashes)
        for start in range(0, len(pairs), _AT_ONCE):
            for later, earlier in pairs[start : start + _AT_ONCE].tolist():
                if alive[earlier]:
                    alive[later] = False
        return np.array(alive, bool)
    half = len(hashes) // 2
    kept = np.zeros(len(hashes), bool)
    kept[:half] = _kept(hashes[:half], distance)
    rest = half + np.flatnonzero(~_near_any(hashes[half:], hashes[:half][kept[:half]], distance))
    kept[rest] = _kept(hashes[rest], distance)
    return kept


def near_pairs(hashes: Hashes, distance: int) -> NDArray[np.intp] | None:
    """The places of any two within the distance, (P, 2), in order, the later one first; None: there are too many."""
    count = len(hashes)
    if count <= _FEW:
        return np.argwhere(np.tril(np.bitwise_count(hashes[:, None] ^ hashes) <= distance, -1))
    if not (masks := bit_masks(distance, count)):
        return None
    found, left = [], _PAIRS * count
    for mask in masks:
        for later, earlier in agreeing(hashes, mask):
            left -= len(later)
            if left < 0:
                return None
            near = np.bitwise_count(hashes[later] ^ hashes[earlier]) <= distance
            found.append(later[near] * count + earlier[near])
    return np.stack(np.divmod(np.unique(np.concatenate([np.zeros(0, np.intp), *found])), count), 1)


def _near_any(hashes: Hashes, kept: Hashes, distance: int) -> NDArray[np.bool_]:
    """For each of the hashes: is any of `kept` (at least one) within the distance?"""
    near = np.zeros(len(hashes), bool)
    masks = bit_masks(distance, len(hashes) + len(kept))
    budget = len(hashes) * len(kept) * _COMPARED / _FOUND if masks else -1
    for mask in masks:
        left = np.flatnonzero(~near)
        every = np.concatenate([kept, hashes[left]])
        for later, earlier in agreeing(every, mask, len(kept)):
            budget -= len(later)
            if budget < 0:
                break
            near[left[later[np.bitwise_count(every[later] ^ every[earlier]) <= distance] - len(kept)]] = True
    if budget < 0:  # comparing with all of them is no dearer
        for start in range(0, len(kept), _FEW):
            left = np.flatnonzero(~near)
            for rows in np.split(left, range(_FEW, len(left), _FEW)):
                differing = np.bitwise_count(hashes[rows, None] ^ kept[start : start + _FEW])
                near[rows] = (differing <= distance).any(1)
    return near


def bit_masks(distance: int, count: int) -> list[np.uint64]:
    """Sets of bits, in one of which at least two hashes within the distance agree: of `distance + c` bands of bits, the
    c bands that are left where the others hold all the differences (G. S. Manku et al., "Detecting Near-Duplicates for
    Web Crawling", WWW 2007, section 3). With a larger c there are more sets, and fewer pairs agree that are not near:
    taken is what costs the least for so many random hashes. None where comparing each with all does."""
    costs = {0: _COMPARED * count}
    for c in _BANDS:
        agree = 2.0 ** (-64 * c / (distance + c))
        costs[c] = comb(distance + c, c) * (_SORTED + _FOUND * count * agree)
    chosen = min(costs, key=costs.__getitem__)
    if not chosen:
        return []
    edges = [64 * i // (distance + chosen) for i in range(distance + chosen + 1)]
    bands = [(1 << high) - (1 << low) for low, high in pairwise(edges)]
    return [np.uint64(sum(some)) for some in combinations(bands, chosen)]


def agreeing(hashes: Hashes, mask: np.uint64, known: int = 0) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """The places of any two that agree in these bits, the later and the earlier, at most one pair a hash at a time; and
    of a few that only their products have together. `known`: of the first of them only with the others."""
    # A number is sorted in a fifth of the time that it takes to find its place, so the place is in its lowest bits.
    low = np.uint64((1 << len(hashes).bit_length()) - 1)
    keys = ((hashes & mask) * _MIX & ~low) | np.arange(len(hashes), dtype=np.uint64)
    keys.sort()
    place = (keys & low).astype(np.intp)
    begins = np.diff(keys & ~low, prepend=~keys[:1]) != 0
    first = np.maximum.accumulate(np.where(begins, np.arange(len(keys)), 0))
    at = np.flatnonzero(~begins & (place >= known))
    other = first[at]
    while len(at := at[there := (other < at) & (place[other] < (known or len(keys)))]):
        other = other[there]
        yield place[at], place[other]
        other = other + 1
