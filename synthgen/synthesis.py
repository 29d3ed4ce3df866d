"""A run of records that no model has made: jobs, labels and measures of any number of images, for what is measured at
a size that models would need days for. Image files are hard links to a few dozen composed scenes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa

from synthgen.files import sha256
from synthgen.masks import encode_rle, mask_areas, mask_boxes
from synthgen.mini import scenes
from synthgen.pipeline import Build
from synthgen.spec import DatasetSpec
from synthgen.stages import Stages
from synthgen.store import JOB_SCHEMA, Run

SCENES = 64
PER_IMAGE = 2
ROUND = {"number": 1, "start": 0, "count": 0, "classes": {1: 1.0}, "objects": {PER_IMAGE: 1.0}}
SPEC = {
    "name": "records", "height": 128, "width": 128, "budget": 1.0, "shard_size": 4096,
    "classes": ["apple", "orange", "tree", "car", "bus", "cup", "duck", "rocket"],
    "objects_per_image": PER_IMAGE, "layout": {"size": [0.34, 0.5]},
    "prompts": {"templates": ["a photo of {objects} on grass"]},
    "filters": {
        "predicted_iou": {"min": 0.8}, "stability": {"min": 0.5}, "mask_area": None, "sharpness": {"min": 20},
        "near_duplicate": None,
    },
}  # fmt: skip


def synthesise(out: Path, images: int) -> Build:
    """A run of `images` images with two labels each, up to its measures; 5 % of its images are near-duplicates."""
    spec = DatasetSpec.parse({**SPEC, "count": int(0.8 * images), "budget": 1.25})
    build = Build.start(Run.at(out, spec.name, 1), spec, Stages.of(spec))
    run, rng, inputs = build.run, np.random.default_rng(0), build.inputs("plan") or ""
    run.write_round(1, ROUND | {"count": images})
    pictures = []
    for i in range(SCENES):
        while (
            len((scene := scenes.draw(np.random.default_rng([i, len(pictures)]), occlusion=False)).things) < PER_IMAGE
        ):
            rng.random()
            i += SCENES
        pictures.append(scene)
    files = [run.write_image(0, 10**9 + i, scene.image) for i, scene in enumerate(pictures)]
    known = [(file.stat().st_size, sha256(file)) for file in files]
    masks = [scene.masks[:PER_IMAGE] for scene in pictures]
    labels = [(encode_rle(m), mask_areas(m), mask_boxes(m)) for m in masks]
    for shard, start in enumerate(range(0, images, spec.shard_size)):
        ids = np.arange(start, min(start + spec.shard_size, images)) + 1
        _write_shard(build, shard, ids, rng, inputs, files, known, labels)
    for file in files:
        file.unlink()
    return build


def _write_shard(build, shard, ids, rng, inputs, files, known, labels):  # type: ignore[no-untyped-def]
    run, n = build.run, len(ids)
    which = ids % SCENES
    asked = rng.integers(1, len(build.spec.classes) + 1, (n, PER_IMAGE))
    boxes = np.stack([labels[k][2] for k in range(SCENES)])[which]  # (n, 2, 4)
    jobs = {
        "image_id": ids, "run": [1] * n, "round": [1] * n, "index": ids - 1,
        "family": [f"{i:016x}" for i in rng.integers(0, 2**63, n)], "prompt": [f"a photo of things, {i}" for i in ids],
        "negative_prompt": [""] * n, "slots": [[]] * n, "asked": asked.tolist(),
        "layout": boxes.astype(int).tolist(), "seed": rng.integers(0, 2**63, n), "height": [128] * n,
        "width": [128] * n,
    }  # fmt: skip
    file = run.write_table(run.table_file("jobs", shard), pa.table(jobs, JOB_SCHEMA))
    run.commit("plan", shard, inputs, [file], counts={"images": n, "round": 1}, environment=ROUND)
    made = {}
    for image_id, k in zip(ids.tolist(), which.tolist(), strict=True):
        place = run.image_file(shard, image_id)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.link(files[k], place)
        made[place.relative_to(run.root).as_posix()] = known[k]
    places = [run.image_file(shard, i) for i in ids.tolist()]
    run.commit("generate", shard, build.inputs("generate", shard), places, seconds=n / 1.5, counts={"images": n},
               known=made)  # fmt: skip
    each = np.repeat(ids, PER_IMAGE)
    scores = {
        name: rng.beta(12, 1, len(each)).astype(np.float32) for name in ("predicted_iou", "stability_score", "box_iou")
    }
    rows = {
        "image_id": each, "instance": np.tile(np.arange(PER_IMAGE, dtype=np.int32), n),
        "category_id": asked.reshape(-1).astype(np.int32),
        "bbox_xyxy": pa.FixedSizeListArray.from_arrays(pa.array(boxes.reshape(-1).astype(np.float32)), 4),
        "area": np.stack([labels[k][1] for k in range(SCENES)])[which].reshape(-1),
        "height": np.full(len(each), 128, np.int32), "width": np.full(len(each), 128, np.int32),
        "rle": [labels[k][0][i]["counts"] for k in which.tolist() for i in range(PER_IMAGE)], **scores,
    }  # fmt: skip
    file = run.write_table(run.table_file("labels", shard), pa.table(rows))
    run.commit("label", shard, build.inputs("label", shard), [file], seconds=n / 25, counts={"images": n})
    hashes = rng.integers(0, 2**63, n, dtype=np.uint64)
    again = rng.random(n) < 0.05
    hashes[again] = np.roll(hashes, 1)[again]
    whole, empty = np.arange(n) * (PER_IMAGE + 1), np.zeros(n * (PER_IMAGE + 1), bool)
    empty[whole] = True

    def column(of_image, of_instance, kind):  # type: ignore[no-untyped-def]
        values = np.zeros(len(empty), kind)
        if of_image is not None:
            values[empty] = of_image
        if of_instance is not None:
            values[~empty] = of_instance
        return pa.array(values, mask=~empty if of_instance is None else empty if of_image is None else None)

    measures = {
        "image_id": np.repeat(ids, PER_IMAGE + 1), "instance": column(None, rows["instance"], np.int32),
        "predicted_iou": column(None, scores["predicted_iou"], np.float32),
        "stability": column(None, scores["stability_score"], np.float32),
        "mask_area": column(None, (rows["area"] / 128**2).astype(np.float32), np.float32),
        "sharpness": column(rng.gamma(3, 40, n).astype(np.float32), None, np.float32),
        "near_duplicate": column(hashes, None, np.uint64),
    }  # fmt: skip
    file = run.write_table(run.table_file("measures", shard), pa.table(measures))
    run.commit("measure", shard, build.inputs("measure", shard), [file], seconds=n / 60, counts={"images": n})
