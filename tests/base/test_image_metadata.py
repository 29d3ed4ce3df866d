"""What files carry beside their pixels, read by libraries that nobody here wrote: Exiv2, Pillow, c2pa."""

import hashlib
import io
import struct
import zlib

import c2pa
import cv2
import numpy as np
import pyexiv2
import pytest
from PIL import ExifTags, Image, ImageCms
from signers import signed

from synthgen import __version__
from synthgen.base.image_metadata import MAX_UNPACKED, Metadata
from synthgen.base.xmp import Origin

PIXELS = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (47, 61, 3), np.uint8), (5, 5), 0)
FORMATS = {".png": [], ".jpg": [cv2.IMWRITE_JPEG_QUALITY, 95], ".webp": [cv2.IMWRITE_WEBP_QUALITY, 90]}
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
TYPE = "Xmp.iptcExt.DigitalSourceType"


def encoded(ending: str) -> bytes:
    return cv2.imencode(ending, PIXELS, FORMATS[ending])[1].tobytes()


def exif(description: str = "a photo") -> bytes:
    tags = Image.Exif()
    tags[ExifTags.Base.ImageDescription] = description
    return tags.tobytes().removeprefix(b"Exif\0\0")


@pytest.fixture(scope="module")
def everything() -> Metadata:
    """All that a file can carry; its manifest store is that of a signed PNG."""
    store = Metadata.of_png(signed(encoded(".png"), "image/png")).c2pa
    return Metadata(
        Origin("compositeWithTrainedAlgorithmicMedia", "é<x>", "1", "a & b").packet(), exif(), PROFILE, store
    )


@pytest.mark.parametrize("ending", FORMATS)
def test_other_libraries_read_everything(ending: str, everything: Metadata) -> None:
    plain = encoded(ending)
    data = everything.put_into(plain)
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.info["icc_profile"] == PROFILE and opened.info["xmp"] == everything.xmp
        assert opened.getexif()[ExifTags.Base.ImageDescription] == "a photo"
        pixels = np.asarray(opened.convert("RGB"))
    with Image.open(io.BytesIO(plain)) as opened:
        np.testing.assert_array_equal(pixels, np.asarray(opened))
    with pyexiv2.ImageData(data) as image:
        assert image.read_xmp() == {
            TYPE: "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia",
            "Xmp.iptcExt.AISystemUsed": "é<x>",
            "Xmp.iptcExt.AISystemVersionUsed": "1",
            "Xmp.iptcExt.AIPromptInformation": "a & b",
            "Xmp.xmp.CreatorTool": f"synthgen {__version__}",
        }
        assert image.read_exif()["Exif.Image.ImageDescription"] == "a photo" and image.read_icc() == PROFILE
    mime = {".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp"}[ending]
    with c2pa.Reader(mime, io.BytesIO(data)) as reader:
        manifest = reader.get_active_manifest()
    assert manifest and manifest["signature_info"]["common_name"] == "signer"


def test_a_png_gives_back_what_was_put_into_it(everything: Metadata) -> None:
    assert Metadata.of_png(everything.put_into(encoded(".png"))) == everything
    assert Metadata.of_png(encoded(".png")) == Metadata()
    assert Metadata().put_into(encoded(".jpg")) == encoded(".jpg")


@pytest.mark.parametrize("writer", ["Pillow", "Exiv2"])
def test_pngs_of_other_programs_are_read(writer: str) -> None:
    if writer == "Pillow":
        file = io.BytesIO()
        Image.fromarray(PIXELS).save(file, "PNG", exif=b"Exif\0\0" + exif(), icc_profile=PROFILE)
        assert Metadata.of_png(file.getvalue()) == Metadata(exif=exif(), icc=PROFILE)
        return
    with pyexiv2.ImageData(encoded(".png")) as image:
        image.modify_xmp({"Xmp.dc.source": "a camera"})
        data = image.get_bytes()
    assert b"a camera" in Metadata.of_png(data).xmp


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def with_chunk(kind: bytes, content: bytes) -> bytes:
    data = encoded(".png")
    return data[:33] + chunk(kind, content) + data[33:]


def test_a_compressed_packet_is_read() -> None:
    packed = b"XML:com.adobe.xmp\0\1\0en\0XMP\0" + zlib.compress(b"packet")
    assert Metadata.of_png(with_chunk(b"iTXt", packed)).xmp == b"packet"


@pytest.mark.parametrize(
    ("packed", "said"),
    [(zlib.compress(bytes(MAX_UNPACKED + 1)), "more than 16,000,000 bytes"), (b"no zlib", "damaged"),
     (zlib.compress(bytes(range(256)) * 9)[:-9], "cut short")],
)  # fmt: skip
def test_a_profile_that_cannot_be_unpacked_is_refused(packed: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Metadata.of_png(with_chunk(b"iCCP", b"name\0\0" + packed))


def test_a_png_that_is_cut_anywhere_is_no_crash() -> None:
    data = Metadata(Origin().packet(), exif()).put_into(encoded(".png"))
    for end in range(8, 1500, 7):
        assert Metadata.of_png(data[:end]).exif in {b"", exif()}


def test_a_long_packet_is_continued_in_a_jpeg() -> None:
    """XMP Specification, part 3, 1.1.3.1. No reader here puts the parts together, so this test does."""
    origin = Origin(system="x", prompt="é <" * 60_000)
    data = Metadata(origin.packet()).put_into(encoded(".jpg"))
    with pyexiv2.ImageData(data) as image:
        found = image.read_xmp()
    assert found[TYPE].endswith("/trainedAlgorithmicMedia") and found["Xmp.iptcExt.AISystemUsed"] == "x"
    whole, at = b"", 2
    while data[at + 1] != 0xDB:  # the quantisation tables: after all application segments
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        segment = data[at + 4 : at + 2 + length]
        if segment.startswith(head := b"http://ns.adobe.com/xmp/extension/\0"):
            digest, (size, offset) = segment[35:67], struct.unpack(">II", segment[67:75])
            assert digest.decode() == found["Xmp.xmpNote.HasExtendedXMP"] and offset == len(whole)
            whole += segment[len(head) + 40 :]
            assert len(whole) <= size
        at += 2 + length
    assert hashlib.md5(whole).hexdigest().upper() == digest.decode() and len(whole) == size
    assert Origin.of(whole) == origin
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape == PIXELS.shape


def test_what_a_format_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="its EXIF has 70,000 bytes; a JPEG holds 65,527"):
        Metadata(exif=bytes(70_000)).put_into(encoded(".jpg"))
    with pytest.raises(ValueError, match="its colour profile has 16,800,000 bytes"):
        Metadata(icc=bytes(16_800_000)).put_into(encoded(".jpg"))
    with pytest.raises(ValueError, match="it is no PNG, JPEG or lossy WebP"):
        Metadata(exif()).put_into(b"GIF89a")
    large = bytes(np.random.default_rng(0).bytes(200_000))  # in several segments
    with Image.open(io.BytesIO(Metadata(icc=large).put_into(encoded(".jpg")))) as opened:
        assert opened.info["icc_profile"] == large
