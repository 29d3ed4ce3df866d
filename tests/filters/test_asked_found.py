import numpy as np
import pytest

from synthgen.filters.asked_found import Backend, Config
from synthgen.types import Category, Instances, Job, Sample

CATEGORIES = (Category(1, "cat"), Category(2, "dog"))


def sample(asked: tuple[int, ...], found: tuple[int, ...], empty: tuple[int, ...] = ()) -> Sample:
    """A 8x8 image with a full mask for each of `found` and a mask without pixels for each of `empty`."""
    n = len(found) + len(empty)
    masks = np.zeros((n, 8, 8), bool)
    masks[: len(found)] = True
    instances = Instances(masks, np.zeros((n, 4), np.float32), np.array([*found, *empty], np.int64))
    job = Job(1, 1, 1, 0, "f", "train", "", "", {}, asked, None, 0, 8, 8)
    return Sample(job, np.zeros((8, 8, 3), np.uint8), instances)


@pytest.mark.parametrize(
    ("asked", "found", "empty", "share"),
    [
        ((), (), (), 1.0),  # background asked for, background made
        ((), (1,), (), 1.0),
        ((1,), (1,), (), 1.0),
        ((1,), (), (), 0.0),
        ((1,), (2,), (), 0.0),  # another class does not stand in
        ((1,), (), (1,), 0.0),  # an instance without a pixel was not found
        ((1, 2), (2,), (), 0.5),
        ((1, 1), (1,), (), 0.5),  # two asked for, one found
        ((1, 1), (1, 1, 1), (), 1.0),  # more than asked for
        ((1, 1, 2, 2), (1, 2, 2), (1,), 0.75),
    ],
)
def test_share(asked: tuple[int, ...], found: tuple[int, ...], empty: tuple[int, ...], share: float) -> None:
    f = Backend(Config(use="asked_found"), CATEGORIES)
    value = f.measure(sample(asked, found, empty))
    assert value == np.float32(share)
    assert f.fails(value[None]).tolist() == [share < 1]
