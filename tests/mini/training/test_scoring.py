"""The arithmetic of the scores, by hand."""

import numpy as np
import pytest

from synthgen.mini.training import scoring
from synthgen.models.discovery import Found


def test_middle_is_the_deepest_pixel():
    mask = np.zeros((20, 30), bool)
    mask[2:9, 5:12] = True  # 7x7
    mask[5, 12:29] = True  # with a long handle
    assert scoring.middle(mask) == (8, 5)


def test_in_place_by_hand():
    boxes = np.array([[0, 0, 10, 10], [20, 20, 40, 40], [50, 0, 60, 10]], np.float32)
    found = Found(
        np.zeros((3, 64, 64), bool),
        np.array([[0, 0, 10, 6], [20, 20, 40, 40], [50, 0, 60, 4]], np.float32),  # IoU 0.6, 1, 0.4
        np.array([1, 7, 3]),
        np.ones(3, np.float32),
    )
    assert scoring.in_place(found, boxes, np.array([1, 2, 3])).tolist() == [True, False, False]
    assert scoring.in_place(found, boxes, np.array([1, 7, 3])).tolist() == [True, True, False]


@pytest.mark.parametrize(("hits", "text"), [([True, True, False, True], "75.0 %"), ([0, 0], "0.0 %")])
def test_percent(hits, text):
    assert scoring.percent(hits) == text
