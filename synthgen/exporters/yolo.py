"""YOLO labels in Ultralytics' layout: `data.yaml`, and `labels/train/000000000001.txt` for
`images/train/000000000001.png`.

Read by Ultralytics (`yolo segment train data=…/data.yaml`), by supervision, and, with `task: detect`, by datumaro.
Format: https://docs.ultralytics.com/datasets/segment/ and https://docs.ultralytics.com/datasets/detect/
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, Literal

import cv2
import numpy as np
import yaml
from pydantic import Field

from synthgen.backends import ExportedFolder, Exporter, Folder, ImageOptions, Records
from synthgen.base.wording import shown
from synthgen.errors import listed
from synthgen.exporters._single_polygon import FAR, MIDDLE, NEAR, PIXEL, single_polygon
from synthgen.masks import decode_crop
from synthgen.types import Annotation, Category, DatasetInfo, Record

DATA = "data.yaml"
PARTS = (NEAR, MIDDLE, FAR)  # of a pixel, at which corners of polygons lie
# Ultralytics' keys, and the names of splits that they may stand for.
SPLITS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


class Config(ImageOptions):
    """Options of `yolo`."""

    task: Literal["segment", "detect"] = Field("segment", description="segment: a polygon an object; detect: a box.")


class Backend(Exporter[Config]):
    """An image has one file of labels, empty for a background. A class has its place in the spec, from 0; ids that the
    spec gives stand in `data.yaml` under `class_ids`. Names of classes are written in ASCII, with YAML's escapes.

    A polygon shows all of an object: seams join its parts and its holes. Read at the image's own size, as Ultralytics
    and supervision do it (`cv2.fillPoly`), it shows the mask to the pixel, except that a seam between parts shows the
    pixels on its way: the export says what that costs, as IoU. Boxes that readers make of polygons end half a pixel
    early on the right and below. With `task: detect` boxes are exact.

    The format has no regions to be ignored: they are left out, and trainers take them for background. With
    `task: segment`, objects without a pixel are left out too.
    """

    def export(self, info: DatasetInfo, records: Records, folder: Folder) -> None:
        lost, splits = _Loss(), set[str]()
        for record in records:
            splits.add(record.job.split)
            folder.image(record.image_path, self._path("images", record), encoding=self.config.images)
            with folder.open(self._path("labels", record)) as file:
                file.write("".join(self._lines(record, info.categories, lost)).encode("ascii"))
        said = {
            "name": info.name,
            "content_hash": records.content_hash,
            **({"subset": info.subset} if info.subset else {}),
        }
        with folder.open(DATA) as file:
            # Without `path`, Ultralytics takes the folder of this file for the root; `path: .` is the working folder.
            file.write(_dumped({**_split_keys(splits), **_classes(info.categories), "dataset": said}))
        for sentence in chain(lost.sentences(), _split_losses(splits)):
            folder.report_loss(sentence)

    def verify(self, folder: ExportedFolder, records: Records) -> Iterator[tuple[str, str]]:
        """Compares labels and images with the records, up to the first file that differs; and classes and splits."""
        files = (name for name in folder.names() if name.startswith("labels/"))
        splits: set[str] = set()
        fault: tuple[str, str] | None = None
        for record in records:
            splits.add(record.job.split)
            fault = fault or self._fault(folder, record, next(files, None))
        if extra := next(files, None):
            fault = fault or (extra, "holds labels of an image that is not among the accepted ones")
        if fault:
            yield fault
        if said := self._data_fault(folder, splits):
            yield DATA, said

    def _fault(self, folder: ExportedFolder, record: Record, found: str | None) -> tuple[str, str] | None:
        """The file whose labels differ from a record's, and how. `found`: the next file of labels of the export."""
        job, name = record.job, self._path("labels", record)
        if found != name:
            if folder.has(name):
                return str(found), f"stands before {name}; files are in order of image"
            return name, f"is not among the exported files, and image {job.id} needs it"
        if not folder.has(image := self._path("images", record)):
            return name, f"is of image {job.id}, whose file {image} is not among the exported files"
        with folder.open(name) as file:
            lines = file.read().decode("ascii", "replace").splitlines(keepends=True)
        expected = list(self._lines(record, self.categories, _Loss()))
        for number, line in enumerate(expected, 1):
            if number > len(lines):
                return name, f"ends before line {number}, {_brief(line)}"
            if lines[number - 1] != line:
                return name, f"has {_brief(lines[number - 1])} in line {number}, expected {_brief(line)}"
        if len(lines) > len(expected):
            return name, f"has {_brief(lines[len(expected)])} in line {len(expected) + 1}, and no such label was kept"
        return None

    def _data_fault(self, folder: ExportedFolder, splits: set[str]) -> str:
        if not folder.has(DATA):
            return "is not among the exported files"
        with folder.open(DATA) as file:
            try:
                found = yaml.safe_load(file.read())
            except (yaml.YAMLError, ValueError) as error:
                return f"is no YAML: {error}".partition("\n")[0]
        if not isinstance(found, dict):
            return "is no mapping"
        if any(found.get(key) != value for key, value in _classes(self.categories).items()):
            return "does not have the classes of the spec"
        if any(found.get(key) != value for key, value in _split_keys(splits).items()):
            return "does not have the splits of the accepted images"
        return ""

    def _path(self, kind: Literal["images", "labels"], record: Record) -> str:
        ending = self.config.image_ending if kind == "images" else ".txt"
        return f"{kind}/{record.job.split}/{record.job.id:012d}{ending}"

    def _lines(self, record: Record, categories: Sequence[Category], lost: _Loss) -> Iterator[str]:
        """A line for each object of an image that the format can hold."""
        size = (record.job.width, record.job.height)
        places = {category.id: place for place, category in enumerate(categories)}
        seen: set[Hashable] = set()
        for a in record.annotations:
            lost.labels += 1
            place = places[a.category_id]
            if a.ignore:
                lost.ignored += 1
            elif self.config.task == "detect":
                if numbers := _box(a, size):
                    line = f"{place} %.6f %.6f %.6f %.6f\n" % tuple(numbers)
                    lost.count_twin(line, seen)
                    yield line
                else:
                    lost.empty += 1
            elif a.area == 0:
                lost.empty += 1
            else:
                texts, box, iou = _polygon(a, size)
                lost.count_twin((place, *box), seen)
                lost.count_mask(iou, record, a)
                yield f"{place} {' '.join(texts)}\n"


