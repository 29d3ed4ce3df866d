import numpy as np
import pytest
from pydantic import ValidationError

from synthgen.filters.information import Backend, Config
from synthgen.types import Instances, Job, Sample


def measure(grey: np.ndarray) -> float:
    height, width = grey.shape
    job = Job(1, 1, 0, 0, "f", "train", "a cup", "", {}, (), None, 7, height, width)
    image = np.repeat(grey[..., None], 3, 2).astype(np.uint8)
    value = Backend(Config(use="information"), ()).measure(Sample(job, image, Instances.empty(height, width)))
    assert value.dtype == np.float32
    assert value.shape == ()
    return float(value)


@pytest.mark.parametrize(
    ("grey", "expected"),
    [
        (np.zeros((32, 32)), 0),
        (np.full((32, 32), 128), 0),
        (np.indices((64, 64)).sum(0) % 2 * 255, 1),  # two levels, as often
        (np.indices((64, 64))[1] % 4 * 60, 2),
        (np.arange(256).reshape(16, 16), 8),  # every level once
        (np.arange(4).reshape(2, 2).clip(0, 1), 0.811278),  # a quarter and three quarters
    ],
)
def test_known_by_hand(grey: np.ndarray, expected: float) -> None:
    value = measure(grey)
    assert value == pytest.approx(expected, abs=1e-6)
    assert not np.signbit(value)


def test_where_levels_are_does_not_matter() -> None:
    grey = np.random.default_rng(0).normal(128, 30, (64, 64)).clip(0, 255).round()
    assert measure(grey) == measure(np.sort(grey.ravel()).reshape(64, 64)) > 6


@pytest.mark.parametrize("sigma", [0, 0.5, 1])
def test_a_grey_frame_with_faint_noise_fails(sigma: float) -> None:
    value = measure(np.random.default_rng(0).normal(128, sigma, (128, 128)).round())
    assert Backend(Config(use="information"), ()).fails(np.array([value], np.float32)).all()


def test_threshold() -> None:
    values = np.array([0, 2.99, 3, 8, np.nan], np.float32)
    assert Backend(Config(use="information"), ()).fails(values).tolist() == [True, True, False, False, True]
    with pytest.raises(ValidationError):
        Config(use="information", min=9)
