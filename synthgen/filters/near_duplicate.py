"""Images that look like one already kept."""

from itertools import pairwise
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from synthgen.backends import Filter, FilterConfig
from synthgen.types import Sample

_BLOCK = 1024
# With more bands, of under 9 bits, looking up candidates takes longer than comparing with every kept hash.
_MOST_BANDS = 7

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
        unique = values[first]

        kept = np.zeros(len(unique), bool)
        for start in range(0, len(unique), _BLOCK):
            block = unique[start : start + _BLOCK]
            alive = ~self._near_any(block, unique[:start][kept[:start]])
            near = np.bitwise_count(block[:, None] ^ block) <= self.config.max_distance
            for i in np.flatnonzero(np.triu(near, 1).any(1)):
                if alive[i]:
                    alive[i + 1 :] &= ~near[i, i + 1 :]
            kept[start : start + _BLOCK] = alive

        failed = np.ones(len(values), bool)
        failed[first[kept]] = False
        return failed

    def original(self, values: Hashes, kept: NDArray[np.bool_], place: int) -> int | None:
        """The nearest kept one of those before it."""
        earlier = np.flatnonzero(kept[:place])
        return int(earlier[np.bitwise_count(values[earlier] ^ values[place]).argmin()]) if len(earlier) else None

    def _near_any(self, block: Hashes, kept: Hashes) -> NDArray[np.bool_]:
        """For each of the block's hashes: is any of `kept` within the distance?"""
        distance = self.config.max_distance
        near = np.zeros(len(block), bool)
        candidates = _band_candidates(block, kept, distance + 1)
        if candidates is None:
            for start in range(0, len(kept), _BLOCK):
                part = kept[start : start + _BLOCK]
                near |= (np.bitwise_count(block[:, None] ^ part) <= distance).any(1)
        else:
            for rows, others in candidates:
                near[rows[np.bitwise_count(block[rows] ^ kept[others]) <= distance]] = True
        return near


def _band_candidates(block: Hashes, kept: Hashes, bands: int) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]] | None:
    """Positions in `block` and in `kept` of every pair that agrees in one of `bands` bands of bits, band by band.

    Hashes that differ in d bits agree in at least one of d + 1 bands (the pigeonhole). None where this would not
    spare work: short bands, or hashes so much alike that they share theirs.
    """
    if bands > _MOST_BANDS:
        return None
    edges = [64 * i // bands for i in range(bands + 1)]
    found: list[tuple[NDArray[np.intp], NDArray[np.intp]]] = []
    room = len(block) * len(kept) // 32
    for low, high in pairwise(edges):
        mask = np.uint64((1 << (high - low)) - 1)
        # 16-bit keys are sorted by radix, several times quicker.
        dtype = np.uint16 if high - low <= 16 else np.uint64
        keys, wanted = (((part >> np.uint64(low)) & mask).astype(dtype) for part in (kept, block))
        order = keys.argsort(kind="stable")
        keys = keys[order]
        begin, end = keys.searchsorted(wanted, "left"), keys.searchsorted(wanted, "right")
        counts = end - begin
        room -= int(counts.sum())
        if room < 0:
            return None
        rows = np.repeat(np.arange(len(block)), counts)
        within = np.arange(len(rows)) - np.repeat(counts.cumsum() - counts, counts)
        found.append((rows, order[np.repeat(begin, counts) + within]))
    return found
