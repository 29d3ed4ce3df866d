"""Plan, judge and near-duplicates over records that no model has made, at several sizes.

    python benchmarks/scale.py [--images 10000 100000 1000000] [--stages plan judge dedup]

- plan: `plan_round` over a spec with a layout, slots and 40 classes. It drops the jobs.
- judge: `judge_run` over a run folder without images, with jobs, labels (five for each image) and measures of the
  default filters. It makes verdicts, every figure of `quality.json`, and the files.
- dedup: `near_duplicate` over hashes. A tenth are copies of earlier ones with up to 4 bits changed. Half of the hashes
  are in families of about 500 that share all but some 10 bits. A comparison of all pairs at 20,000 images gives the
  recall.

Every stage has a process of its own. Prints for each stage and size: wall time, CPU time, peak memory with imports, the
CPU time of an image, and this time divided by that at the first size. CPU time does not depend much on other work on
the machine. The records of a million images need 700 MB of temporary files.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = 40
PER_IMAGE = 5
SIZE = 512
SHARD = 4096
BASE = {
    "name": "scale", "height": SIZE, "width": SIZE, "shard_size": SHARD, "objects_per_image": [3, 7],
    "classes": [f"thing {i}" for i in range(CLASSES)], "layout": {"size": [0.1, 0.3], "max_overlap": 0.3},
    "prompts": {
        "templates": ["a photo of {objects} on {ground}", "{objects} in {light} light"],
        "slots": {"ground": ["grass", "sand", "snow"], "light": ["bright", "soft", "evening"]},
    },
}  # fmt: skip
RLES = 8  # The number of different RLEs, which the labels share.


def spec_of(images: int, **changes: Any) -> Any:
    from synthgen.spec import DatasetSpec

    return DatasetSpec.parse({**BASE, "count": int(0.6 * images), "budget": 2.0, **changes})


def plan(images: int, folder: Path) -> dict[str, Any]:
    from synthgen.planning.jobs import plan_round
    from synthgen.planning.rounds import first_round

    spec = spec_of(images, count=images)
    began = time.perf_counter(), time.process_time()
    for _ in plan_round(spec, 1, first_round(spec)):
        pass
    return times_since(began)


def judge(images: int, folder: Path) -> dict[str, Any]:
    from synthgen.pipeline.build import Build
    from synthgen.pipeline.judge import judge_run
    from synthgen.store.run import Run

    build = Build.open(Run(folder))
    began = time.perf_counter(), time.process_time()
    quality = judge_run(build)
    return times_since(began) | {"result": f"{images * PER_IMAGE:,} labels, {quality.instances:,} of them accepted"}


def dedup(images: int, folder: Path) -> dict[str, Any]:
    from synthgen.filters.near_duplicate import Backend, Config

    f = Backend(Config(use="near_duplicate"), ())
    hashes = look_alikes(images)
    began = time.perf_counter(), time.process_time()
    failed = f.fails(hashes)
    return times_since(began) | {"result": f"{failed.sum():,} rejected"}


def recall(images: int, folder: Path) -> dict[str, Any]:
    """The recall of `near_duplicate`, against a comparison of each image with every kept one before it."""
    from synthgen.filters.near_duplicate import Backend, Config

    f = Backend(Config(use="near_duplicate"), ())
    hashes = look_alikes(images)
    began = time.perf_counter(), time.process_time()
    failed = f.fails(hashes)
    found = times_since(began)
    expected, kept = np.zeros(images, bool), np.zeros(images, np.uint64)
    for i, value in enumerate(hashes):
        before = kept[: i - expected[:i].sum()]
        expected[i] = (np.bitwise_count(before ^ value) <= f.config.max_distance).any()
        if not expected[i]:
            kept[len(before)] = value
    share = (failed & expected).sum() / expected.sum()
    return found | {"result": f"recall {share:.2%} of {expected.sum():,}, {(failed & ~expected).sum()} besides"}


STAGES = {"plan": plan, "judge": judge, "dedup": dedup, "recall": recall}


def times_since(began: tuple[float, float]) -> dict[str, Any]:
    return {"seconds": time.perf_counter() - began[0], "cpu": time.process_time() - began[1]}


def flipped(rng: np.random.Generator, hashes: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """Changes at most `bits` (N,) bits of each of the hashes (N,)."""
    found = hashes.copy()
    for k in range(bits.max(initial=0)):
        found ^= np.where(k < bits, np.uint64(1) << rng.integers(0, 64, len(hashes), np.uint64), np.uint64(0))
    return found


def look_alikes(count: int) -> np.ndarray:
    """uint64 (count,): the hashes that the docstring of this module describes."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, count, np.uint64)
    centres = rng.integers(0, 2**64, max(1, count // 1000), np.uint64)
    family = rng.random(count) < 0.5
    near = centres[rng.integers(0, len(centres), count)]
    hashes[family] = flipped(rng, near, rng.integers(4, 17, count))[family]
    copies = np.flatnonzero(rng.random(count) < 0.1)
    of = (rng.random(len(copies)) * copies).astype(int)
    hashes[copies] = flipped(rng, hashes[of], rng.integers(0, 5, len(copies)))
    return hashes


def synthesise(images: int, folder: Path, **changes: Any) -> Path:
    """Writes a run folder up to its measures, without images; -> its root."""
    from synthgen.pipeline.build import Build
    from synthgen.pipeline.stages import Stages
    from synthgen.store.run import Run

    spec = spec_of(images, **changes)
    build = Build.start(Run.at(folder, spec.name, 1), spec, Stages.of(spec))
    weights = {"classes": dict.fromkeys(range(1, CLASSES + 1), 1.0), "objects": {PER_IMAGE: 1.0}}
    build.run.rounds.write(1, {"number": 1, "start": 0, "count": images, **weights})
    hashes, rng = look_alikes(images), np.random.default_rng(1)
    for shard, start in enumerate(range(0, images, spec.shard_size)):
        _write_shard(build, shard, np.arange(start, min(start + spec.shard_size, images)), hashes, rng)
    return build.run.root


def _write_shard(build: Any, shard: int, index: np.ndarray, hashes: np.ndarray, rng: np.random.Generator) -> None:
    import pyarrow as pa

    from synthgen.store.tables import JOB_SCHEMA

    run, n, ids = build.run, len(index), index + 1
    asked = np.full(n, PER_IMAGE)
    offsets = np.concatenate([[0], asked.cumsum()]).astype(np.int32)
    each = np.repeat(ids, asked)
    m = len(each)
    classes = rng.integers(1, CLASSES + 1, m).astype(np.int32)
    corner, side = rng.integers(0, SIZE // 2, (m, 2)), rng.integers(SIZE // 10, SIZE // 3, (m, 2))
    boxes = np.concatenate([corner, corner + side], 1)
    layout = pa.FixedSizeListArray.from_arrays(pa.array(boxes.reshape(-1).astype(np.int32)), 4)
    texts = np.array([f"{i:016x}" for i in rng.integers(0, 2**63, n)])
    jobs = {
        "image_id": ids, "run": np.ones(n, np.int32), "round": np.ones(n, np.int32), "index": index,
        "family": texts, "prompt": np.char.add("a photo of things on grass, ", texts), "negative_prompt": [""] * n,
        "slots": [[("ground", "grass")]] * n, "asked": pa.ListArray.from_arrays(offsets, pa.array(classes)),
        "layout": pa.ListArray.from_arrays(offsets, layout), "seed": rng.integers(0, 2**63, n),
        "height": np.full(n, SIZE, np.int32), "width": np.full(n, SIZE, np.int32),
    }  # fmt: skip
    columns = [pa.array(jobs[f.name], f.type) for f in JOB_SCHEMA]
    file = run.tables.write(run.paths.table("jobs", shard), pa.Table.from_arrays(columns, schema=JOB_SCHEMA))
    counts = {"images": n, "round": 1}
    run.marks.commit("plan", shard, build.inputs("plan"), [file], counts=counts, environment=run.rounds.read()[0])
    run.marks.commit("generate", shard, build.inputs("generate", shard), [], seconds=n / 1.5, counts={"images": n})

    found = np.where(rng.random(m) < 0.02, rng.integers(1, CLASSES + 1, m), classes).astype(np.int32)
    area = np.where(rng.random(m) < 0.001, 0, side.prod(1) * 3 // 4)
    score = {
        name: (1 - rng.beta(1, 40, m)).astype(np.float32) for name in ("predicted_iou", "stability_score", "box_iou")
    }
    xyxy = pa.FixedSizeListArray.from_arrays(pa.array((boxes + rng.random((m, 4))).reshape(-1).astype(np.float32)), 4)
    labels = {
        "image_id": each, "instance": (np.arange(m) - np.repeat(offsets[:-1], asked)).astype(np.int32),
        "category_id": found, "bbox_xyxy": xyxy, "area": area, "height": np.full(m, SIZE, np.int32),
        "width": np.full(m, SIZE, np.int32), "rle": np.array([f"{k:x}" * 60 for k in range(RLES)])[each % RLES],
        **score,
    }  # fmt: skip
    file = run.tables.write(run.paths.table("labels", shard), pa.table(labels))
    run.marks.commit("label", shard, build.inputs("label", shard), [file], seconds=n / 25, counts={"images": n})

    of_image = np.ones(n + m, bool)
    of_image[np.delete(np.arange(n + m), offsets[:-1] + np.arange(n))] = False
    numbers = {
        "asked_found": np.where(rng.random(n) < 0.05, 0.5, 1), "predicted_iou": score["predicted_iou"],
        "stability": score["stability_score"], "box_agreement": score["box_iou"], "mask_area": area / SIZE**2,
        "mask_overlap": rng.beta(1, 60, m), "class_agreement": rng.beta(20, 1, m), "sharpness": rng.gamma(3, 60, n),
        "near_duplicate": hashes[index],
    }  # fmt: skip

    def column(values: np.ndarray, kind: Any) -> Any:
        whole = np.zeros(n + m, kind)
        rows = of_image if len(values) == n else ~of_image
        whole[rows] = values
        return pa.array(whole, mask=~rows)

    measures = {"image_id": np.sort(np.concatenate([ids, each])), "instance": column(labels["instance"], np.int32)}
    measures |= {name: column(numbers[name], f.dtype) for name, f in build.stages.filters.items()}
    file = run.tables.write(run.paths.table("measures", shard), pa.table(measures))
    run.marks.commit("measure", shard, build.inputs("measure", shard), [file], seconds=n / 60, counts={"images": n})


def child(stage: str, images: int, folder: Path) -> dict[str, Any]:
    """Runs a stage in a process of its own; -> its times and peak memory."""
    command = [sys.executable, __file__, "--child", stage, str(images), str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--stages", nargs="+", choices=["plan", "judge", "dedup"], default=["plan", "judge", "dedup"])
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        stage, images, folder = given.child
        if stage == "records":
            print(json.dumps(str(synthesise(int(images), Path(folder)))))
            return
        found = STAGES[stage](int(images), Path(folder))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
        print(json.dumps(found | {"peak": peak}))
        return
    for stage in given.stages:
        first = None
        for images in given.images:
            with tempfile.TemporaryDirectory() as folder:
                root = child("records", images, Path(folder)) if stage == "judge" else folder
                used = child(stage, images, Path(str(root)))
            cost = 1e6 * used["cpu"] / images
            first = first or cost
            print(
                f"{stage} {images:,} images: {used['seconds']:.2f} s ({used['cpu']:.2f} s of CPU), peak "
                f"{used['peak']:.0f} MB; {cost:.1f} us of CPU an image, x{cost / first:.2f}; {used.get('result', '')}",
                flush=True,
            )
        if stage == "dedup":
            print(f"dedup 20,000 images: {child('recall', 20_000, Path())['result']}")


if __name__ == "__main__":
    main()
