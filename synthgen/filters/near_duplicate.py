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

_AT_ONCE = 1 << 16  # pairs that are Python objects at a time, which bounds the memory
_FEW = 512  # up to so many hashes, each is compared with all others
# Nanoseconds on an EPYC: comparing two hashes, sorting one hash under a mask, and handling each pair that agrees there.
_COMPARED, _SORTED, _FOUND = 3.3, 25.0, 30.0
_BANDS = (2, 3)  # numbers of bands that must agree; one is too few: hashes of images agree in one more than by chance
_PAIRS = 16  # pairs per image that are compared; if there are more, the first half is judged before the second
_MIX = np.uint64(0x9E3779B97F4A7C15)  # an odd number: multiplying by it mixes every bit into the highest bits

Hashes = NDArray[np.uint64]


class Config(FilterConfig):
    """Options of `near_duplicate`."""

    judged: ClassVar[frozenset[str]] = frozenset({"on_fail", "max_distance"})

    on_fail: Literal["reject"] = Field("reject", description="An image is rejected; it has no other way to fail.")
    max_distance: int = Field(
        4, ge=0, le=16, description="Images are alike if at most this many of the 64 bits of their hashes differ."
    )


class Backend(Filter[Config]):
    """A 64-bit perceptual hash; an image fails within `max_distance` bits of an earlier image that is kept.

    The hash is pHash's: the grey image is averaged to 32x32 px and transformed by a cosine transform. Each of the 8x8
    lowest frequencies, without the constant row and column, gives a bit: whether it is above their median (C. Zauner,
    "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010, section 3.2.1). The hash ignores colour,
    brightness and fine detail.
    """

    scope = "image"
    dtype = np.uint64
    whole_dataset = True

    def measure(self, sample: Sample) -> NDArray[Any]:
        """-> uint64 (): the hash, the lowest frequency in the highest bit."""
        import cv2

        grey = cv2.cvtColor(sample.image, cv2.COLOR_RGB2GRAY).astype(np.float64)
        spectrum = cv2.dct(cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA))
        # Without rounding, the last bits of float arithmetic would decide the bit of a frequency that is absent.
        low = spectrum[1:9, 1:9].round(6)
        return np.asarray(np.packbits(low > np.median(low)).view(">u8")[0], np.uint64)

    def fails(self, values: Hashes) -> NDArray[np.bool_]:
        """Hashes uint64 (M,), in order of id -> bool (M,)."""
        # A hash that equals an earlier one fails: the earlier one is kept, or lies near a kept one that is near both.
        _, first = np.unique(values, return_index=True)
        first.sort()
        failed = np.ones(len(values), bool)
        failed[first[_kept(values[first], self.config.max_distance)]] = False
        return failed

    def original(self, values: Hashes, kept: NDArray[np.bool_], place: int) -> int | None:
        """The nearest of the earlier images that are kept."""
        earlier = np.flatnonzero(kept[:place])
        return int(earlier[np.bitwise_count(values[earlier] ^ values[place]).argmin()]) if len(earlier) else None


def _kept(hashes: Hashes, distance: int) -> NDArray[np.bool_]:
    """Which hashes are kept, (M,): those that are not within `distance` of an earlier one that is kept. If there are
    too many pairs, the first half is judged first, and the hashes of the second half that are near its kept ones
    fail."""
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
    """Positions of all pairs within the distance, (P, 2), sorted, the later one first; None if there are too many."""
    count = len(hashes)
    if count <= _FEW:
        return np.argwhere(np.tril(np.bitwise_count(hashes[:, None] ^ hashes) <= distance, -1))
    if not (masks := bit_masks(distance, count)):
        return None
    pairs, budget = [], _PAIRS * count
    for mask in masks:
        for later, earlier in agreeing(hashes, mask):
            budget -= len(later)
            if budget < 0:
                return None
            near = np.bitwise_count(hashes[later] ^ hashes[earlier]) <= distance
            pairs.append(later[near] * count + earlier[near])
    return np.stack(np.divmod(np.unique(np.concatenate([np.zeros(0, np.intp), *pairs])), count), 1)


def _near_any(hashes: Hashes, kept: Hashes, distance: int) -> NDArray[np.bool_]:
    """Whether any of `kept` (at least one) is within the distance of each hash, (M,)."""
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
    if budget < 0:  # comparing with all of them costs no more
        for start in range(0, len(kept), _FEW):
            left = np.flatnonzero(~near)
            for rows in np.split(left, range(_FEW, len(left), _FEW)):
                differing = np.bitwise_count(hashes[rows, None] ^ kept[start : start + _FEW])
                near[rows] = (differing <= distance).any(1)
    return near


def bit_masks(distance: int, count: int) -> list[np.uint64]:
    """Sets of bits such that any two hashes within the distance agree in at least one set. The bits are cut into
    `distance + c` bands, and a set is c of them: at most `distance` bands hold differences, so at least c agree (G. S.
    Manku et al., "Detecting Near-Duplicates for Web Crawling", WWW 2007, section 3). With a larger c there are more
    sets, and fewer pairs that agree without being near. The c that costs the least for `count` random hashes is used.
    The list is empty if comparing all pairs costs less."""
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
    """Positions (later, earlier) of all pairs that agree in the bits of `mask`, and of a few that do not: the products
    that are compared lose their lowest bits. A step gives each hash at most one pair. `known`: only the first `known`
    hashes are paired with the others; 0 pairs all hashes."""
    # Sorting takes a fifth of the time of argsort, so the lowest bits of a key hold its position.
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
