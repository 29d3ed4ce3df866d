import numpy as np
import pytest

from synthgen.errors import BackendError
from synthgen.filters.predicted_iou import Backend, Config
from synthgen.types import Instances, Job, Sample


def sample(count: int, scores: dict[str, list[float]]) -> Sample:
    job = Job(1, 1, 0, 0, "f", "train", "a cup", "", {}, (), None, 7, 8, 8)
    arrays = {name: np.array(values, np.float32) for name, values in scores.items()}
    boxes = np.zeros((count, 4), np.float32)
    instances = Instances(np.zeros((count, 8, 8), bool), boxes, np.ones(count, np.int64), arrays)
    return Sample(job, np.zeros((8, 8, 3), np.uint8), instances)


def test_measures_the_segmenters_score() -> None:
    values = Backend(Config(use="predicted_iou"), ()).measure(sample(2, {"predicted_iou": [0.7, 0.9], "other": [0, 0]}))
    assert values.dtype == np.float32
    assert values == pytest.approx([0.7, 0.9])


def test_image_without_instances() -> None:
    assert Backend(Config(use="predicted_iou"), ()).measure(sample(0, {})).shape == (0,)


def test_a_missing_score_is_named() -> None:
    with pytest.raises(BackendError, match=r"predicted_iou.*'predicted_iou'.*scores there are: other"):
        Backend(Config(use="predicted_iou"), ()).measure(sample(1, {"other": [1.0]}))


@pytest.mark.parametrize(
    ("value", "fails"),
    [
        (0.8, False),  # the threshold itself is kept
        (0.79, True),
        (1.0, False),
        (float("nan"), True),
    ],
)
def test_threshold(value: float, fails: bool) -> None:
    backend = Backend(Config(use="predicted_iou", min=0.8), ())
    assert backend.fails(np.array([value], np.float32)).tolist() == [fails]
