"""COCO instances: `annotations/instances_{split}.json`, and the images of a split in the folder of its name.

Read by pycocotools, torchvision's `CocoDetection`, detectron2, MMDetection and others, with the split's folder as the
image root. Format: https://cocodataset.org/#format-data
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any, Literal

import orjson
from pydantic import Field

from synthgen.backends import Config as BackendConfig
from synthgen.backends import Exporter, Folder, Records
from synthgen.masks import decode_rle, mask_polygons, polygon_iou
from synthgen.types import Annotation, DatasetInfo, Record


class Config(BackendConfig):
    """Options of `coco`."""

    segmentation: Literal["rle", "polygon"] = Field(
        "rle", description="rle: compressed RLE; polygon: for loaders that read nothing else. Both keep every pixel."
    )
    images: Literal["link", "copy"] = Field(
        "link", description="link: hard links to the run's images where the disk can; copy: files of their own."
    )


class Backend(Exporter[Config]):
    """One record a line, in order of id, ASCII, no date: equal datasets are equal bytes.

    Beyond COCO's keys, images carry `prompt`, `negative_prompt`, `seed`, `slots` and `measures`, annotations
    `scores` and, with `segmentation: polygon`, `polygon_iou`: of the polygons, as pycocotools draws them, with the
    mask. `area` is always the mask's pixels. Floats have 6 significant digits, which float32 is good for; a number
    that could not be measured is null.

    Objects to be ignored have `iscrowd` 1 and, as COCO has it, an RLE; so has an empty mask, which no polygon can
    say and which loaders of polygons crash on as an empty list. Memory: one image's annotations.
    """

    def export(self, info: DatasetInfo, records: Records, folder: Folder) -> None:
        for split in info.splits:
            with folder.open(f"annotations/instances_{split}.json") as file:
                file.write(b"{\n")
                file.write(b'"info": ' + _line(_info(info)) + b",\n")
                _write_list(file, "licenses", _licenses(info), b",\n")
                _write_list(file, "categories", _categories(info), b",\n")
                _write_list(file, "images", self._images(info, records.split(split), split, folder), b",\n")
                _write_list(file, "annotations", self._annotations(records.split(split)), b"\n")
                file.write(b"}\n")

    def _images(
        self, info: DatasetInfo, records: Iterable[Record], split: str, folder: Folder
    ) -> Iterator[dict[str, Any]]:
        licence = {"license": 1} if info.licences else {}
        for record in records:
            job = record.job
            name = f"{job.id:012d}.png"
            folder.image(record.image_path, f"{split}/{name}", copy=self.config.images == "copy")
            yield {
                "id": job.id,
                "file_name": name,
                "height": job.height,
                "width": job.width,
                **licence,
                "prompt": job.prompt,
                "negative_prompt": job.negative_prompt,
                "seed": job.seed,
                "slots": dict(job.slots),
                "measures": _rounded(record.measures),
            }

    def _annotations(self, records: Iterable[Record]) -> Iterator[dict[str, Any]]:
        for record in records:
            for annotation in record.annotations:
                yield {
                    "id": annotation.id,
                    "image_id": record.job.id,
                    "category_id": annotation.category_id,
                    "bbox": list(annotation.bbox_xywh),
                    "area": annotation.area,
                    "iscrowd": int(annotation.ignore),
                    **self._segmentation(annotation),
                    "scores": _rounded(annotation.scores),
                }

    def _segmentation(self, annotation: Annotation) -> dict[str, Any]:
        if self.config.segmentation == "rle" or annotation.ignore or annotation.area == 0:
            return {"segmentation": dict(annotation.rle)}
        height, width = annotation.rle["size"]
        mask = decode_rle([annotation.rle], height, width)[0]
        polygons = mask_polygons(mask)
        return {"segmentation": polygons, "polygon_iou": _round(polygon_iou(polygons, mask))}


def _info(info: DatasetInfo) -> dict[str, str]:
    return {"description": info.description or info.name, "version": "1.0", "contributor": "synthgen"}


def _licenses(info: DatasetInfo) -> Iterator[dict[str, Any]]:
    for number, (name, url) in enumerate(info.licences, 1):
        yield {"id": number, "name": name, "url": url}


def _categories(info: DatasetInfo) -> Iterator[dict[str, Any]]:
    for category in info.categories:
        yield {"id": category.id, "name": category.name, "supercategory": ""}


def _round(value: float) -> float:
    return float(f"{value:.6g}")


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    """Whole numbers, such as hashes, stay as they are."""
    return {name: value if isinstance(value, int) else _round(value) for name, value in values.items()}


def _line(record: Mapping[str, Any]) -> bytes:
    line = orjson.dumps(record)
    # pycocotools opens files in the locale's encoding, which need not be UTF-8.
    return line if line.isascii() else json.dumps(orjson.loads(line), separators=(",", ":")).encode("ascii")


def _write_list(file: IO[bytes], key: str, records: Iterable[Mapping[str, Any]], end: bytes) -> None:
    file.write(b'"' + key.encode() + b'": [')
    for number, record in enumerate(records):
        file.write((b",\n" if number else b"\n") + _line(record))
    file.write(b"\n]" + end)
