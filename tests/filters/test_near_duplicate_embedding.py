import numpy as np
import pytest

from synthgen.filters.near_duplicate_embedding import Backend, Config
from synthgen.types import Instances, Job, Sample


def near(**options) -> Backend:
    return Backend(Config(use="near_duplicate_embedding", **options), ())


def circle(*degrees: float) -> np.ndarray:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float16)


@pytest.mark.parametrize(
    ("degrees", "failed"),
    [
        ((), []),
        ((0,), [0]),
        ((0, 90), [0, 0]),
        ((0, 5), [0, 1]),  # cos 5 degrees is 0.996
        ((0, 20), [0, 0]),  # cos 20 degrees is 0.940
        ((0, 0, 0), [0, 1, 1]),
        ((0, 8, 16), [0, 1, 0]),  # the second is gone, so the third is like none that is kept
        ((0, 90, 92, 180, 2), [0, 0, 1, 0, 1]),
    ],
)
def test_by_hand(degrees, failed):
    assert near().fails(circle(*degrees).reshape(-1, 2)).tolist() == [bool(f) for f in failed]


def test_the_threshold_is_the_spec_s():
    assert near(max_cosine=0.9).fails(circle(0, 20)).tolist() == [False, True]


def test_almost_all_that_comparing_every_pair_finds():
    """Random vectors with planted copies, some thousands apart, over many blocks."""
    rng = np.random.default_rng(4)
    vectors = rng.standard_normal((6000, 64)).astype(np.float32)
    copies = rng.choice(np.arange(3000, 6000), 300, replace=False)
    vectors[copies] = vectors[rng.integers(0, 3000, 300)] + 0.05 * rng.standard_normal((300, 64))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = vectors.astype(np.float16)
    full = vectors.astype(np.float32)
    cosines = np.triu(full @ full.T, 1)
    expected = np.zeros(len(full), bool)
    for i in range(len(full)):
        expected[i] = (cosines[:i, i][~expected[:i]] > 0.98).any()
    assert 250 < expected.sum() <= 300
    failed = near().fails(vectors)
    assert not (failed & ~expected).any()
    assert failed.sum() >= 0.99 * expected.sum()
    np.testing.assert_array_equal(failed, near().fails(vectors))


def test_the_vector_of_an_image():
    job = Job(1, 1, 0, 0, "f", "train", "a cup", "", {}, (), None, 7, 32, 32)
    image = np.random.default_rng(1).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    vector = near().measure(Sample(job, image, Instances.empty(32, 32)))
    assert vector.dtype == np.float16 and vector.ndim == 1
    assert np.linalg.norm(vector.astype(np.float32)) == pytest.approx(1, abs=1e-3)
