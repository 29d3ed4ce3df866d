"""Masks as Label Studio's brush stores them: the RGBA pixels of the whole image in `rle-pack` of @thi.ng/umbrella.

The stream of bits begins with the number of values (32 bits), the bits of a value less one (5), and four lengths of
counts less one (4 each). Then come blocks: a bit that says whether one value is repeated or values are listed, 2 bits
that choose the length of the count, the count less one, and the value or the values. The alpha channel is the mask.
https://github.com/thi-ng/umbrella/blob/develop/packages/rle-pack/src/index.ts
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_SIZES = (3, 4, 8, 16)  # bits of a count, as Label Studio's own encoders choose them
_LONGEST = 1 << _SIZES[-1]
_HEADER = 53  # bits
_HALF = 128  # of 255: the alpha from which on a pixel that a round brush has touched counts as inside


def encode_brush(runs: NDArray[np.int64]) -> list[int]:
    """The bytes of a mask, given by the lengths of its runs, row by row; the first run is background and may be 0."""
    lengths, values = runs * 4, np.arange(len(runs)) % 2 * 255
    pieces = -(-lengths // _LONGEST)  # Longer runs take several blocks.
    values = values.repeat(pieces)
    lengths = lengths.repeat(pieces)
    last = pieces.cumsum()[pieces > 0] - 1
    rest = (runs * 4)[pieces > 0] - (pieces[pieces > 0] - 1) * _LONGEST
    is_last = np.zeros(len(lengths), bool)
    is_last[last] = True
    lengths[~is_last] = _LONGEST
    lengths[last] = rest
    choice = np.searchsorted(1 << np.array(_SIZES), lengths)
    size = np.array(_SIZES)[choice]
    blocks = (((4 | choice) << size | lengths - 1) << 8) | values
    header = [int(runs.sum()) * 4, 7, *(s - 1 for s in _SIZES)]
    words = np.concatenate([np.array(header, np.int64), blocks])
    widths = np.concatenate([np.array([32, 5, 4, 4, 4, 4]), size + 11])
    before = (widths.cumsum() - widths).repeat(widths)
    shift = widths.repeat(widths) - 1 - (np.arange(len(before)) - before)
    return [*np.packbits(words.repeat(widths) >> shift & 1).tobytes()]


def decode_brush(data: Sequence[int], height: int, width: int) -> NDArray[np.bool_]:
    """The mask, bool (H, W). A brush has soft edges: a pixel belongs to the mask if half of it is covered.

    Raises:
        ValueError: the data does not hold the pixels of an image of this size.
    """
    try:
        stream = np.frombuffer(bytes(data), np.uint8)
    except (TypeError, ValueError) as error:
        raise ValueError("an RLE that is no list of bytes") from error
    bits, windows = len(stream) * 8, _windows(stream)
    if bits < _HEADER:
        raise ValueError("an RLE that is cut short")
    count, word = windows[0] >> 32, (windows[0] >> 27 & 31) + 1
    if count != 4 * height * width or word != 8:
        raise ValueError(f"an RLE of {count:,} values of {word} bits, expected {4 * height * width:,} of 8")
    sizes = [(windows[0] >> shift & 15) + 1 for shift in (23, 19, 15, 11)]
    values, filled, at = np.empty(count, np.uint8), 0, _HEADER
    while filled < count:
        # A window begins at a byte. So 57 of its bits are left at least, and a block's head and value have 27 at most.
        window = windows[min(at, bits) >> 3] << (at & 7)
        size = sizes[window >> 61 & 3]
        length = (window >> 61 - size & (1 << size) - 1) + 1
        at += 3 + size
        if filled + length > count:
            raise ValueError("an RLE that does not sum to the image")
        if window >> 63 & 1:
            values[filled : filled + length] = window >> 53 - size & 255
            at += 8
        else:
            listed = np.unpackbits(stream[at >> 3 : (at >> 3) + length + 1])[at & 7 :][: 8 * length]
            at += 8 * length
            values[filled : filled + len(listed) // 8] = np.packbits(listed)[: len(listed) // 8]
        if at > bits:
            raise ValueError("an RLE that is cut short")
        filled += length
    return np.asarray(values.reshape(height, width, 4)[..., 3] >= _HALF)


def _windows(stream: NDArray[np.uint8]) -> list[int]:
    """At each byte of a stream, and at its end, the next 64 bits as a number; zeros follow the stream."""
    padded = np.concatenate([stream, np.zeros(8, np.uint8)])
    return [*np.ascontiguousarray(np.lib.stride_tricks.sliding_window_view(padded, 8)).view(">u8").reshape(-1).tolist()]
