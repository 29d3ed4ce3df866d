"""Classification: a folder for each class, with a crop for each object, `train/cup/000000000001_000.png`, or with whole
images.

Read by torchvision's `ImageFolder` (a split's folder), and by `datasets.load_dataset` (the whole folder).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from synthgen.backends import ExportedFolder, Exporter, Folder, ImageOptions, Records
from synthgen.base.pictures import require_png
from synthgen.errors import BackendError
from synthgen.exporters._classes_file import CLASSES, faults_of_classes, write_classes
from synthgen.exporters._file_names import file_names
from synthgen.types import Annotation, Box, Category, DatasetInfo, Record

CARD = "README.md"


class Config(ImageOptions):
    """Options of `classification`."""

    of: Literal["objects", "images"] = Field(
        "objects",
        description="objects: a crop for each object; with `images: link` or `copy`, crops are PNGs. images: whole "
        "images whose labels are all of one class; others are left out.",
    )
    margin: float = Field(
        0.1,
        ge=0,
        le=1,
        description="How much of the image a crop shows around the object's box, as a share of the box's width and "
        "height on each side.",
    )


class Backend(Exporter[Config]):
    """A crop is named by its image's id and the object's number in that image, and carries the marks of its image, such
    as XMP. Regions to be ignored and objects without pixels have no crop.

    The folder of a class has its name, in which characters that file systems or readers do not take are `%` and hex
    digits, as in a URL. `classes.json` says which folder is which class. `README.md` tells `datasets` which folders are
    splits: it would take a class called `test` for one.
    """

    def export(self, info: DatasetInfo, records: Records, folder: Folder) -> None:
        """
        Raises:
            RunError: an image cannot be decoded.
        """
        folders = _folders(info.categories)
        files: dict[str, set[int]] = {}  # split -> the classes of which it has files
        left_out = _LeftOut()
        for record in records:
            chosen = self._chosen(record)
            left_out.add(record, chosen)
            if chosen:
                files.setdefault(record.job.split, set()).update(a.category_id for a in chosen)
                self._write(record, chosen, folders, folder)
        with folder.open(CARD) as file:
            file.write(_card([split for split in info.splits if split in files]))
        write_classes(folder, info, records.content_hash, _classes(info.categories))
        for sentence in [*left_out.sentences(self.config.of), *_uneven(files)]:
            folder.report_loss(sentence)

    def verify(self, folder: ExportedFolder, records: Records) -> Iterator[tuple[str, str]]:
        """Compares the classes, the names and sizes of all files, and the pixels of crops that are PNGs. Reports the
        first difference of each split."""
        folders, faulty = _folders(self.categories), set[str]()
        for record in records:
            if record.job.split not in faulty:
                for name, fault in self._faults(folder, record, folders):
                    faulty.add(record.job.split)
                    yield name, fault
                    break
        yield from faults_of_classes(folder, _classes(self.categories))

    def _faults(self, folder: ExportedFolder, record: Record, folders: Mapping[int, str]) -> Iterator[tuple[str, str]]:
        chosen = self._chosen(record)
        names = [self._name(record, a, folders) for a in chosen]
        for name in names:
            if not folder.has(name):
                yield name, f"is not among the exported files, and image {record.job.id} needs it"
                return
        if self.config.of == "images" or not chosen:
            return
        try:
            pixels = self._decoded(record.image_path.read_bytes(), record)
        except (OSError, BackendError):
            return  # The run's image is damaged. It is reported as such.
        for name, annotation in zip(names, chosen, strict=True):
            with folder.open(name) as file:
                data = file.read()
            x0, y0, x1, y1 = self._box(annotation)
            crop, expected = cv2.imdecode(np.frombuffer(data, np.uint8), self._flags()), pixels[y0:y1, x0:x1]
            if crop is None:
                yield name, "cannot be decoded"
            elif crop.shape != expected.shape:
                high, wide = expected.shape[:2]
                yield name, f"has {crop.shape[1]}x{crop.shape[0]} px, expected {wide}x{high}"
            elif self.config.image_ending == ".png" and (crop != expected).any():
                yield name, f"does not show object {annotation.instance} of image {record.job.id}"

    def _chosen(self, record: Record) -> list[Annotation]:
        """The labels that have a file: one of them for a whole image."""
        objects = [a for a in record.annotations if not a.ignore]
        if self.config.of == "objects":
            return [a for a in objects if a.area]
        # Of what is to be ignored, or has no pixels, nobody knows whether it is there.
        is_single = len({a.category_id for a in record.annotations}) == 1
        return [a for a in objects if a.area][:1] if is_single else []

    def _name(self, record: Record, annotation: Annotation, folders: Mapping[int, str]) -> str:
        number = f"_{annotation.instance:03d}" if self.config.of == "objects" else ""
        folder = f"{record.job.split}/{folders[annotation.category_id]}"
        return f"{folder}/{record.job.id:012d}{number}{self.config.image_ending}"

    def _write(self, record: Record, chosen: Sequence[Annotation], folders: Mapping[int, str], folder: Folder) -> None:
        if self.config.of == "images":
            name = self._name(record, chosen[0], folders)
            folder.image(record.image_path, name, encoding=self.config.images)
            return
        boxes = {self._name(record, annotation, folders): self._box(annotation) for annotation in chosen}
        folder.crops(record.image_path, boxes, encoding=self.config.images)

    def _flags(self) -> int:
        """How OpenCV decodes: with the alpha channel where a crop keeps it, and never turned."""
        return cv2.IMREAD_UNCHANGED if self.config.image_ending == ".png" else cv2.IMREAD_COLOR_BGR

    def _decoded(self, data: bytes, record: Record) -> NDArray[np.uint8]:
        try:
            require_png(data)
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), self._flags() | cv2.IMREAD_IGNORE_ORIENTATION)
            if pixels is None or pixels.dtype != np.uint8:
                raise ValueError("its pixels cannot be decoded")
        except ValueError as error:
            raise BackendError(f"{record.image_path} is no readable image: {error}") from error
        return np.asarray(pixels, np.uint8)

    def _box(self, annotation: Annotation) -> Box:
        """The box with its margin, xyxy px, cut to the image."""
        x, y, width, height = annotation.bbox_xywh
        right, below = x + width * (1 + self.config.margin), y + height * (1 + self.config.margin)
        left, above = max(0, x - width * self.config.margin), max(0, y - height * self.config.margin)
        most_y, most_x = annotation.rle["size"]
        return int(left), int(above), min(most_x, math.ceil(right)), min(most_y, math.ceil(below))


class _LeftOut:
    """Counts what has no file."""

    def __init__(self) -> None:
        self._images = self._several = self._bare = self._objects = self._empty = self._ignored = 0

    def add(self, record: Record, chosen: Sequence[Annotation]) -> None:
        self._images += 1
        self._bare += not record.annotations
        self._several += bool(record.annotations) and not chosen
        ignored = sum(a.ignore for a in record.annotations)
        self._ignored += ignored
        self._objects += len(record.annotations) - ignored
        self._empty += sum(a.area == 0 and not a.ignore for a in record.annotations)

    def sentences(self, of: str) -> Iterator[str]:
        """What was left out, in numbers; none if nothing was."""
        if of == "images":
            if self._several:
                yield (
                    f"{self._several:,} of {self._images:,} images are left out, since their labels are of several "
                    "classes, or of none that is sure"
                )
            if self._bare:
                yield f"{self._bare:,} of {self._images:,} images are left out, since they have no label"
            return
        if self._ignored:
            yield f"regions to be ignored have no crop, {self._ignored:,} in all"
        if self._empty:
            yield f"{self._empty:,} of {self._objects:,} objects have no crop, since their masks are empty"


def _uneven(files: Mapping[str, set[int]]) -> Iterator[str]:
    """That splits have files of different classes. `files`: split -> the classes of which it has files."""
    every = set().union(*files.values())
    if lacking := [f"{split} lacks {len(every - own)}" for split, own in files.items() if own != every]:
        yield (
            f"not every split has files of all {len(every)} classes ({', '.join(lacking)}), and torchvision's "
            "`ImageFolder` numbers the folders of each split by itself; take the numbers from one of them"
        )


def _folders(categories: Sequence[Category]) -> dict[int, str]:
    """Id of a class -> its folder."""
    names = file_names(category.name for category in categories)
    return {category.id: names[category.name] for category in categories}


def _classes(categories: Sequence[Category]) -> list[dict[str, Any]]:
    folders = _folders(categories)
    return [{"folder": folders[c.id], "name": c.name, "id": c.exported_id} for c in categories]


def _card(splits: Sequence[str]) -> bytes:
    """Says where the files of each split are, as `datasets` reads it. Its names of splits have no dashes."""
    files = [
        f"  - split: {json.dumps(split.replace('-', '_'))}\n    path: {json.dumps(f'{split}/**')}\n" for split in splits
    ]
    listed = "".join(["configs:\n- config_name: default\n  data_files:\n", *files]) if files else ""
    return f"---\n{listed}---\n\n`{CLASSES}` says which folder is which class.\n".encode()
