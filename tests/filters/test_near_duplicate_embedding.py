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


def compared(vectors: np.ndarray, most: float) -> np.ndarray:
    """Every pair, one image after the other."""
    full = vectors.astype(np.float32)
    full /= np.linalg.norm(full, axis=1, keepdims=True)
    cosines = np.triu(full @ full.T, 1)
    failed = np.zeros(len(full), bool)
    for i in range(len(full)):
        failed[i] = (cosines[:i, i][~failed[:i]] > most).any()
    return failed


def planted(count: int, size: int, spread: np.ndarray | float = 1.0) -> np.ndarray:
    """Random vectors with copies that are some thousands apart, over many blocks."""
    rng = np.random.default_rng(4)
    vectors = (spread * rng.standard_normal((count, size))).astype(np.float32)
    copies = rng.choice(np.arange(count // 2, count), 300, replace=False)
    vectors[copies] = vectors[rng.integers(0, count // 2, 300)]
    vectors[copies] += 0.05 * spread * rng.standard_normal((300, size))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float16)


@pytest.mark.parametrize("size", [8, 64, 300])
@pytest.mark.parametrize("most", [0.98, 0.999, 0.3, -0.5])
def test_all_that_comparing_every_pair_finds(size: int, most: float) -> None:
    vectors = planted(6000, size)
    failed = near(max_cosine=most).fails(vectors)
    assert 0 < failed.sum() < 6000 or most < 0.98
    np.testing.assert_array_equal(failed, compared(vectors, most))


def test_vectors_that_differ_on_few_axes() -> None:
    vectors = planted(3000, 200, 0.97 ** np.arange(200))
    failed = near().fails(vectors)
    assert failed.sum() >= 250
    np.testing.assert_array_equal(failed, compared(vectors, 0.98))


def test_what_could_not_be_measured_fails_and_hides_nothing() -> None:
    vectors = circle(0, 0, 90, 0)
    vectors[0] = np.nan
    assert near().fails(vectors).tolist() == [True, False, False, True]


def test_the_vector_of_an_image():
    job = Job(1, 1, 0, 0, "f", "train", "a cup", "", {}, (), None, 7, 32, 32)
    image = np.random.default_rng(1).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    vector = near().measure(Sample(job, image, Instances.empty(32, 32)))
    assert vector.dtype == np.float16 and vector.ndim == 1
    assert np.linalg.norm(vector.astype(np.float32)) == pytest.approx(1, abs=1e-3)
