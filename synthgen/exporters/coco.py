"""COCO instances: `annotations/instances_{split}.json`, and the images of a split in the folder of its name, or
where `images_in` says.

Read by pycocotools, torchvision's `CocoDetection`, detectron2, MMDetection and others, with the split's folder as the
image root. Format: https://cocodataset.org/#format-data
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from shutil import copyfileobj
from tempfile import TemporaryFile
from typing import IO, Any, ClassVar, Literal

import cv2
import numpy as np
import orjson
from pydantic import Field, field_validator

from synthgen.backends import Config as BackendConfig
from synthgen.backends import Exporter, Folder, Records
from synthgen.errors import BackendError
from synthgen.masks import decode_rle, mask_polygons, polygon_iou
from synthgen.types import Annotation, DatasetInfo, Record

# What images are encoded anew as: the ending, and what OpenCV is told.
LOSSY = {"jpeg": (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 95]), "webp": (".webp", [cv2.IMWRITE_WEBP_QUALITY, 90])}


class Config(BackendConfig):
    """Options of `coco`."""

    segmentation: Literal["rle", "polygon"] = Field(
        "rle", description="rle: compressed RLE; polygon: for loaders that read no RLE. Both keep every pixel."
    )
    images: Literal["link", "copy", "jpeg", "webp"] = Field(
        "link",
        description="link: hard links to the run's images where the disk can; copy: files of their own; jpeg, webp: "
        "encoded again, smaller and with a little loss.",
    )
    added: ClassVar[frozenset[str]] = frozenset({"images_in"})

    images_in: str = Field(
        "{split}", description="Folder of a split's images. With images/{split}, datumaro, CVAT and Geti load them too."
    )

    @field_validator("images_in")
    @classmethod
    def _is_a_folder(cls, value: str) -> str:
        parts = value.replace("{split}", "split").split("/")
        if any(p in {"", ".", ".."} or set(p) & set("{}\\\0\n") for p in parts) or parts[0] == "annotations":
            raise ValueError(f"takes a folder within the export such as images/{{split}}, got {value!r}")
        return value


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
        ending, encoding = LOSSY.get(self.config.images, (".png", None))
        with ExitStack() as stack:
            files: dict[str, _SplitFile] = {}
            ids = {category.id: category.exported_id for category in info.categories}
            for split in info.splits:
                file = stack.enter_context(folder.open(f"annotations/instances_{split}.json"))
                waiting = stack.enter_context(TemporaryFile(dir=Path(file.name).parent))
                files[split] = _SplitFile(info, file, waiting)
            for record in records:
                split, name = record.job.split, f"{record.job.id:012d}{ending}"
                place = f"{self.config.images_in.replace('{split}', split)}/{name}"
                if encoding:
                    with folder.open(place) as encoded:
                        encoded.write(_encoded(folder.read(record.image_path), record.image_path, ending, encoding))
                else:
                    folder.image(record.image_path, place, copy=self.config.images == "copy")
                files[split].images.extend([self._image(info, record, name)])
                files[split].annotations.extend(self._annotation(record.job.id, ids, a) for a in record.annotations)
            for written in files.values():
                written.finish()

    def _image(self, info: DatasetInfo, record: Record, name: str) -> dict[str, Any]:
        job = record.job
        return {
            "id": job.id,
            "file_name": name,
            "height": job.height,
            "width": job.width,
            **({"license": 1} if info.licences else {}),
            "prompt": job.prompt,
            "negative_prompt": job.negative_prompt,
            "seed": job.seed,
            "slots": dict(job.slots),
            "measures": _rounded(record.measures),
        }

    def _annotation(self, image_id: int, ids: Mapping[int, int], annotation: Annotation) -> dict[str, Any]:
        return {
            "id": annotation.id,
            "image_id": image_id,
            "category_id": ids[annotation.category_id],
            "bbox": annotation.bbox_xywh,
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


def _encoded(data: bytes, image: Path, ending: str, encoding: list[int]) -> bytes:
    """An image of the run in another format.

    Raises:
        BackendError: it cannot be read.
    """
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if pixels is None:
        raise BackendError(f"{image} is no readable image; delete it and run again to make it anew")
    _, encoded = cv2.imencode(ending, pixels, encoding)
    return encoded.tobytes()


def _info(info: DatasetInfo) -> dict[str, str]:
    return {"description": info.description or info.name, "version": "1.0", "contributor": "synthgen"}


def _licenses(info: DatasetInfo) -> Iterator[dict[str, Any]]:
    for number, (name, url) in enumerate(info.licences, 1):
        yield {"id": number, "name": name, "url": url}


def _categories(info: DatasetInfo) -> Iterator[dict[str, Any]]:
    for category in info.categories:
        yield {"id": category.exported_id, "name": category.name, "supercategory": category.supercategory}


def _round(value: float) -> float:
    return float(f"{value:.6g}")


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    """Whole numbers, such as hashes, stay as they are."""
    return {name: value if isinstance(value, int) else _round(value) for name, value in values.items()}


def _line(record: Mapping[str, Any]) -> bytes:
    line = orjson.dumps(record)
    # pycocotools opens files in the locale's encoding, which need not be UTF-8.
    return line if line.isascii() else json.dumps(orjson.loads(line), separators=(",", ":")).encode("ascii")


class _Lines:
    """A list under a key, one record a line, written as it grows."""

    def __init__(self, file: IO[bytes], key: str) -> None:
        self._file, self._before = file, b"\n"
        file.write(b'"' + key.encode() + b'": [')

    def extend(self, records: Iterable[Mapping[str, Any]]) -> None:
        lines = [_line(record) for record in records]
        if lines:
            self._file.write(self._before + b",\n".join(lines))
            self._before = b",\n"

    def end(self, mark: bytes) -> None:
        self._file.write(b"\n]" + mark)


class _SplitFile:
    """A split's file as it grows. In it all images come before the first annotation, so annotations wait in another."""

    def __init__(self, info: DatasetInfo, file: IO[bytes], waiting: IO[bytes]) -> None:
        self._file, self._waiting = file, waiting
        self._file.write(b'{\n"info": ' + _line(_info(info)) + b",\n")
        for key, records in {"licenses": _licenses(info), "categories": _categories(info)}.items():
            lines = _Lines(self._file, key)
            lines.extend(records)
            lines.end(b",\n")
        self.images = _Lines(self._file, "images")
        self.annotations = _Lines(self._waiting, "annotations")

    def finish(self) -> None:
        self.images.end(b",\n")
        self.annotations.end(b"\n}\n")
        self._waiting.seek(0)
        copyfileobj(self._waiting, self._file)
