"""A run whose records no model has made: jobs, labels and measures of any number of images, for benchmarks of sizes at
which models would need days. The image files are hard links to a few dozen composed scenes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from synthgen.base.files import sha256
from synthgen.masks import encode_rle, mask_areas, mask_boxes
from synthgen.mini import scenes
from synthgen.pipeline.build import Build
from synthgen.pipeline.stages import Stages
from synthgen.spec import DatasetSpec
from synthgen.store.run import Run
from synthgen.store.tables import JOB_SCHEMA

SCENES = 64
SPEC = {
    "name": "records", "shard_size": 4096,
    "classes": ["apple", "orange", "tree", "car", "bus", "cup", "duck", "rocket"],
    "layout": {"size": [0.34, 0.5]},
    "prompts": {"templates": ["a photo of {objects} on grass"]},
    "filters": {
        "predicted_iou": {"min": 0.8}, "stability": {"min": 0.5}, "mask_area": None, "sharpness": {"min": 20},
        "near_duplicate": None,
    },
}  # fmt: skip


def synthesise(out: Path, images: int, *, objects: int = 2, side: int = 128, count: int | None = None) -> Build:
    """Writes a run up to its measures. 5 % of its images are near-duplicates.

    Args:
        out: the folder of run folders.
        images: the number of images.
        objects: the labels of each image.
        side: width and height of each image, px.
        count: the number of images that the spec asks for; by default 80 % of `images`.
    """
    count = count or int(0.8 * images)
    size = {"height": side, "width": side, "objects_per_image": objects}
    spec = DatasetSpec.parse(SPEC | size | {"count": count, "budget": images / count})
    build = Build.start(Run.at(out, spec.name, 1), spec, Stages.of(spec))
    run, rng, inputs = build.run, np.random.default_rng(0), build.inputs("plan") or ""
    round = {"number": 1, "start": 0, "count": images, "classes": {1: 1.0}, "objects": {objects: 1.0}}
    run.rounds.write(1, round)
    # With more than two objects, some may hide others, since a scene has no room for many side by side.
    drawn = (
        scenes.draw(np.random.default_rng(i), size=side, most=objects + 1, occlusion=objects > 2) for i in range(10**6)
    )
    pictures = list(islice((scene for scene in drawn if len(scene.things) >= objects), SCENES))
    files = [run.images.write(0, 10**9 + i, scene.image) for i, scene in enumerate(pictures)]
    known = [(file.stat().st_size, sha256(file)) for file in files]
    masks = [scene.masks[:objects] for scene in pictures]
    labels = [(encode_rle(m), mask_areas(m), mask_boxes(m)) for m in masks]
    for shard, start in enumerate(range(0, images, spec.shard_size)):
        ids = np.arange(start, min(start + spec.shard_size, images)) + 1
        _write_shard(build, shard, ids, rng, inputs, files, known, labels, round)
    for file in files:
        file.unlink()
    return build


def _write_shard(
    build: Build, shard: int, ids: NDArray[np.int64], rng: np.random.Generator, inputs: str, files: Sequence[Path],
    known: Sequence[tuple[int, str]], labels: Sequence[Any], round: Mapping[str, Any],
) -> None:  # fmt: skip
    run, n, objects, side = build.run, len(ids), len(labels[0][0]), build.spec.height
    which = ids % SCENES
    asked = rng.integers(1, len(build.spec.classes) + 1, (n, objects))
    boxes = np.stack([labels[k][2] for k in range(SCENES)])[which]  # (n, objects, 4)
    jobs = {
        "image_id": ids, "run": [1] * n, "round": [1] * n, "index": ids - 1,
        "family": [f"{i:016x}" for i in rng.integers(0, 2**63, n)], "prompt": [f"a photo of things, {i}" for i in ids],
        "negative_prompt": [""] * n, "slots": [[]] * n, "asked": asked.tolist(),
        "layout": boxes.astype(int).tolist(), "seed": rng.integers(0, 2**63, n), "height": [side] * n,
        "width": [side] * n,
    }  # fmt: skip
    file = run.tables.write(run.paths.table("jobs", shard), pa.table(jobs, JOB_SCHEMA))
    run.marks.commit("plan", shard, inputs, [file], counts={"images": n, "round": 1}, environment=round)
    made = {}
    for image_id, k in zip(ids.tolist(), which.tolist(), strict=True):
        path = run.paths.image(shard, image_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(files[k], path)
        made[path.relative_to(run.root).as_posix()] = known[k]
    paths = [run.paths.image(shard, i) for i in ids.tolist()]
    run.marks.commit(
        "generate", shard, build.inputs("generate", shard) or "", paths,
        seconds=n / 1.5, counts={"images": n}, known=made,
    )  # fmt: skip
    each = np.repeat(ids, objects)
    scores = {
        name: rng.beta(12, 1, len(each)).astype(np.float32) for name in ("predicted_iou", "stability_score", "box_iou")
    }
    rows = {
        "image_id": each, "instance": np.tile(np.arange(objects, dtype=np.int32), n),
        "category_id": asked.reshape(-1).astype(np.int32),
        "bbox_xyxy": pa.FixedSizeListArray.from_arrays(pa.array(boxes.reshape(-1).astype(np.float32)), 4),
        "area": np.stack([labels[k][1] for k in range(SCENES)])[which].reshape(-1),
        "height": np.full(len(each), side, np.int32), "width": np.full(len(each), side, np.int32),
        "rle": [labels[k][0][i]["counts"] for k in which.tolist() for i in range(objects)], **scores,
    }  # fmt: skip
    file = run.tables.write(run.paths.table("labels", shard), pa.table(rows))
    run.marks.commit("label", shard, build.inputs("label", shard) or "", [file], seconds=n / 25, counts={"images": n})
    hashes = rng.integers(0, 2**63, n, dtype=np.uint64)
    again = rng.random(n) < 0.05
    hashes[again] = np.roll(hashes, 1)[again]
    whole, empty = np.arange(n) * (objects + 1), np.zeros(n * (objects + 1), bool)
    empty[whole] = True

    def column(of_image: Any, of_instance: Any, kind: Any) -> pa.Array:
        values = np.zeros(len(empty), kind)
        if of_image is not None:
            values[empty] = of_image
        if of_instance is not None:
            values[~empty] = of_instance
        return pa.array(values, mask=~empty if of_instance is None else empty if of_image is None else None)

    measures = {
        "image_id": np.repeat(ids, objects + 1), "instance": column(None, rows["instance"], np.int32),
        "predicted_iou": column(None, scores["predicted_iou"], np.float32),
        "stability": column(None, scores["stability_score"], np.float32),
        "mask_area": column(None, (rows["area"] / side**2).astype(np.float32), np.float32),
        "sharpness": column(rng.gamma(3, 40, n).astype(np.float32), None, np.float32),
        "near_duplicate": column(hashes, None, np.uint64),
    }  # fmt: skip
    file = run.tables.write(run.paths.table("measures", shard), pa.table(measures))
    run.marks.commit(
        "measure", shard, build.inputs("measure", shard) or "", [file], seconds=n / 60, counts={"images": n}
    )
