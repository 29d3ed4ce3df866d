from math import comb

import numpy as np
import pytest
from pydantic import ValidationError

from synthgen.filters import near_duplicate
from synthgen.filters.near_duplicate import Backend, Config
from synthgen.types import Instances, Job, Sample


def backend(max_distance: int = 4) -> Backend:
    return Backend(Config(use="near_duplicate", max_distance=max_distance), ())


def hash_of(image: np.ndarray) -> int:
    height, width = image.shape[:2]
    job = Job(1, 1, 0, 0, "f", "train", "a cup", "", {}, (), None, 7, height, width)
    value = backend().measure(Sample(job, image, Instances.empty(height, width)))
    assert value.dtype == np.uint64
    assert value.shape == ()
    return int(value)


def brute_force(hashes: np.ndarray, distance: int) -> list[bool]:
    kept: list[int] = []
    failed = []
    for value in hashes.tolist():
        failed.append(any((value ^ other).bit_count() <= distance for other in kept))
        if not failed[-1]:
            kept.append(value)
    return failed


def planted(seed: int, count: int) -> np.ndarray:
    """Random hashes, equal ones, and ones up to 20 bits away from others, in random order."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64, count, dtype=np.uint64)
    near = hashes[rng.integers(0, count, count)]
    for i, bits in enumerate(rng.integers(0, 20, count)):
        for bit in rng.choice(64, bits, replace=False):
            near[i] ^= np.uint64(1 << int(bit))
    return rng.permutation(np.concatenate([hashes, near, hashes[:20]]))


def picture(seed: int, size: int = 96) -> np.ndarray:
    import cv2

    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(small, (size, size), interpolation=cv2.INTER_CUBIC), np.uint8)


@pytest.mark.parametrize("distance", [0, 1, 3, 4, 6, 7, 8, 16])
def test_agrees_with_brute_force(distance: int) -> None:
    hashes = planted(distance, 900)  # more than one block
    assert backend(distance).fails(hashes).tolist() == brute_force(hashes, distance)


@pytest.mark.parametrize("distance", [2, 4, 16])
def test_agrees_with_brute_force_when_all_are_alike(distance: int) -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**20, 2500, dtype=np.uint64) << np.uint64(7)
    assert backend(distance).fails(hashes).tolist() == brute_force(hashes, distance)


@pytest.mark.parametrize("distance", [0, 1, 4, 7])
@pytest.mark.parametrize("bands", [1, 2, 3])
@pytest.mark.parametrize("pairs", [0, 10**6])
def test_agrees_with_brute_force_however_it_goes(
    distance: int, bands: int, pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among few hashes as among millions, with all pairs that agree looked at, and with too many of them."""
    monkeypatch.setattr(near_duplicate, "_BANDS", [bands])
    monkeypatch.setattr(near_duplicate, "_COMPARED", 1e9)
    monkeypatch.setattr(near_duplicate, "_PAIRS", pairs)
    monkeypatch.setattr(near_duplicate, "_FEW", 50)
    monkeypatch.setattr(near_duplicate, "_AT_ONCE", 7)
    assert len(near_duplicate.bit_masks(distance, 700)) == comb(distance + bands, bands)
    hashes = np.unique(planted(distance + 100, 700))
    assert (near_duplicate.near_pairs(hashes, distance) is None) == (not pairs and distance > 0)
    shuffled = np.random.default_rng(0).permutation(hashes)
    assert backend(distance).fails(shuffled).tolist() == brute_force(shuffled, distance)


def test_pairs_that_agree() -> None:
    hashes = np.array([0x10, 0x23, 0x11, 0x24, 0x12, 0x30], np.uint64)
    found = [pair for some in near_duplicate.agreeing(hashes, np.uint64(0xF0)) for pair in zip(*some, strict=True)]
    assert sorted(found) == [(2, 0), (3, 1), (4, 0), (4, 2)]
    found = [pair for some in near_duplicate.agreeing(hashes, np.uint64(0xF0), 2) for pair in zip(*some, strict=True)]
    assert sorted(found) == [(2, 0), (3, 1), (4, 0)]


@pytest.mark.parametrize("count", [1, 10**4, 10**6, 10**8])
def test_hashes_within_the_distance_agree_in_a_mask(count: int) -> None:
    rng = np.random.default_rng(count)
    for distance in range(17):
        masks = [int(mask) for mask in near_duplicate.bit_masks(distance, count)]
        for _ in range(50 if masks else 0):
            changed = sum(1 << int(bit) for bit in rng.choice(64, distance, replace=False))
            assert any(changed & mask == 0 for mask in masks)
    assert not near_duplicate.bit_masks(16, count)


def test_only_kept_images_count() -> None:
    """A chain, each 4 bits from the last: the second fails, so the third, 8 bits from the first, is kept."""
    chain = np.array([0x00, 0x0F, 0xFF], np.uint64)
    assert backend().fails(chain).tolist() == [False, True, False]
    assert backend().fails(chain[[1, 0, 2]]).tolist() == [False, True, True]


@pytest.mark.parametrize("count", [0, 1])
def test_few(count: int) -> None:
    assert backend().fails(np.zeros(count, np.uint64)).tolist() == [False] * count


def test_hash_of_look_alikes() -> None:
    first = picture(0)
    noisy = np.clip(first + np.random.default_rng(1).normal(0, 3, first.shape), 0, 255).astype(np.uint8)
    dimmed = (first * 0.9).astype(np.uint8)
    assert (hash_of(first) ^ hash_of(noisy)).bit_count() <= 4
    assert (hash_of(first) ^ hash_of(dimmed)).bit_count() <= 4
    assert (hash_of(first) ^ hash_of(picture(2))).bit_count() > 16


@pytest.mark.parametrize("grey", [0, 77, 255])
def test_hash_of_a_flat_image(grey: int) -> None:
    assert hash_of(np.full((50, 70, 3), grey, np.uint8)) == 0


def test_options() -> None:
    with pytest.raises(ValidationError):
        Config(use="near_duplicate", max_distance=17)
    assert Config(use="near_duplicate", max_distance=3).fingerprint() == Config(use="near_duplicate").fingerprint()
