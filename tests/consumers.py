"""Consumers of exports: other people's readers, and what they return of an export."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO


class Found(NamedTuple):
    """An object as a consumer returns it. `box`: half-open xyxy px; `mask`: bool (H, W); None if there is none."""

    image_id: int
    name: str
    box: tuple[float, float, float, float] | None
    mask: NDArray[np.bool_] | None


Read = Callable[[Path, str], Iterator[Found]]


@dataclass(frozen=True)
class Case:
    """A format with options, and a consumer of it.

    Attributes:
        read: export folder and split -> what the consumer returns.
        images: export folder and split -> the number of images that the consumer counts.
        ignored, empty: whether regions to be ignored, and objects without a pixel, are expected as objects.
        exact: whether every mask is expected to be identical.
    """

    exporter: str
    consumer: str
    read: Read
    images: Callable[[Path, str], int]
    options: Mapping[str, Any] = field(default_factory=dict)
    ignored: bool = True
    empty: bool = True
    exact: bool = True


def coco_file(root: Path, split: str) -> COCO:
    with contextlib.redirect_stdout(None):
        return COCO(str(root / "annotations" / f"instances_{split}.json"))


def coco(root: Path, split: str) -> Iterator[Found]:
    loaded = coco_file(root, split)
    names = {c["id"]: c["name"] for c in loaded.dataset["categories"]}
    for label in loaded.anns.values():
        x, y, width, height = label["bbox"]
        mask = loaded.annToMask(label).astype(bool)
        yield Found(label["image_id"], names[label["category_id"]], (x, y, x + width, y + height), mask)


def coco_images(root: Path, split: str) -> int:
    images = coco_file(root, split).dataset["images"]
    return sum((root / split / image["file_name"]).is_file() for image in images)


def huggingface(root: Path, split: str) -> Iterator[Found]:
    rows = huggingface_rows(root)[split]
    category = rows.features["objects"]["category"].feature
    for row in rows.remove_columns("image"):
        objects = row["objects"]
        for (x, y, width, height), label, rle in zip(
            objects["bbox"], objects["category"], objects["segmentation"], strict=True
        ):
            box = (x, y, x + width, y + height)
            yield Found(row["image_id"], category.int2str(label), box, coco_mask.decode(rle).astype(bool))


def huggingface_images(root: Path, split: str) -> int:
    return sum(row["image"].size == (row["width"], row["height"]) for row in huggingface_rows(root)[split])


def huggingface_rows(root: Path) -> Any:
    import datasets

    datasets.disable_progress_bars()
    return datasets.load_dataset(str(root), cache_dir=str(root.parent / "cache"))


# Name in docs/formats.json -> format, options and consumer.
CASES = {
    "coco": Case("coco", "pycocotools", coco, coco_images),
    "coco, polygons": Case("coco", "pycocotools", coco, coco_images, {"segmentation": "polygon"}),
    "huggingface": Case("huggingface", "datasets", huggingface, huggingface_images),
    "huggingface, image folder": Case(
        "huggingface", "datasets", huggingface, huggingface_images, {"layout": "imagefolder"}
    ),
}
