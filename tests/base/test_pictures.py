"""Pictures that people bring: drawn so that their eight-bit RGB is known, in every mode that a file may have."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, TiffImagePlugin

from synthgen.base.pictures import SizeError, read_picture

WIDTH, HEIGHT = 6, 4
RAMP = np.arange(WIDTH * HEIGHT, dtype=np.uint8).reshape(HEIGHT, WIDTH) * 11  # 0 to 253
GREY = np.repeat(RAMP[..., None], 3, 2)
COLOURS = np.stack([RAMP, 255 - RAMP, RAMP // 2], -1)
WIDE = RAMP.astype(np.uint16) * 257  # the same shades of 16 bits


def tags(**values: Any) -> TiffImagePlugin.ImageFileDirectory_v2:
    found = TiffImagePlugin.ImageFileDirectory_v2()
    for name, value in values.items():
        found[getattr(ExifTags.Base, name)] = value
    return found


def pgm(most: int, values: Any) -> bytes:
    return f"P5 {WIDTH} {HEIGHT} {most}\n".encode() + values.astype(">u2").tobytes()


def paletted() -> Image.Image:
    picture = Image.frombytes("P", (WIDTH, HEIGHT), np.arange(WIDTH * HEIGHT, dtype=np.uint8).tobytes())
    picture.putpalette(COLOURS.reshape(-1).tolist())
    return picture


def with_alpha(mode: str, least: int) -> Image.Image:
    picture = Image.fromarray(COLOURS if mode == "RGBA" else RAMP).convert(mode)
    alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
    alpha[1, 2] = least
    picture.putalpha(Image.fromarray(alpha))
    return picture


CMYK = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
CMYK[:, :2, 0] = CMYK[:, 2:4, 1] = CMYK[:2, :, 3] = 255
INKS = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
INKS[:, :2, 0] = INKS[:, 2:4, 1] = INKS[:2] = 0
BLACK = np.where(RAMP[..., None] > 99, 255, np.zeros(3, np.uint8)).astype(np.uint8)

READ: list[tuple[str, str, Any, dict[str, Any], Any]] = [
    ("RGB", "a.png", Image.fromarray(COLOURS), {}, COLOURS),
    ("grey", "a.png", Image.fromarray(RAMP), {}, GREY),
    ("one bit", "a.png", Image.fromarray(RAMP > 99), {}, BLACK),
    ("one bit in a TIFF", "a.tif", Image.fromarray(RAMP > 99), {}, BLACK),
    ("a palette", "a.png", paletted(), {}, COLOURS),
    ("a palette in a GIF", "a.gif", paletted(), {}, COLOURS),
    ("16 bits", "a.png", Image.fromarray(WIDE), {}, GREY),
    ("16 bits that are rounded", "a.png", Image.fromarray(WIDE - (WIDE > 0)), {}, GREY),
    ("16 bits in a TIFF", "a.tif", Image.fromarray(WIDE), {}, GREY),
    ("16 bits in a TIFF, high byte first", "a.tif", Image.fromarray(WIDE.astype(">u2")), {}, GREY),
    ("16 bits in a PGM", "a.pgm", pgm(65535, WIDE), {}, GREY),
    ("10 bits in a PGM", "a.pgm", pgm(1020, RAMP.astype(np.uint16) * 4), {}, GREY),
    ("opaque alpha", "a.png", with_alpha("RGBA", 255), {}, COLOURS),
    ("grey with opaque alpha", "a.png", with_alpha("LA", 255), {}, GREY),
    ("a transparent shade that is not there", "a.png", Image.fromarray(RAMP), {"transparency": 254}, GREY),
    ("inks", "a.tif", Image.frombytes("CMYK", (WIDTH, HEIGHT), CMYK.tobytes()), {}, INKS),
]  # fmt: skip


def write(file: Path, picture: Any, options: dict[str, Any]) -> Path:
    if isinstance(picture, bytes):
        file.write_bytes(picture)
    else:
        picture.save(file, **options)
    return file


@pytest.mark.parametrize(("name", "picture", "options", "known"), [r[1:] for r in READ], ids=[r[0] for r in READ])
def test_pictures_of_one_meaning(name: str, picture: Any, options: Any, known: Any, tmp_path: Path) -> None:
    found = read_picture(write(tmp_path / name, picture, options), WIDTH, HEIGHT)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, known)


def test_inks_in_a_jpeg(tmp_path: Path) -> None:
    large = np.kron(CMYK, np.ones((8, 8, 1), np.uint8))
    picture = Image.frombytes("CMYK", (8 * WIDTH, 8 * HEIGHT), large.tobytes())
    picture.save(tmp_path / "a.jpg", quality=100, subsampling=0)
    found = read_picture(tmp_path / "a.jpg", 8 * WIDTH, 8 * HEIGHT)[4::8, 4::8]
    assert np.abs(found.astype(int) - INKS).max() <= 4


FLOATS = Image.fromarray(RAMP / np.float32(255))
REFUSED: list[tuple[str, str, Any, dict[str, Any], str]] = [
    ("floats in a TIFF", "a.tif", FLOATS, {}, "mode F, without a known range"),
    ("floats in a PFM", "a.pfm", FLOATS, {}, "mode F, without a known range"),
    ("32 bits", "a.tif", Image.fromarray(WIDE.astype(np.int32)), {}, "mode I, without a known range"),
    ("Lab", "a.tif", Image.fromarray(COLOURS).convert("RGB"), {"Lab": True}, "mode LAB, without a known range"),
    ("a clear pixel", "a.png", with_alpha("RGBA", 0), {}, "transparent pixels"),
    ("a pixel that is not quite opaque", "a.webp", with_alpha("RGBA", 254), {"lossless": True}, "transparent pixels"),
    ("a clear pixel of grey", "a.png", with_alpha("LA", 0), {}, "transparent pixels"),
    ("a clear colour of a palette", "a.png", paletted(), {"transparency": 3}, "transparent pixels"),
    ("a clear shade of grey", "a.png", Image.fromarray(RAMP), {"transparency": 11}, "transparent pixels"),
    (
        "white is 0",
        "a.tif",
        Image.fromarray(WIDE),
        {"tiffinfo": tags(PhotometricInterpretation=0)},
        "in which 0 is whi",
    ),
]


@pytest.mark.parametrize(("name", "picture", "options", "said"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_pictures_of_no_meaning(name: str, picture: Any, options: Any, said: str, tmp_path: Path) -> None:
    if options.pop("Lab", False):
        picture = Image.frombytes("LAB", picture.size, picture.tobytes())
    with pytest.raises(ValueError, match=said):
        read_picture(write(tmp_path / name, picture, options), WIDTH, HEIGHT)


def turned(way: int, shape: tuple[int, int] = (HEIGHT, WIDTH)) -> tuple[Any, dict[str, Any]]:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = way
    return np.resize(COLOURS, (*shape, 3)), {"exif": exif}


# What a viewer does to the pixels of a file, by TIFF 6.0, page 36: where the 0th row and the 0th column are.
SIDEWAYS: dict[int, Callable[[Any], Any]] = {
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a.transpose(1, 0, 2), 2),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("ending", ["png", "webp", "tif"])
@pytest.mark.parametrize("way", SIDEWAYS)
def test_a_picture_on_its_side_is_read_as_its_size_says(way: int, ending: str, tmp_path: Path) -> None:
    pixels, options = turned(way)
    file = tmp_path / f"a.{ending}"
    Image.fromarray(pixels).save(file, **options, **({"lossless": True} if ending == "webp" else {}))
    np.testing.assert_array_equal(read_picture(file, HEIGHT, WIDTH), SIDEWAYS[way](pixels))
    if ending == "tif":  # Pillow gives these turned only
        with pytest.raises(SizeError):
            read_picture(file, WIDTH, HEIGHT)
    else:
        np.testing.assert_array_equal(read_picture(file, WIDTH, HEIGHT), pixels)


@pytest.mark.parametrize(("way", "shape"), [(2, (4, 6)), (3, (4, 6)), (4, (4, 6)), (6, (5, 5))])
def test_an_orientation_that_the_size_does_not_tell_is_refused(way: int, shape: Any, tmp_path: Path) -> None:
    pixels, options = turned(way, shape)
    for name in ("a.png", "a.jpg", "a.tif"):
        Image.fromarray(pixels).save(tmp_path / name, **options)
        with pytest.raises(ValueError, match=f"EXIF orientation {way}, and its size does not tell"):
            read_picture(tmp_path / name, shape[1], shape[0])


def test_an_upright_picture_has_one_size(tmp_path: Path) -> None:
    pixels, options = turned(1)
    Image.fromarray(pixels).save(tmp_path / "a.png", **options)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png", WIDTH, HEIGHT), pixels)
    for width, height in ((HEIGHT, WIDTH), (WIDTH, HEIGHT + 1)):
        with pytest.raises(SizeError, match=f"has {WIDTH}x{HEIGHT} px"):
            read_picture(tmp_path / "a.png", width, height)
