"""The colours of classes: the palette of PASCAL VOC, and pictures of indices that have it."""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from synthgen.base.image_metadata import png_chunk
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
    """A picture of indices, uint8 (H, W), as a PNG of 8 bits with the palette, in a fifth of Pillow's time."""
    height, width = indices.shape
    rows = np.zeros((height, width + 1), np.uint8)  # A row begins with its filter: 0, for none.
    rows[:, 1:] = indices
    packer = zlib.compressobj(strategy=zlib.Z_RLE)  # Areas of one index are runs.
    chunks = {
        b"IHDR": struct.pack(">2I5B", width, height, 8, 3, 0, 0, 0),  # 8 bits of a palette
        b"PLTE": bytes(value for colour in palette() for value in colour),
        b"IDAT": packer.compress(rows.tobytes()) + packer.flush(),
        b"IEND": b"",
    }
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, content) for kind, content in chunks.items())


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
