"""YOLO labels in Ultralytics' layout: `data.yaml`, and `labels/train/000000000001.txt` for
`images/train/000000000001.png`.

Read by Ultralytics (`yolo segment train data=…/data.yaml`), by supervision, and, with `task: detect`, by datumaro.
Format: https://docs.ultralytics.com/datasets/segment/ and https://docs.ultralytics.com/datasets/detect/
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Literal

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import Field

from synthgen.backends import ExportedFolder, Exporter, Folder, ImageOptions, Records
from synthgen.base.wording import shown
from synthgen.errors import listed
from synthgen.exporters._single_polygon import single_polygon
from synthgen.masks import decode_crop
from synthgen.types import Annotation, Category, DatasetInfo, Record

DATA = "data.yaml"
UNIT = 10**6  # steps from 0 to 1 that coordinates are rounded to
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
        seen: set[Any] = set()
        for a in record.annotations:
            lost.labels += 1
            place = places[a.category_id]
            if a.ignore:
                lost.ignored += 1
            elif self.config.task == "detect":
                if numbers := _box(a, size):
                    lost.count_twin((place, *numbers), seen)
                    yield _line(place, numbers)
                else:
                    lost.empty += 1
            elif a.area == 0:
                lost.empty += 1
            else:
                steps, iou = _polygon(a, size)
                lost.count_twin((place, *steps.min(0).tolist(), *steps.max(0).tolist()), seen)
                lost.count_mask(iou, record, a)
                yield _line(place, steps.reshape(-1).tolist())


def _line(place: int, numbers: Sequence[int]) -> str:
    """A line of labels. `numbers`: in steps, from 0 to 1."""
    return (f"{place}" + " %d.%06d" * len(numbers) + "\n") % tuple(chain(*(divmod(n, UNIT) for n in numbers)))


def _box(annotation: Annotation, size: tuple[int, int]) -> list[int]:
    """Centre, width and height of a box within the image, in steps; nothing for a box without an extent."""
    low = np.clip(annotation.bbox_xywh[:2], 0, size)
    high = np.clip(np.add(annotation.bbox_xywh[:2], annotation.bbox_xywh[2:]), 0, size)
    if (high <= low).any():
        return []
    return [int(n) for n in np.rint(np.concatenate(((low + high) / 2, high - low)) / (size * 2) * UNIT)]


def _polygon(annotation: Annotation, size: tuple[int, int]) -> tuple[NDArray[np.int64], float]:
    """The corners of an object's polygon, int64 (N, 2), in steps, and the IoU of what readers draw with its mask."""
    left, top, mask = decode_crop(annotation.rle)
    steps = np.rint(np.add(single_polygon(mask), (left, top)) / size * UNIT).astype(np.int64)
    # As readers do it: they keep coordinates as float32, make pixels of them and cut decimals off.
    pixels = ((steps / UNIT).astype(np.float32) * np.array(size, np.float32)).astype(np.int32)
    drawn = np.zeros(mask.shape, np.uint8)
    cv2.fillPoly(drawn, [pixels - np.array((left, top), np.int32)], 1)
    shared = cv2.countNonZero(drawn & mask.view(np.uint8))
    return steps, shared / (annotation.area + cv2.countNonZero(drawn) - shared)


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

    def count_twin(self, row: tuple[int, ...], seen: set[Any]) -> None:
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
