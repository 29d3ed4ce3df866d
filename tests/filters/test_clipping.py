from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from synthgen.filters.clipping import Backend, Config
from synthgen.types import Instances, Job, Sample


def measure(rows: list[tuple[int, int, int]], **options: Any) -> float:
    """Of an image with a row of each colour."""
    image = np.repeat(np.array(rows, np.uint8)[:, None], 6, 1)
    job = Job(1, 1, 0, 0, "f", "train", "a cup", "", {}, (), None, 7, len(rows), 6)
    sample = Sample(job, image, Instances.empty(len(rows), 6))
    value = Backend(Config(use="clipping", **options), ()).measure(sample)
    assert value.dtype == np.float32
    assert value.shape == ()
    return float(value)


BLACK, WHITE, GREY, RED, YELLOW = (0, 0, 0), (255, 255, 255), (128, 128, 128), (255, 0, 0), (255, 255, 40)


@pytest.mark.parametrize(
    ("rows", "everything", "anything"),
    [
        ([BLACK, WHITE], 1, 1),
        ([GREY], 0, 0),
        ([BLACK, GREY, GREY, WHITE], 0.5, 0.5),
        ([RED, GREY], 0, 0.5),  # a colour is no fault; but it can become no redder
        ([YELLOW, WHITE, GREY, GREY], 0.25, 0.5),
        ([(1, 1, 1), (254, 254, 254)], 0, 0),
    ],
)
def test_known_by_hand(rows: list[tuple[int, int, int]], everything: float, anything: float) -> None:
    assert measure(rows) == pytest.approx(everything)
    assert measure(rows, channels="any") == pytest.approx(anything)


def test_tolerance() -> None:
    rows = [(3, 0, 2), (4, 0, 2), (252, 255, 253), (251, 255, 255)]
    assert measure(rows) == 0
    assert measure(rows, tolerance=3) == 0.5
    assert measure(rows, tolerance=4) == 1


def test_options() -> None:
    values = np.array([0, 0.5, 0.51, np.nan], np.float32)
    assert Backend(Config(use="clipping"), ()).fails(values).tolist() == [False, False, True, True]
    plain = Config(use="clipping").fingerprint()
    assert Config(use="clipping", max=0.1).fingerprint() == plain  # compared with numbers already stored
    assert Config(use="clipping", channels="any").fingerprint() != plain
    with pytest.raises(ValidationError):
        Config(use="clipping", max=50)
