import numpy as np
import pytest

from synthgen.backends import Request
from synthgen.errors import BackendError
from synthgen.grounders import layout
from synthgen.types import Category, Job

CATEGORIES = (Category(1, "cat"), Category(2, "dog"))
IMAGE = np.zeros((48, 64, 3), np.uint8)


def backend():
    return layout.Backend(layout.Config(use="layout"), CATEGORIES)


def job(asked, boxes):
    return Job(7, 1, 0, 0, "f", "train", "a prompt", "", {}, asked, boxes, 1, 48, 64)


def test_boxes_are_those_asked_for_in_their_order():
    jobs = [job((2, 1, 2), ((0, 0, 10, 10), (5, 6, 40, 48), (20, 1, 64, 30))), job((1,), ((1, 2, 3, 4),))]
    first, second = backend().ground(jobs, [IMAGE, IMAGE])
    assert first.boxes.tolist() == [[0, 0, 10, 10], [5, 6, 40, 48], [20, 1, 64, 30]]
    assert first.category_id.tolist() == [2, 1, 2]
    assert first.scores == {}
    assert second.boxes.tolist() == [[1, 2, 3, 4]]


def test_a_layout_of_nothing_gives_no_boxes():
    (found,) = backend().ground([job((), ())], [IMAGE])
    assert found.boxes.shape == (0, 4)


def test_a_job_without_layout_is_refused():
    with pytest.raises(BackendError, match="image 7 has no layout"):
        backend().ground([job((1,), None)], [IMAGE])


@pytest.mark.parametrize(("has_layout", "fields"), [(True, []), (False, ["layout"])])
def test_check_wants_a_layout(has_layout, fields):
    problems = list(backend().check(Request(48, 64, has_layout, frozenset())))
    assert [problem.field for problem in problems] == fields


def test_there_are_no_weights_behind_it():
    assert backend().identity() == "" and list(backend().licences()) == []
