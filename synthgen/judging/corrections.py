"""The labels that people corrected or added, by the reviews: as rows of `corrections.parquet`, and in the tables that
are judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from synthgen.backends import Filter
from synthgen.errors import RunError
from synthgen.judging.reviews import Reviews
from synthgen.judging.tables import Tables
from synthgen.masks import rle_runs
from synthgen.store.paths import REVIEWS
from synthgen.store.tables import LABEL_COLUMNS


def corrections(reviews: Reviews, category_of: Callable[[int, int], int], height: int, width: int) -> pa.Table:
    """A row for each label whose mask comes from a person, in order of image and instance.

    Args:
        reviews: on the labels as they are.
        category_of: gives the category id of a label that the models made, by image id and instance.
        height, width: of every image, px.

    Raises:
        RunError: a mask does not have this size.
    """
    rows: list[dict[str, Any]] = []
    for (image_id, instance), review in sorted(reviews.of.items(), key=lambda item: (item[0][0], item[0][1] or 0)):
        if instance is None or review.rle is None:
            continue
        try:
            runs = rle_runs(review.rle)
        except ValueError as error:
            raise RunError(f"{REVIEWS} has a damaged mask of image {image_id}: {error}") from error
        if runs.min(initial=0) < 0 or runs.sum() != height * width:  # pycocotools would not notice.
            raise RunError(f"{REVIEWS} has a mask of image {image_id} that does not fit it")
        rows.append({
            "image_id": image_id,
            "instance": instance,
            "category_id": review.category_id or category_of(image_id, instance),
            "area": int(runs[1::2].sum()),
            "height": height,
            "width": width,
            "rle": review.rle,
        })  # fmt: skip
    rles = [{"size": [height, width], "counts": row["rle"]} for row in rows]
    for row, (x, y, wide, high) in zip(rows, coco_mask.toBbox(rles), strict=True):
        row["bbox_xyxy"] = [x, y, x + wide, y + high]
    try:
        return pa.Table.from_pylist(rows, pa.schema(LABEL_COLUMNS))
    except (pa.ArrowException, OverflowError) as error:
        raise RunError(f"{REVIEWS} has a verdict on a label that does not exist") from error


def corrected(tables: Tables, reviews: Reviews, masks: pa.Table, filters: Mapping[str, Filter[Any]]) -> Tables:
    """The tables with the classes and masks that people gave, and the labels that they added.

    Args:
        masks: see `corrections`.
    """
    tables = _with_added(tables, masks, filters)
    labels = {name: values.copy() for name, values in tables.labels.items()}
    boxes = tables.boxes.copy()
    for (image_id, instance), review in reviews.of.items():
        if instance is not None and review.category_id is not None:
            labels["category_id"][tables.label(image_id, instance)] = review.category_id
    for row in masks.to_pylist():
        label = tables.label(row["image_id"], row["instance"])
        labels["area"][label] = row["area"]
        if len(boxes):
            boxes[label] = row["bbox_xyxy"]
    return replace(tables, labels=labels, boxes=boxes)


def _with_added(tables: Tables, masks: pa.Table, filters: Mapping[str, Filter[Any]]) -> Tables:
    """The tables with a row for each label that people added, behind the other labels of its image. Its measures and
    scores are NaN, or 0 where they are integers."""
    owns = {image_id: tables.labels_of(image_id) for image_id in pc.unique(masks["image_id"]).to_pylist()}
    rows = [row for row in masks.to_pylist() if row["instance"] >= _length(owns[row["image_id"]])]
    if not rows:
        return tables
    at = [owns[row["image_id"]].stop for row in rows]

    def added(values: NDArray[Any], new: Any) -> NDArray[Any]:
        return np.insert(values, at, new, axis=0)

    def missing(values: NDArray[Any]) -> Any:
        return np.nan if np.issubdtype(values.dtype, np.floating) else 0

    holder = tables.images["image_id"].searchsorted([row["image_id"] for row in rows])
    return replace(
        tables,
        labels={name: added(values, [row[name] for row in rows]) for name, values in tables.labels.items()},
        holder=added(tables.holder, holder),
        boxes=added(tables.boxes, [row["bbox_xyxy"] for row in rows]) if len(tables.boxes) else tables.boxes,
        scores={name: added(values, missing(values)) for name, values in tables.scores.items()},
        measures={
            name: added(values, missing(values)) if filters[name].scope == "instance" else values
            for name, values in tables.measures.items()
        },
        added=added(tables.added, True),
    )


def _length(rows: slice) -> int:
    return int(rows.stop - rows.start)
