"""Users' pictures as RGB of 8 bits a channel. Pixels with a single meaning are converted; all others are refused."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

MAX_PIXELS = 50_000_000  # of a picture: a file of a few kilobytes can decode to gigabytes
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")  # without EPS, for which Pillow starts another program
RGB = {
    "1",
    "L",
    "P",
    "RGB",
    "RGBX",
    "CMYK",
    "YCbCr",
}  # modes that `convert("RGB")` turns into the pixels a viewer shows
_PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"  # the first bytes of a PNG; its width and height follow


class SizeError(ValueError):
    """A picture has another size than the caller expects."""


def require_png(data: bytes) -> None:
    """Checks an image of a run before OpenCV decodes it: OpenCV takes any format, and allocates memory for the size
    that the file claims, up to 2**30 px.

    Raises:
        ValueError: the data is no PNG, or claims more than `MAX_PIXELS`.
    """
    if not data.startswith(_PNG) or len(data) < len(_PNG) + 8:
        raise ValueError("it is no PNG")
    _require_size(*struct.unpack_from(">II", data, len(_PNG)))


def _require_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(f"it has {width}x{height} px, and at most {MAX_PIXELS:,} are taken")


def read_picture(file: Path, width: int, height: int) -> NDArray[np.uint8]:
    """Reads a picture that should have this size, px, as uint8 (H, W, 3), RGB. It decodes no picture of another size.

    A picture whose EXIF orientation turns it on its side is turned if only then it has the size.

    Raises:
        SizeError: the picture has another size.
        ValueError: it is too large, or its pixels have more than one reading: transparent ones, floats, whole numbers
            without a known range, or an orientation where the size does not tell whether the labels follow it.
        Exception: whatever a decoder raises for a damaged file.
    """
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # Pillow warns of large pictures, for which our limit is lower, and of odd tags.
        with Image.open(file, formats=FORMATS) as opened:
            stored = opened.size
            if (width, height) not in {stored, stored[::-1]}:
                raise SizeError(f"has {stored[0]}x{stored[1]} px")
            _require_size(width, height)
            orientation = opened.getexif().get(ExifTags.Base.Orientation, 1)
            picture: Image.Image = opened
            if orientation in range(2, 9):
                if orientation < 5 or width == height:
                    raise ValueError(
                        f"it has the EXIF orientation {orientation}, and its size does not tell whether its labels "
                        "are of the pixels as they lie in the file or as they are shown; takes pictures turned for good"
                    )
                if stored != (width, height) and opened.format != "TIFF":  # Pillow turns the pixels of TIFFs itself.
                    picture = ImageOps.exif_transpose(opened)
            pixels = _rgb(picture, opened.format)
    if pixels.shape[:2] != (height, width):
        raise SizeError(f"has {pixels.shape[1]}x{pixels.shape[0]} px")
    return pixels


def _rgb(picture: Image.Image, form: str | None) -> NDArray[np.uint8]:
    mode = picture.mode
    if mode.startswith("I;16") or (mode == "I" and form in {"PNG", "PPM"}):
        return _grey16(picture, form)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        if picture.getchannel("A").getextrema() != (255, 255):
            raise ValueError("it has transparent pixels, which have no colour of their own; takes opaque pictures")
    elif mode not in RGB:
        raise ValueError(f"its pixels are of Pillow's mode {mode}, without a known range; takes 8 or 16 bits a channel")
    return np.array(picture.convert("RGB"))


def _grey16(picture: Image.Image, form: str | None) -> NDArray[np.uint8]:
    """Converts greys from 0 to 65535, the range to which Pillow scales PGM files too. Pillow's own conversion would cut
    all values above 255."""
    if form == "TIFF":
        tags = picture.tag_v2  # type: ignore[attr-defined]
        if (bits := tags.get(258)) != (16,) or tags.get(262) != 1:
            raise ValueError(f"it is a grey TIFF of {bits} bits, or one in which 0 is white; takes 16, and 0 for black")
    if picture.has_transparency_data:
        raise ValueError("it has a transparent shade of grey; takes opaque pictures")
    grey = ((np.asarray(picture).astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)
