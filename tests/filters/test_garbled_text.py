"""The words with a reader that is told what it reads; and the reader itself, on text that is drawn."""

import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import cv2
import numpy as np
import pytest

from synthgen.backends import Request
from synthgen.errors import BackendError
from synthgen.filters import garbled_text
from synthgen.filters.garbled_text import Backend, Config
from synthgen.models import ModelMissing, named
from synthgen.types import Instances, Job, Sample

reader = pytest.mark.skipif(
    not (find_spec("rapidocr") and find_spec("onnxruntime")), reason="the extra `text` is not installed"
)
REQUEST = Request(128, 128, has_layout=False, words=frozenset())


def backend(**options: Any) -> Backend:
    return Backend(Config(use="garbled_text", **options), ())


def measure(image: np.ndarray, prompt: str, **options: Any) -> float:
    height, width = image.shape[:2]
    job = Job(1, 1, 0, 0, "f", "train", prompt, "", {}, (), None, 7, height, width)
    value = backend(**options).measure(Sample(job, image, Instances.empty(height, width)))
    assert value.dtype == np.float32
    assert value.shape == ()
    return float(value)


def sign(*lines: str, size: int = 320, scale: float = 1.5) -> np.ndarray:
    """Dark letters on a light ground."""
    image = np.full((size, size, 3), 210, np.uint8)
    for i, line in enumerate(lines):
        place = (size // 16, size // 2 + round(50 * scale * i))
        cv2.putText(image, line, place, cv2.FONT_HERSHEY_SIMPLEX, scale, (30, 20, 90), round(2 * scale), cv2.LINE_AA)
    return image


# Words


@pytest.mark.parametrize(
    ("prompt", "lines", "wrong"),
    [
        ("a photo of a bus", [], 0),
        ("a photo of a bus", ["BUS"], 0),  # a word of the prompt may show up
        ("a photo of a bus", ["SCHOOL BUS"], 1),
        ("a photo of a bus", ["xq zzv", "klm"], 3),
        ("a photo of a bus", ["8"], 0),  # too short to be text
        ('a sign that says "open"', ["OPEN"], 0),
        ('a sign that says "open"', [], 1),  # asked for, not there
        ('a sign that says "open"', ["OPNE"], 2),  # the one is missing, the other uninvited
        ('a sign that says "open"', ["OPENED"], 1),
        ('a sign that says "open"', ["OPEN", "lorem"], 1),
        ('a sign that says "sale today"', ["SALE", "TODAY"], 0),
        ('a sign that says "sale today"', ["saletoday!"], 0),  # the reader loses spaces
        ('a sign that says "sale today"', ["SALE"], 1),
        ('a sign that says "sunflower"', ["SUN FLOWER"], 0),  # and finds some
        ('"stop" on a sign and "go" on another', ["GO", "STOP"], 0),
        ("a sign that says 'stop'", [], 1),
        ("a sign that says “stop”", [], 1),
        ("a sign that says «stop»", [], 1),
        ("a sign that says ‘stop’", [], 1),
        ("a dog's bowl and a cat's", [], 0),  # these quote nothing
        ("the dogs' bowl and the cats' bowl", [], 0),
        ('a "café"', ["CAFE"], 0),
        ('room "5"', [], 1),  # what is quoted counts, however short
        ('room "5"', ["5"], 0),
        ('a shop called "停车"', ["停车"], 0),
        ("a shop", ["停车"], 1),
        ("", ["word"], 1),
    ],
)
def test_words(prompt: str, lines: list[str], wrong: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backend, "read_lines", lambda self, image: lines)
    assert measure(np.zeros((8, 8, 3), np.uint8), prompt) == wrong


def test_shorter_words_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backend, "read_lines", lambda self, image: ["8", "abc"])
    black = np.zeros((8, 8, 3), np.uint8)
    assert [measure(black, "a cup", min_letters=n) for n in (1, 2, 3, 4)] == [2, 1, 1, 0]


def test_threshold() -> None:
    values = np.array([0, 1, 2, np.nan], np.float32)
    assert backend().fails(values).tolist() == [False, True, True, True]
    assert backend(max=1).fails(values).tolist() == [False, False, True, True]


# Where the package is not installed


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(named, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "rapidocr", None)  # importing it fails
    (problem,) = backend().check(REQUEST)
    assert problem.field == ".use"
    assert problem.message == "'garbled_text' needs rapidocr and onnxruntime: pip install 'synthgen[text]'"
    with pytest.raises(BackendError, match=r"filter garbled_text: .*pip install 'synthgen\[text\]'"):
        garbled_text.load()


def test_identity_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise named.PackageNotFoundError(name)

    monkeypatch.setattr(named, "version", missing)
    with pytest.raises(ModelMissing, match="needs rapidocr"):
        backend().identity()


# The reader


@reader
def test_the_package_is_found_without_importing_it() -> None:
    code = """
import sys
from synthgen.backends import Request
from synthgen.filters.garbled_text import Backend, Config
b = Backend(Config(use="garbled_text"), ())
assert not list(b.check(Request(8, 8, False, frozenset()))) and b.identity().startswith("rapidocr==3.")
print(sorted({"rapidocr", "onnxruntime", "cv2", "torch"} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@reader
@pytest.mark.parametrize(
    ("lines", "prompt", "wrong"),
    [
        ((), "a photo of a sign", 0),
        (("MARKET",), "a photo of a sign", 1),
        (("MARKET",), 'a photo of a sign that says "market"', 0),
        (("MRAKET",), 'a photo of a sign that says "market"', 2),
        (("FRESH", "BREAD"), "a photo of 'fresh bread'", 0),
    ],
)
def test_text_that_is_drawn(lines: tuple[str, ...], prompt: str, wrong: int) -> None:
    assert measure(sign(*lines), prompt) == wrong


@reader
def test_small_images() -> None:
    image = sign("MARKET", size=128, scale=0.8)
    assert measure(image, "a photo of a sign") == 1
    assert measure(image, 'a photo of a "market"') == 0


@reader
def test_strokes_that_are_no_letters() -> None:
    rng = np.random.default_rng(0)
    image = np.full((320, 320, 3), 210, np.uint8)
    for left in range(30, 296, 38):
        for start, end in rng.integers((left, 140), (left + 26, 166), (3, 2, 2)):
            cv2.line(image, start.tolist(), end.tolist(), (20, 20, 20), 4, cv2.LINE_AA)
    assert measure(image, "a photo of a sign", min_confidence=0.3) >= 1
    assert measure(image, "a photo of a sign", min_confidence=1) == 0


@reader
def test_the_same_number_again_and_in_silence(capfd: pytest.CaptureFixture[str]) -> None:
    images = sign("MARKET"), np.zeros((64, 64, 3), np.uint8), sign()
    first, again = ([measure(image, "a sign") for image in images] for _ in range(2))
    assert first == again == [1, 0, 0]
    assert capfd.readouterr() == ("", "")