def _box(annotation: Annotation, size: tuple[int, int]) -> list[float]:
    """Centre, width and height of a box within the image, as shares of its sides; nothing if it has no extent."""
    left, top, width, height = annotation.bbox_xywh
    (x0, x1), (y0, y1) = (
        (max(begin, 0), min(begin + side, most))
        for begin, side, most in zip((left, top), (width, height), size, strict=True)
    )
    if x1 <= x0 or y1 <= y0:
        return []
    return [(x0 + x1) / 2 / size[0], (y0 + y1) / 2 / size[1], (x1 - x0) / size[0], (y1 - y0) / size[1]]


class _Axis:
    """What coordinates in polygons can be, of images of one width or height.

    Attributes:
        texts: object (N,), as they are written.
        pixels: int32 (N,), what readers make of these: they keep float32, multiply and cut decimals off.
    """

    def __init__(self, size: int) -> None:
        written = [f"{(PIXEL * i + part) / PIXEL / size:.6f}" for i in range(size) for part in PARTS]
        self.texts = np.array(written, object)
        self.pixels = (np.array(written, np.float32) * np.float32(size)).astype(np.int32)


_axis = lru_cache(maxsize=16)(_Axis)


def _polygon(annotation: Annotation, size: tuple[int, int]) -> tuple[list[str], tuple[int, ...], float]:
    """The coordinates of an object's polygon, its box in px, and the IoU of what readers draw with its mask."""
    left, top, mask = decode_crop(annotation.rle)
    pixels, parts = np.divmod(single_polygon(mask), PIXEL)
    pixels += (left, top)
    values = pixels * len(PARTS) + np.searchsorted(PARTS, parts)
    x, y = _axis(size[0]), _axis(size[1])
    texts = np.stack((x.texts[values[:, 0]], y.texts[values[:, 1]]), 1).reshape(-1).tolist()
    corners = np.stack((x.pixels[values[:, 0]], y.pixels[values[:, 1]]), 1)
    drawn = np.zeros(mask.shape, np.uint8)
    cv2.fillPoly(drawn, [corners - np.array((left, top), np.int32)], 1)
    shared = cv2.countNonZero(drawn & mask.view(np.uint8))
    iou = shared / (annotation.area + cv2.countNonZero(drawn) - shared)
    return texts, (left, top, *mask.shape), iou


