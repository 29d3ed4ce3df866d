import numpy as np
import pytest
from pydantic import ValidationError

from synthgen.filters.exposure import Backend, Config
from synthgen.types import Instances, Job, Sample


def measure(image: np.ndarray) -> float:
    height, width = image.shape[:2]
    job = Job(1, 1, 0, 0, "f", "train", "a cup", "", {}, (), None, 7, height, width)
    value = Backend(Config(use="exposure"), ()).measure(Sample(job, image, Instances.empty(height, width)))
    assert value.dtype == np.float32
    assert value.shape == ()
    return float(value)


def parts(*shares: tuple[float, tuple[int, int, int]]) -> np.ndarray:
    """A 100x100 image with each colour in its share of the rows."""
    image = np.zeros((100, 100, 3), np.uint8)
    end = 0
    for share, colour in shares:
        start, end = end, end + round(100 * share)
        image[start:end] = colour
    assert end == 100
    return image


BLACK, WHITE, GREY = (0, 0, 0), (255, 255, 255), (51, 51, 51)  # 51 of 255 is 0.2


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (parts((1, BLACK)), 0),
        (parts((1, WHITE)), 1),
        (parts((1, GREY)), 0.2),
        (parts((1, (204, 204, 204))), 0.8),
        (parts((0.5, BLACK), (0.5, WHITE)), 0.5),  # whatever is dark, something is not
        (parts((0.98, BLACK), (0.02, GREY)), 0.2),  # the brightest hundredth and more
        (parts((0.98, BLACK), (0.02, WHITE)), 0.5),  # a night with lamps
        (parts((0.1, GREY), (0.9, WHITE)), 0.5),
        (parts((0.04, GREY), (0.96, WHITE)), 1),  # less than a twentieth is not white
        (parts((1, (255, 0, 0))), np.sqrt(0.241)),
        (parts((1, (0, 255, 0))), np.sqrt(0.691)),
        (parts((1, (0, 0, 255))), np.sqrt(0.068)),
    ],
)
def test_known_by_hand(image: np.ndarray, expected: float) -> None:
    assert measure(image) == pytest.approx(expected)


def test_is_what_the_percentiles_say() -> None:
    """Below a `min` if and only if the 99th percentile is, above a `max` if and only if the 5th is."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        low = rng.integers(0, 255)
        image = rng.integers(low, rng.integers(low + 1, 257), (20, 20, 3)).astype(np.uint8)
        squares = (image.astype(float) ** 2 * [0.241, 0.691, 0.068]).sum(2)
        dark, bright = np.percentile(np.sqrt(squares) / 255, [99, 5])
        value = measure(image)
        for limit in (0.1, 0.32, 0.5):
            assert (value < limit) == (dark < limit)
        for limit in (0.5, 0.8, 0.95):
            assert (value > limit) == (bright > limit)


def test_thresholds() -> None:
    values = np.array([0, 0.31, 0.32, 0.5, 0.95, 0.96, np.nan], np.float32)
    failed = [True, True, False, False, False, True, True]
    assert Backend(Config(use="exposure"), ()).fails(values).tolist() == failed
    with pytest.raises(ValidationError):
        Config(use="exposure", min=0.6)
    with pytest.raises(ValidationError):
        Config(use="exposure", max=0.4)
