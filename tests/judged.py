"""Verdicts on numbers that a test gives by hand, without a run."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from synthgen.judging.corrections import corrected, corrections
from synthgen.judging.reviews import Review, Reviews
from synthgen.judging.tables import Lists, Tables
from synthgen.judging.verdicts import Verdicts, judge
from synthgen.pipeline.stages import Stages
from synthgen.spec import DatasetSpec

SPEC = {
    "name": "fruit",
    "count": 3,
    "height": 64,
    "width": 64,
    "classes": ["apple", "pear"],
    "objects_per_image": {0: 1, 1: 1, 2: 1},
    "prompts": {"templates": ["{objects}"], "background_templates": ["nothing"]},
    "filters": {},
}


PEARS = {"classes": ["apple", {"name": "pear", "min_instances": 3}]}


def iou(*values: float | None, **more: Any) -> dict[str, Any]:
    """An image with an object for each predicted IoU."""
    return {"objects": [{"predicted_iou": value} for value in values], **more}


def objects(*rows: tuple[int, float]) -> dict[str, Any]:
    """An image of (class, predicted IoU)."""
    return {"objects": [{"class": c, "predicted_iou": iou} for c, iou in rows]}


def lists(rows: Sequence[Sequence[int]]) -> Lists:
    return Lists.of(np.array([c for row in rows for c in row], np.int32), np.array([len(row) for row in rows], int))


def table(
    images: list[dict[str, Any]],
    filters: dict[str, Any] | None = None,
    reviews: Sequence[Review] = (),
    **changes: Any,
) -> Verdicts:
    """Judges images given as mappings: a number a filter, and `objects`: mappings with `class`, `area` and a number a
    filter of instances."""
    spec = DatasetSpec.parse({**SPEC, "filters": filters or {}, **changes})
    backends = Stages.of(spec).filters
    objects = [o for image in images for o in image.get("objects", [])]
    asked = [image.get("asked", [o.get("class", 1) for o in image.get("objects", [])]) for image in images]
    counts = [len(image.get("objects", [])) for image in images]

    def numbers(name: str, f: Any) -> np.ndarray:
        hole = np.nan if f.dtype is np.float32 else 0
        given = [row.get(name) for row in (images if f.scope == "image" else objects)]
        return np.array([hole if value is None else value for value in given], f.dtype)

    tables = Tables(
        images={"image_id": np.arange(1, len(images) + 1), "shard": np.arange(len(images), dtype=np.int32) // 2},
        families=pa.chunked_array([[f"f{k}" for k in range(1, len(images) + 1)]], pa.string()),
        asked=lists(asked),
        layouts=Lists.of(np.zeros((0, 4), np.float32), np.zeros(len(images), int)),
        labels={
            "instance": np.array([k for n in counts for k in range(n)], np.int32),
            "category_id": np.array([o.get("class", 1) for o in objects], np.int32),
            "area": np.array([o.get("area", 9) for o in objects], np.int32),
        },
        holder=np.repeat(np.arange(len(images), dtype=np.int32), np.array(counts, int)),
        boxes=np.zeros((len(objects), 4), np.float32),
        scores={},
        measures={name: numbers(name, f) for name, f in backends.items()},
        added=np.zeros(len(objects), bool),
    )
    said = Reviews({review.about: review for review in reviews})
    masks = corrections(said, tables.category, spec.height, spec.width)
    return judge(spec, backends, corrected(tables, said, masks, backends), said)


def of_images(found: Verdicts) -> list[tuple[str, list[str]]]:
    return list(zip(found.images["verdict"], map(found.reasons.listed, found.images["reasons"]), strict=True))


def of_instances(found: Verdicts) -> list[tuple[str, list[str]]]:
    return list(zip(found.instances["verdict"], map(found.reasons.listed, found.instances["reasons"]), strict=True))
