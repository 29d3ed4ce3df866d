"""Semantic segmentation: an image of class indices for each image, `masks/train/000000000001.png` for
`images/train/000000000001.png`.

Read by MMSegmentation's `BaseSegDataset` (`data_prefix=dict(img_path="images/train", seg_map_path="masks/train")`), by
datasets for torchvision, and by datumaro.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import Field

from synthgen.backends import ExportedFolder, Exporter, Folder, ImageOptions, Records, Request
from synthgen.errors import BackendError, Problem
from synthgen.exporters._classes_file import faults_of_classes, write_classes
from synthgen.exporters._painting import Covered, Painting, paint
from synthgen.exporters._palette import decode_indices, encode_indices, palette
from synthgen.types import Category, DatasetInfo, Record

IGNORED = 255  # what PyTorch users and MMSegmentation leave out of losses and scores
META = "dataset_meta.json"  # datumaro's


class Config(ImageOptions):
    """Options of `semantic`."""

    background: Literal["class", "ignore"] = Field(
        "class",
        description="Pixels without a label. class: 0, and the classes count from 1; MMSegmentation's "
        "`reduce_zero_label` makes of it what `ignore` writes. ignore: 255, and the classes count from 0.",
    )
    folders: Literal["images/{split}", "{split}/images"] = Field(
        "images/{split}", description="Where images and masks lie. With {split}/images, datumaro reads them too."
    )


class Backend(Exporter[Config]):
    """Masks are PNGs of 8 bits a pixel, since trainers read no more, with PASCAL VOC's palette. `classes.json` says
    which index is which class, with its colour. Classes are numbered in the order of the spec.

    Regions to be ignored are 255. A pixel shows one class: where objects of several classes overlap, the smaller one
    is on top. Objects of one class that touch are one area. So 254 classes are the most, or 255 without a background.
    """

    def check(self, request: Request) -> Iterable[Problem]:
        yield from super().check(request)
        if (number := len(self.config.exported_names(self.categories))) > self._most():
            yield Problem("classes", self._too_many(number))

    def export(self, info: DatasetInfo, records: Records, folder: Folder) -> None:
        """
        Raises:
            BackendError: there are more classes than a mask can hold.
        """
        if len(info.categories) > self._most():
            raise BackendError(self._too_many(len(info.categories)))
        covered, splits = Covered(), set()
        for record in records:
            folder.image(record.image_path, self._path("images", record), encoding=self.config.images)
            painting = self._painting(record, info.categories)
            covered.add(record.annotations, painting)
            with folder.open(self._path("masks", record)) as file:
                file.write(encode_indices(self._indices(painting)))
            splits.add(record.job.split)
        if self.config.folders == "{split}/images":
            for split in sorted(splits):
                with folder.open(f"{split}/{META}") as file:
                    file.write(_json(self._meta(info.categories)))
        classes = self._classes(info.categories)
        write_classes(folder, info, records.content_hash, classes, ignore_index=IGNORED)
        for sentence in covered.sentences("masks"):
            folder.report_loss(sentence)

    def verify(self, folder: ExportedFolder, records: Records) -> Iterator[tuple[str, str]]:
        """Compares every mask with the labels, and the classes. Reports the first difference of each split."""
        faulty: set[str] = set()
        for record in records:
            if record.job.split not in faulty:
                mask = self._path("masks", record)
                if fault := self._fault(folder, record, mask):
                    faulty.add(record.job.split)
                    yield mask, fault
        yield from faults_of_classes(folder, self._classes(self.categories))

    def _fault(self, folder: ExportedFolder, record: Record, name: str) -> str:
        """What is wrong with an image and its mask: the end of a sentence that begins with the mask's name; "" if
        nothing is."""
        if not folder.has(name):
            return f"is not among the exported files, and image {record.job.id} needs it"
        with folder.open(name) as file:
            try:
                found = decode_indices(file.read())
            except ValueError as error:
                return f"is no mask: {error}"
        expected = self._indices(self._painting(record, self.categories))
        if found.shape != expected.shape:
            return f"has {found.shape[1]}x{found.shape[0]} px, expected {expected.shape[1]}x{expected.shape[0]}"
        if different := np.count_nonzero(found != expected):
            return f"does not show the labels that were kept: {different:,} pixels of image {record.job.id} differ"
        if not folder.has(image := self._path("images", record)):
            return f"is of image {record.job.id}, whose file {image} is not among the exported files"
        return ""

    def _path(self, kind: str, record: Record) -> str:
        folder = self.config.folders.replace("{split}", record.job.split).replace("images", kind, 1)
        return f"{folder}/{record.job.id:012d}{self.config.image_ending if kind == 'images' else '.png'}"

    def _painting(self, record: Record, categories: Sequence[Category]) -> Painting:
        """The values are indices plus `_shift`."""
        shift = self._shift()
        values = {category.id: index + shift for index, category in enumerate(categories, self._first())}
        shown = [IGNORED + shift if a.ignore else values[a.category_id] for a in record.annotations]
        return paint(record.annotations, shown, record.job.height, record.job.width)

    def _indices(self, painting: Painting) -> NDArray[np.uint8]:
        # A pixel without a label is 0 in a painting. Shifted, it becomes -1, which is 255 in uint8.
        return (painting.values - self._shift()).astype(np.uint8)

    def _shift(self) -> int:
        return int(self.config.background == "ignore")

    def _first(self) -> int:
        """The index of the first class."""
        return int(self.config.background == "class")

    def _most(self) -> int:
        return IGNORED - self._first()

    def _too_many(self, number: int) -> str:
        return (
            f"got {number} classes; `semantic` takes at most {self._most()}, since the pixels of its masks have "
            "8 bits; leave some out by its option `classes`"
        )

    def _classes(self, categories: Sequence[Category]) -> list[dict[str, Any]]:
        """Of each index: its name and colour, and the id that the class has in other exports."""
        found: list[dict[str, Any]] = []
        if self.config.background == "class":
            found.append({"index": 0, "name": _free("background", categories), "id": None, "color": palette()[0]})
        for index, c in enumerate(categories, self._first()):
            found.append({"index": index, "name": c.name, "id": c.exported_id, "color": palette()[index]})
        return [{**one, "color": [*one["color"]]} for one in found]

    def _meta(self, categories: Sequence[Category]) -> dict[str, Any]:
        """The same for datumaro, which goes by the colours."""
        known = self._classes(categories)
        names = [*(one["name"] for one in known), _free("ignored", categories)]
        colours = [*(one["color"] for one in known), [*palette()[IGNORED]]]
        return {"label_map": {str(i): name for i, name in enumerate(names)}, "segmentation_colors": colours}


def _free(name: str, categories: Sequence[Category]) -> str:
    """A name that no class has."""
    while name in {category.name for category in categories}:
        name = f"_{name}_"
    return name


def _json(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2) + b"\n"