def _brief(line: str) -> str:
    text = line.rstrip("\n")
    return shown(text if len(text) <= 60 else f"{text[:57]}...")


def _split_keys(splits: Collection[str]) -> dict[str, str]:
    """The keys of `data.yaml` that name folders of images: Ultralytics knows three, each with images."""
    found = {key: next((name for name in names if name in splits), None) for key, names in SPLITS.items()}
    return {key: f"images/{name}" for key, name in found.items() if name}


def _split_losses(splits: Collection[str]) -> Iterator[str]:
    keys = _split_keys(splits)
    for key in ("train", "val"):
        if key not in keys:
            yield f"{DATA} has no key `{key}`, since no image is in that split: Ultralytics needs `train` and `val`"
    if others := sorted(name for name in splits if f"images/{name}" not in keys.values()):
        yield f"{DATA} does not name the splits {listed(others)}: Ultralytics knows `train`, `val` and `test` alone"


def _classes(categories: Sequence[Category]) -> dict[str, Any]:
    own = any(category.own_id for category in categories)
    return {
        "names": {place: category.name for place, category in enumerate(categories)},
        **({"class_ids": {place: category.exported_id for place, category in enumerate(categories)}} if own else {}),
    }


def _dumped(values: Mapping[str, Any]) -> bytes:
    """In ASCII: datumaro opens the file in the encoding of the locale."""
    text: str = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=False, width=1000)
    return text.encode("ascii")


class _Loss:
    """Counts what the labels cannot hold."""

    def __init__(self) -> None:
        self.labels = self.ignored = self.empty = 0
        self._twins = self._masks = self._seamed = 0
        self._sum, self._worst, self._where = 0.0, 1.0, ""

    def count_twin(self, row: Hashable, seen: set[Hashable]) -> None:
        self._twins += row in seen
        seen.add(row)

    def count_mask(self, iou: float, record: Record, annotation: Annotation) -> None:
        self._masks += 1
        self._sum += iou
        self._seamed += iou < 1
        if iou < self._worst:
            self._worst, self._where = iou, f"annotation {annotation.id} of image {record.job.id}"

    def sentences(self) -> Iterator[str]:
        if self._seamed:
            yield (
                f"{self._seamed:,} of {self._masks:,} polygons show pixels of seams between parts that lie apart: the "
                f"mean IoU of all polygons with their masks is {self._sum / self._masks:.4f}, the worst "
                f"{self._worst:.4f} ({self._where})"
            )
        if self.ignored:
            yield (
                f"{self.ignored:,} of {self.labels:,} labels are regions to be ignored and are left out: trainers take "
                "them for background"
            )
        if self.empty:
            yield f"{self.empty:,} of {self.labels:,} labels have no pixel and are left out"
        if self._twins:
            yield (
                f"{self._twins:,} of {self.labels:,} labels have the class and box of another one in their image: "
                "Ultralytics takes such a pair for one label"
            )
