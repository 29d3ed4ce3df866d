import numpy as np
import pytest
from pydantic import ValidationError

from synthgen.filters.mask_area import Backend, Config
from synthgen.types import Instances, Job, Sample


def sample(masks: np.ndarray) -> Sample:
    count, height, width = masks.shape
    job = Job(1, 1, 0, 0, "f", "train", "a cup", "", {}, (), None, 7, height, width)
    instances = Instances(masks, np.zeros((count, 4), np.float32), np.ones(count, np.int64))
    return Sample(job, np.zeros((height, width, 3), np.uint8), instances)


def test_share_of_the_image() -> None:
    masks = np.zeros((4, 10, 20), bool)
    masks[1, 0, 0] = True  # 1 of 200 px: the least kept
    masks[2, :5] = True
    masks[3] = True
    backend = Backend(Config(use="mask_area", min=0.005, max=0.9), ())
    values = backend.measure(sample(masks))
    assert values.dtype == np.float32
    assert values == pytest.approx([0, 0.005, 0.5, 1])
    assert backend.fails(values).tolist() == [True, False, False, True]


def test_image_without_instances() -> None:
    assert Backend(Config(use="mask_area"), ()).measure(sample(np.zeros((0, 10, 20), bool))).shape == (0,)


def test_a_share_above_1_is_refused() -> None:
    with pytest.raises(ValidationError):
        Config(use="mask_area", max=90)
