"""Pictures that people bring, as RGB of eight bits: what has one meaning is converted, all else is refused."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

MAX_PIXELS = 50_000_000  # of a picture: a few kilobytes can stand for gigabytes
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")  # not EPS, for which Pillow starts another program
RGB = {"1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr"}  # modes of which `convert("RGB")` makes what a viewer shows


_PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"  # and then its width and height


class SizeError(ValueError):
    """A picture has another size than was said."""


def require_png(data: bytes) -> None:
    """Looks at an image of a run before it is decoded: OpenCV takes whatever is a picture, of up to 2**30 px, and its
    size at its word.

    Raises:
        ValueError: it is no PNG, or says that it has more pixels than are taken.
    """
    if not data.startswith(_PNG) or len(data) < len(_PNG) + 8:
        raise ValueError("it is no PNG")
    _require_size(*struct.unpack_from(">II", data, len(_PNG)))


def _require_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(f"it has {width}x{height} px, and at most {MAX_PIXELS:,} are taken")


def read_picture(file: Path, width: int, height: int) -> NDArray[np.uint8]:
    """uint8 (H, W, 3), RGB, of a file that is said to have this size, px. Nothing is decoded of one of another size.

    A picture that its EXIF orientation turns on its side is turned if it has the size only then.

    Raises:
        SizeError: it has another size.
        ValueError: it is too large, or its pixels have more than one reading: transparent ones, floats, whole numbers
            without a known range, an orientation that the size does not tell whether it was minded.
        Exception: whatever a decoder makes of a damaged file.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of bombs, as our own limit is lower; of odd tags
        with Image.open(file, formats=FORMATS) as opened:
            own = opened.size
            if (width, height) not in {own, own[::-1]}:
                raise SizeError(f"has {own[0]}x{own[1]} px")
            _require_size(width, height)
            orientation = opened.getexif().get(ExifTags.Base.Orientation, 1)
            picture: Image.Image = opened
            if orientation in range(2, 9):
                if orientation < 5 or width == height:
                    raise ValueError(
                        f"it has the EXIF orientation {orientation}, and its size does not tell whether its labels "
                        "are of the pixels as they lie in the file or as they are shown; takes pictures turned for good"
                    )
                if own != (width, height) and opened.format != "TIFF":  # of which Pillow turns the pixels itself
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
    """Of 0 to 65535, to which Pillow brings the greys of PGM files too; its own conversion would cut all above 255."""
    if form == "TIFF":
        tags = picture.tag_v2  # type: ignore[attr-defined]
        if (bits := tags.get(258)) != (16,) or tags.get(262) != 1:
            raise ValueError(f"it is a grey TIFF of {bits} bits, or one in which 0 is white; takes 16, and 0 for black")
    if picture.has_transparency_data:
        raise ValueError("it has a transparent shade of grey; takes opaque pictures")
    grey = ((np.asarray(picture).astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)
