"""What becomes of probabilities; and the model, on pictures with nothing unsafe in them."""

import subprocess
import sys
from importlib.util import find_spec
from typing import Any, get_args

import numpy as np
import pytest
from pydantic import ValidationError

from synthgen.backends import Request
from synthgen.errors import BackendError
from synthgen.filters import unsafe
from synthgen.filters.unsafe import Backend, Config, Part
from synthgen.models import ModelMissing, named
from synthgen.types import Instances, Job, Sample

model = pytest.mark.skipif(
    not (find_spec("nudenet") and find_spec("onnxruntime")), reason="the extra `unsafe` is not installed"
)
REQUEST = Request(128, 128, has_layout=False, words=frozenset())
PARTS = get_args(Part)


def backend(**options: Any) -> Backend:
    return Backend(Config(use="unsafe", **options), ())


def measure(image: np.ndarray, **options: Any) -> float:
    height, width = image.shape[:2]
    job = Job(1, 1, 0, 0, "f", "train", "a photo", "", {}, (), None, 7, height, width)
    value = backend(**options).measure(Sample(job, image, Instances.empty(height, width)))
    assert value.dtype == np.float32
    assert value.shape == ()
    return float(value)


@pytest.mark.parametrize(
    ("found", "options", "expected"),
    [
        ({}, {}, 0),
        ({"FEMALE_BREAST_EXPOSED": 0.7}, {}, 0.7),
        ({"BUTTOCKS_EXPOSED": 0.3, "MALE_GENITALIA_EXPOSED": 0.4}, {}, 0.4),  # the greatest
        ({"FACE_MALE": 0.9, "FEET_EXPOSED": 0.9, "MALE_BREAST_EXPOSED": 0.9, "BUTTOCKS_COVERED": 0.9}, {}, 0),
        ({"FEET_EXPOSED": 0.9, "BUTTOCKS_EXPOSED": 0.3}, {"parts": ["FEET_EXPOSED"]}, 0.9),
    ],
)
def test_known_by_hand(
    found: dict[str, float], options: dict[str, Any], expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backend, "probabilities", lambda self, image: dict.fromkeys(PARTS, 0.0) | found)
    assert measure(np.zeros((8, 8, 3), np.uint8), **options) == pytest.approx(expected)


def test_threshold() -> None:
    values = np.array([0, 0.25, 0.26, 1, np.nan], np.float32)
    assert backend().fails(values).tolist() == [False, False, True, True, True]


@pytest.mark.parametrize("parts", [[], ["ELBOWS"]])
def test_parts_are_checked(parts: list[str]) -> None:
    with pytest.raises(ValidationError):
        Config(use="unsafe", parts=parts)


# Where the package is not installed


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (named, unsafe):
        monkeypatch.setattr(module, "find_spec", lambda name: None)
    (problem,) = backend().check(REQUEST)
    assert problem.field == ".use"
    assert problem.message == "'unsafe' needs nudenet and onnxruntime: pip install 'synthgen[unsafe]'"
    with pytest.raises(BackendError, match=r"pip install 'synthgen\[unsafe\]'"):
        unsafe.load()


def test_identity_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise named.PackageNotFoundError(name)

    monkeypatch.setattr(named, "version", missing)
    with pytest.raises(ModelMissing, match="needs nudenet"):
        backend().identity()


# The model


@model
def test_the_package_is_found_without_importing_it() -> None:
    code = """
import sys
from synthgen.backends import Request
from synthgen.filters.unsafe import Backend, Config
b = Backend(Config(use="unsafe"), ())
assert not list(b.check(Request(8, 8, False, frozenset()))) and b.identity().startswith("nudenet==3.")
print(sorted({"nudenet", "onnxruntime", "cv2", "torch"} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@model
def test_classes_are_those_of_the_model() -> None:
    assert tuple(backend().probabilities(np.zeros((32, 32, 3), np.uint8))) == PARTS


@model
@pytest.mark.parametrize("rows", [512, 300])
def test_agrees_with_the_package_on_a_face(rows: int) -> None:
    photo = pytest.importorskip("skimage.data", reason="scikit-image is not installed").astronaut()[:rows]
    from nudenet import NudeDetector

    # It turns the channels twice, so it wants RGB, whatever it says.
    found = NudeDetector().detect(photo.copy())
    (face,) = [f["score"] for f in found if f["class"] == "FACE_FEMALE"]
    assert measure(photo.copy(), parts=["FACE_FEMALE"]) == pytest.approx(face, abs=1e-4)
    assert measure(photo.copy()) < 0.1


@model
def test_nothing_to_see_and_in_silence(capfd: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (128, 96, 3)).astype(np.uint8)
    for image in (np.zeros((64, 64, 3), np.uint8), np.full((40, 300, 3), 255, np.uint8), noise):
        value = measure(image)
        assert 0 <= value < 0.1
        assert measure(image) == value
    assert capfd.readouterr() == ("", "")
