"""The filters whose number is a score that the segmenter gave."""

import numpy as np
import pytest

from synthgen.backends import ScoreFilter
from synthgen.errors import BackendError
from synthgen.filters import box_agreement, predicted_iou, stability
from synthgen.types import Instances, Job, Sample

FILTERS = [
    (predicted_iou, "predicted_iou", 0.8),
    (stability, "stability_score", 0.5),
    (box_agreement, "box_iou", 0.7),
]


def sample(count: int, scores: dict[str, list[float]]) -> Sample:
    job = Job(1, 1, 0, 0, "f", "train", "a cup", "", {}, (), None, 7, 8, 8)
    arrays = {name: np.array(values, np.float32) for name, values in scores.items()}
    boxes = np.zeros((count, 4), np.float32)
    instances = Instances(np.zeros((count, 8, 8), bool), boxes, np.ones(count, np.int64), arrays)
    return Sample(job, np.zeros((8, 8, 3), np.uint8), instances)


@pytest.fixture(params=FILTERS, ids=[name for _, name, _ in FILTERS])
def case(request: pytest.FixtureRequest) -> tuple[ScoreFilter, str, float]:
    module, score, least = request.param
    return module.Backend(module.Config(use=module.__name__.rpartition(".")[2]), ()), score, least


def test_measures_the_score(case: tuple[ScoreFilter, str, float]) -> None:
    f, score, _ = case
    values = f.measure(sample(2, {score: [0.7, 0.9], "other": [0, 0]}))
    assert values.dtype == np.float32
    assert values == pytest.approx([0.7, 0.9])


def test_image_without_instances(case: tuple[ScoreFilter, str, float]) -> None:
    assert case[0].measure(sample(0, {})).shape == (0,)


def test_a_missing_score_is_named(case: tuple[ScoreFilter, str, float]) -> None:
    f, score, _ = case
    with pytest.raises(
        BackendError, match=rf"filter {f.config.use}: needs the score '{score}'; the labels have: other"
    ):
        f.measure(sample(1, {"other": [1.0]}))


def test_the_default_threshold(case: tuple[ScoreFilter, str, float]) -> None:
    f, _, least = case
    values = np.array([least, least - 0.01, 1.0, float("nan")], np.float32)
    assert f.fails(values).tolist() == [False, True, False, True]  # the threshold itself is kept
