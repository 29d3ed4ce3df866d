import cv2
import numpy as np
import pytest

from synthgen.filters.sharpness import Backend, Config
from synthgen.types import Instances, Job, Sample


def measure(grey: np.ndarray) -> float:
    height, width = grey.shape
    job = Job(1, 1, 0, 0, "f", "train", "a cup", "", {}, (), None, 7, height, width)
    image = np.repeat(grey[..., None], 3, 2).astype(np.uint8)
    value = Backend(Config(use="sharpness"), ()).measure(Sample(job, image, Instances.empty(height, width)))
    assert value.dtype == np.float32
    assert value.shape == ()
    return float(value)


BOARD = np.indices((64, 64)).sum(0) % 2


@pytest.mark.parametrize(
    ("grey", "expected"),
    [
        (np.zeros((32, 32)), 0),  # black
        (np.full((32, 32), 130), 0),  # flat
        (BOARD * 10, 1600),  # each pixel differs by 10 from its four neighbours: +40 and -40
        (BOARD * 20, 6400),  # grows with the square of contrast
    ],
)
def test_known_by_hand(grey: np.ndarray, expected: float) -> None:
    assert measure(grey) == pytest.approx(expected)


def test_blur_and_enlarging_lower_it() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    sharp = measure(noise)
    assert measure(cv2.GaussianBlur(noise, (0, 0), 1)) < sharp / 10
    assert measure(cv2.resize(noise, (128, 128), interpolation=cv2.INTER_CUBIC)) < sharp / 2


def test_threshold() -> None:
    values = np.array([0, 49.9, 50, 5000, np.nan], np.float32)
    assert Backend(Config(use="sharpness", min=50), ()).fails(values).tolist() == [True, True, False, False, True]
