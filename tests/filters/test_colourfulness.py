import numpy as np
import pytest

from synthgen.filters.colourfulness import Backend, Config
from synthgen.types import Instances, Job, Sample


def measure(image: np.ndarray) -> float:
    height, width = image.shape[:2]
    job = Job(1, 1, 0, 0, "f", "train", "a cup", "", {}, (), None, 7, height, width)
    value = Backend(Config(use="colourfulness"), ()).measure(Sample(job, image, Instances.empty(height, width)))
    assert value.dtype == np.float32
    assert value.shape == ()
    return float(value)


def halves(left: tuple[int, int, int], right: tuple[int, int, int]) -> np.ndarray:
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, :4], image[:, 4:] = left, right
    return image


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (halves((0, 0, 0), (255, 255, 255)), 0),  # no colour, whatever the contrast
        (halves((100, 100, 100), (100, 100, 100)), 0),
        # One colour: rg = 100, yb = (100 + 0) / 2 = 50, no spread: 0.3 * sqrt(100² + 50²)
        (halves((100, 0, 0), (100, 0, 0)), 0.3 * np.hypot(100, 50)),
        # rg is 100 and -100: spread 100, mean 0; yb is 50 in both
        (halves((100, 0, 0), (0, 100, 0)), 100 + 0.3 * 50),
        # rg is 0; yb is 200 and -200
        (halves((200, 200, 0), (0, 0, 200)), 200),
    ],
)
def test_known_by_hand(image: np.ndarray, expected: float) -> None:
    assert measure(image) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_fading_lowers_it() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    grey = image.mean(2, keepdims=True)
    values = [measure((grey + share * (image - grey)).astype(np.uint8)) for share in (1, 0.5, 0.1)]
    assert values == sorted(values, reverse=True)


def test_rejects_nothing_unless_told_to() -> None:
    values = np.array([0, 14, 15, 200], np.float32)
    assert not Backend(Config(use="colourfulness"), ()).fails(values).any()
    assert Backend(Config(use="colourfulness", min=15), ()).fails(values).tolist() == [True, True, False, False]
