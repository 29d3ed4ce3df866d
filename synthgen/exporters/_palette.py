"""The colours of classes: the palette of PASCAL VOC, and pictures of indices that have it."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from synthgen.base.pictures import require_png


@cache
def palette() -> tuple[tuple[int, int, int], ...]:
    """256 colours, RGB: `VOClabelcolormap` of the VOC development kit. The bits of an index, from the lowest, go to
    red, green and blue in turn, and to their highest bits first. No two indices share a colour."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")  # (256, 8)
    # Bits 0, 3, 6 are red's; 1, 4, 7 green's; 2, 5 blue's.
    channels = np.stack([np.pad(bits[:, c::3], ((0, 0), (0, 8 - bits[:, c::3].shape[1]))) for c in range(3)], 1)
    return tuple(tuple(colour) for colour in np.packbits(channels, axis=2)[..., 0].tolist())


def encode_indices(indices: NDArray[np.uint8]) -> bytes:
    """A picture of indices, uint8 (H, W), as a PNG of 8 bits with the palette."""
    image = Image.fromarray(indices)
    image.putpalette([value for colour in palette() for value in colour])  # the image becomes one of mode P
    file = io.BytesIO()
    # Pillow would take fewer bits for few colours, and some readers take 8 only. Its default level takes three times as
    # long.
    image.save(file, "PNG", bits=8, compress_level=3)
    return file.getvalue()


def decode_indices(data: bytes) -> NDArray[np.uint8]:
    """The indices, uint8 (H, W), of such a PNG.

    Raises:
        ValueError: it is none, or is damaged.
    """
    require_png(data)
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.mode != "P":
                raise ValueError(f"its pixels are of Pillow's mode {image.mode}, expected P")
            return np.array(image)
    except (OSError, SyntaxError) as error:
        raise ValueError(f"it cannot be decoded: {error}") from error
