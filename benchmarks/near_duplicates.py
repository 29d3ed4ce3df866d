"""Near-duplicates among many images: what the filters reject, against what a comparison of all pairs rejects.

    python benchmarks/near_duplicates.py [--images 20000]

A tenth of the images are copies of earlier ones. Prints for `near_duplicate` (hash) and `near_duplicate_embedding`
(CLIP) the number of rejected images, the recall, the seconds of the filter and of the comparison; and how many pairs of
similar images, and how many families, have members in two splits.
"""

import argparse
import io
import time
from dataclasses import replace

import cv2
import numpy as np
from PIL import Image

from synthgen.filters import near_duplicate, near_duplicate_embedding
from synthgen.mini import scenes
from synthgen.planning.jobs import split_of
from synthgen.types import Instances, Job, Sample

SPLITS = {"train": 0.8, "val": 0.1, "test": 0.1}


def spoiled(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """A copy that looks the same to a person: with noise, JPEG, other light, or a shift of one pixel."""
    kind = rng.integers(4)
    if kind == 0:
        return (image.astype(int) + rng.integers(-3, 4, image.shape)).clip(0, 255).astype(np.uint8)
    if kind == 1:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=85)
        return np.asarray(Image.open(file))
    if kind == 2:
        return (image * rng.uniform(0.97, 1.03)).clip(0, 255).astype(np.uint8)
    return cv2.warpAffine(image, np.float32([[1, 0, 1], [0, 1, 0]]), image.shape[1::-1], borderMode=cv2.BORDER_REFLECT)


def unit(vectors: np.ndarray) -> np.ndarray:
    """float16 (N, D) -> float32 (N, D), of length 1."""
    full = vectors.astype(np.float32)
    return full / np.linalg.norm(full, axis=1, keepdims=True)


def compared(values: np.ndarray, pairs, block: int = 500) -> np.ndarray:
    """bool (N,): what a comparison of all pairs rejects, a block of rows at a time. Later rows meet only kept ones."""
    failed = np.zeros(len(values), bool)
    for start in range(0, len(values), block):
        rows = values[start : start + block]
        near_kept = np.zeros(len(rows), bool)
        if start:
            near_kept = (pairs(rows, values[:start]) & ~failed[:start]).any(1)
        alike = pairs(rows, rows)
        for i in range(len(rows)):
            failed[start + i] = near_kept[i] or (alike[i, :i] & ~failed[start : start + i]).any()
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000)
    count = parser.parse_args().images
    by_hash = near_duplicate.Backend(near_duplicate.Config(use="near_duplicate"), ())
    by_clip = near_duplicate_embedding.Backend(near_duplicate_embedding.Config(use="near_duplicate_embedding"), ())
    rng = np.random.default_rng([2**40, 9])
    job = Job(1, 1, 1, 0, "", "train", "", "", {}, (), None, 0, scenes.SIZE, scenes.SIZE)
    nothing = Instances.empty(scenes.SIZE, scenes.SIZE)
    hashes, vectors, families, recent = [], [], [], []
    for i in range(count):
        planted = bool(recent) and rng.random() < 0.1
        if planted:
            image, family = recent[int(rng.integers(len(recent)))]
            image = spoiled(rng, image)
        else:
            image, family = scenes.draw(rng).image, f"{i // 3}"  # three images of a prompt and layout
            recent = [*recent[-499:], (image, family)]
        families.append(family)
        sample = Sample(replace(job, id=i + 1), image, nothing)
        hashes.append(by_hash.measure(sample))
        vectors.append(by_clip.measure(sample))
    hash_values, vector_values = np.array(hashes, np.uint64), np.stack(vectors)
    print(f"{count:,} images, a tenth of them copies of earlier ones")
    for name, f, values, compare in (
        ("near_duplicate", by_hash, hash_values,
         lambda a, b: np.bitwise_count(a[:, None] ^ b) <= by_hash.config.max_distance),
        ("near_duplicate_embedding", by_clip, vector_values,
         lambda a, b: unit(a) @ unit(b).T > by_clip.config.max_cosine),
    ):  # fmt: skip
        began = time.perf_counter()
        failed = f.fails(values)
        quick = time.perf_counter() - began
        began = time.perf_counter()
        expected = compared(values, compare)
        slow = time.perf_counter() - began
        recall = (failed & expected).sum() / expected.sum()
        print(
            f"{name}: {failed.sum():,} rejected; recall {recall:.2%} of the {expected.sum():,} that comparing all "
            f"pairs rejects, {(failed & ~expected).sum()} besides; {quick:.2f} s, all pairs {slow:.1f} s"
        )
        kept = np.flatnonzero(~failed)
        split = np.array([split_of(families[i], SPLITS) for i in kept])
        straddling = sum(
            int((compare(values[kept[split == a]], values[kept[split == b]])).sum())
            for a, b in (("train", "val"), ("train", "test"), ("val", "test"))
        )
        torn = sum(len(set(split[np.array([families[i] == family for i in kept])])) > 1
                   for family in {families[i] for i in kept[:300]})  # fmt: skip
        print(f"  pairs alike in two splits: {straddling}; families in two splits, of 300 images': {torn}")


if __name__ == "__main__":
    main()
