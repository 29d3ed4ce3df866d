"""The image files of exports: pixels, quality, and what they carry beside their pixels."""

import io
from pathlib import Path

import c2pa
import cv2
import numpy as np
import pyexiv2
import pytest
from folders import write
from PIL import ExifTags, Image, ImageCms
from signers import credentials, signed

from synthgen.backends import ImageEncoding
from synthgen.base.image_metadata import Metadata
from synthgen.base.signing import Signer
from synthgen.base.xmp import Origin
from synthgen.errors import RunError
from synthgen.store.encodings import Encoder, UnreadableImage
from synthgen.store.export_folder import exporting
from synthgen.store.images import AS_STORED
from synthgen.store.run import Run

PIXELS = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8), (5, 5), 0)  # BGR
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
MIME = {"link": "image/png", "copy": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}


def png(pixels: np.ndarray = PIXELS) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


@pytest.fixture(scope="module")
def photo() -> bytes:
    """An image of a run that a photo is part of: it carries the photo's EXIF, colour profile and manifest."""
    tags = Image.Exif()
    tags[ExifTags.Base.ImageDescription], tags[ExifTags.Base.Orientation] = "a street", 6
    store = Metadata.of_png(signed(png(), "image/png")).c2pa
    packet = Origin("compositeWithTrainedAlgorithmicMedia", "a model").packet()
    return Metadata(packet, tags.tobytes().removeprefix(b"Exif\0\0"), PROFILE, store).put_into(png())


@pytest.mark.parametrize("is_signed", [False, True])
@pytest.mark.parametrize("encoding", MIME)
def test_nothing_that_a_photo_carries_is_lost(photo: bytes, encoding: ImageEncoding, is_signed: bool) -> None:
    data = Encoder(signer=Signer(*credentials()) if is_signed else None).encoded(photo, encoding)
    with pyexiv2.ImageData(data) as image, pyexiv2.ImageData(photo) as before:
        assert image.read_xmp() == before.read_xmp() and len(image.read_xmp()) == 3
        assert image.read_exif()["Exif.Image.ImageDescription"] == "a street"
        assert image.read_icc() == PROFILE
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.getexif()[ExifTags.Base.Orientation] == 6 and opened.size == (56, 40)
    with c2pa.Reader(MIME[encoding], io.BytesIO(data)) as reader:
        found, manifest = reader.json(), reader.get_active_manifest()
    assert "digitalCapture" in found and manifest
    assert (manifest["title"] == "photo") != is_signed
    assert ("compositeWithTrainedAlgorithmicMedia" in str(manifest["assertions"])) == is_signed


def test_pixels_are_those_that_lie_in_the_file(photo: bytes) -> None:
    """The labels are of these, whatever the orientation in the EXIF says; files keep both."""
    for encoding, ending, quality in (
        ("jpeg", ".jpg", cv2.IMWRITE_JPEG_QUALITY),
        ("webp", ".webp", cv2.IMWRITE_WEBP_QUALITY),
    ):
        plain = cv2.imencode(ending, PIXELS, [quality, {"jpeg": 95, "webp": 90}[encoding]])[1].tobytes()
        assert Encoder().encoded(png(), encoding) == plain
        with Image.open(io.BytesIO(Encoder().encoded(photo, encoding))) as made, Image.open(io.BytesIO(plain)) as same:
            np.testing.assert_array_equal(np.asarray(made), np.asarray(same))


def test_a_run_reads_the_same_pixels(photo: bytes, tmp_path: Path) -> None:
    run = Run(tmp_path / "run-0001")
    write(run.paths.image(0, 1), photo)
    np.testing.assert_array_equal(run.images.read(0, 1), PIXELS[..., ::-1])


def test_an_alpha_channel_is_left_out_of_lossy_files() -> None:
    alpha = np.dstack([PIXELS, np.full(PIXELS.shape[:2], 7, np.uint8)])
    for encoding in ("jpeg", "webp"):
        assert Encoder().encoded(png(alpha), encoding) == Encoder().encoded(png(), encoding)
    assert Encoder().encoded(png(alpha), "link") == png(alpha)


@pytest.mark.parametrize("encoding", ["jpeg", "webp"])
def test_a_lower_quality_makes_smaller_files(encoding: ImageEncoding) -> None:
    sizes = [len(Encoder(quality).encoded(png(), encoding)) for quality in (1, 50, None, 100)]
    assert sizes == sorted(sizes) and len(set(sizes)) == 4


@pytest.mark.parametrize("encoding", MIME)
def test_parts_of_an_image_carry_what_it_carries(photo: bytes, encoding: ImageEncoding) -> None:
    boxes = [(0, 0, 56, 40), (3, 5, 4, 6), (40, 30, 56, 40)]
    for signer in (None, Signer(*credentials())):
        for (x0, y0, x1, y1), data in zip(boxes, Encoder(signer=signer).crops(photo, boxes, encoding), strict=True):
            found = cv2.imdecode(np.frombuffer(data, np.uint8), AS_STORED)
            assert found.shape == (y1 - y0, x1 - x0, 3)
            if encoding in {"link", "copy"}:
                np.testing.assert_array_equal(found, PIXELS[y0:y1, x0:x1])
            with pyexiv2.ImageData(data) as image, pyexiv2.ImageData(photo) as before:
                assert image.read_xmp() == before.read_xmp() and image.read_exif() == before.read_exif()
            with c2pa.Reader(MIME[encoding], io.BytesIO(data)) as reader:
                assert "digitalCapture" in reader.json()
                assert reader.get_validation_state() == ("Valid" if signer else "Invalid")
    small, usual = (next(Encoder(q).crops(photo, boxes, encoding)) for q in (1, None))
    assert len(small) < len(usual) if encoding in {"jpeg", "webp"} else small == usual


def test_a_part_as_png_keeps_its_alpha_channel() -> None:
    alpha = np.dstack([PIXELS, np.full(PIXELS.shape[:2], 7, np.uint8)])
    (data,) = Encoder().crops(png(alpha), [(1, 2, 9, 8)], "link")
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED), alpha[2:8, 1:9])


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    for data in (b"GIF89a", png()[:60]):
        with pytest.raises(UnreadableImage):
            Encoder().encoded(data, "jpeg")
    run = Run(tmp_path / "run-0001")
    file = run.paths.image(0, 1)
    write(file, Metadata(exif=bytes(70_000)).put_into(png()))
    with exporting(run, "coco", "inputs") as folder:
        folder.image(file, "1.webp", encoding="webp")
        assert (run.root / "coco" / "1.webp").read_bytes() == folder.image_bytes(file, encoding="webp")
        with pytest.raises(RunError, match="`images: jpeg`: its EXIF has 70,000 bytes; a JPEG holds 65,527"):
            folder.image(file, "1.jpg", encoding="jpeg")
