"""PASCAL VOC: `VOCdevkit/VOC2012/Annotations/000000000001.xml`, `ImageSets`, `JPEGImages`, `SegmentationClass` and
`SegmentationObject`.

Read by torchvision's `VOCDetection` and `VOCSegmentation`, MMDetection, MMSegmentation, supervision, datumaro and CVAT.
Format: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/devkit_doc.pdf
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from math import ceil, floor
from typing import Any, Literal
from xml.sax.saxutils import escape

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import Field

from synthgen.backends import ExportedFolder, Exporter, Folder, ImageEncoding, ImageOptions, Records, Request
from synthgen.base.wording import shown
from synthgen.errors import BackendError, Problem
from synthgen.exporters._painting import Covered, Painting, paint
from synthgen.exporters._palette import decode_indices, encode_indices, palette
from synthgen.exporters._voc_lists import ImageSets
from synthgen.types import Annotation, Category, DatasetInfo, Job, Record

VOID = 255  # the index of regions to be ignored, and of what no index is left for
META = "dataset_meta.json"  # datumaro's
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Config(ImageOptions):
    """Options of `voc`."""

    images: ImageEncoding = Field(
        "jpeg",
        description="jpeg: encoded again, as torchvision reads .jpg alone; link, copy: the run's PNGs, without a loss; "
        "webp.",
    )
    task: Literal["segment", "detect"] = Field(
        "segment", description="segment: boxes, and images of masks beside them; detect: boxes alone."
    )
    year: Literal[2007, 2012] = Field(
        2012, description="The folder, VOCdevkit/VOC2012. torchvision reads a split called test with 2007 alone."
    )


class Backend(Exporter[Config]):
    """Boxes are VOC's: the first and the last pixel, counted from 1. supervision makes the exact box of them, and so
    does datumaro with `coordinate_mode="voc-one-based"`. `difficult` marks regions to be ignored, and `truncated` boxes
    that touch the image's border.

    In `SegmentationClass` a class has its place in the spec, from 1; in `SegmentationObject` an object has its place
    among the objects of the XML file, from 1. 255 is a region to be ignored; VOC's 255 around each object is not drawn.
    Smaller objects are on top. The 255th object of an image and those after it have a class but no index of their own:
    they are 255 in `SegmentationObject`. So a spec has at most 254 classes, or, with `task: detect`, any number.
    """

    def check(self, request: Request) -> Iterable[Problem]:
        yield from super().check(request)
        if problem := self._too_many(self.categories):
            yield Problem("classes", problem)

    def export(self, info: DatasetInfo, records: Records, folder: Folder) -> None:
        """
        Raises:
            BackendError: there are more classes than a mask can hold.
        """
        if problem := self._too_many(info.categories):
            raise BackendError(problem)
        sets, covered = ImageSets(info.categories), Covered()
        labels = boxless = nameless = 0
        for record in records:
            sets.add(record)
            listed = _listed(record)
            labels += len(record.annotations)
            boxless += len(record.annotations) - len(listed)
            folder.image(record.image_path, self._path("JPEGImages", record), encoding=self.config.images)
            with folder.open(self._path("Annotations", record)) as file:
                file.write(self._xml(record.job, listed, info.categories))
            if self.config.task == "segment":
                painting = _painting(record.job, listed)
                covered.add(listed, painting)
                nameless += sum(not a.ignore for a in listed[VOID - 1 :])
                for kind, indices in _indices(painting, listed, info.categories):
                    with folder.open(self._path(kind, record)) as file:
                        file.write(encode_indices(indices))
        for name, lines in self._lists(sets):
            with folder.open(name) as file:
                file.write(lines)
        subset = {"subset": info.subset} if info.subset else {}
        said = {"name": info.name, "content_hash": records.content_hash, **subset}
        with folder.open(f"{self._root}/{META}") as file:
            file.write(orjson.dumps({**_meta(info.categories), "dataset": said}, option=orjson.OPT_INDENT_2) + b"\n")
        for sentence in covered.sentences("SegmentationClass and SegmentationObject"):
            folder.report_loss(sentence)
        if nameless:
            folder.report_loss(
                f"SegmentationObject shows {nameless:,} objects as 255: those after the 254th of an image"
            )
        if boxless:
            folder.report_loss(f"{boxless:,} of {labels:,} labels have neither a pixel nor a box and are left out")

    def verify(self, folder: ExportedFolder, records: Records) -> Iterator[tuple[str, str]]:
        """Compares labels, masks and images with the records, up to the first file that differs; then the lists and the
        classes."""
        sets, fault = ImageSets(self.categories), None
        files = (name for name in folder.names() if name.startswith(f"{self._root}/Annotations/"))
        for record in records:
            sets.add(record)
            fault = fault or self._fault(folder, record, next(files, None))
        if extra := next(files, None):
            fault = fault or (extra, "is of an image that is not among the accepted ones")
        if fault:
            yield fault
        for name, lines in self._lists(sets):
            if not folder.has(name):
                yield name, "is not among the exported files"
            elif _read(folder, name) != lines:
                yield name, "does not list the accepted images"
        name = f"{self._root}/{META}"
        try:
            found = orjson.loads(_read(folder, name)) if folder.has(name) else None
        except ValueError as error:
            yield name, f"is no JSON: {error}"
            return
        if not isinstance(found, dict) or any(found.get(key) != value for key, value in _meta(self.categories).items()):
            yield name, "does not have the classes of the spec"

    def _fault(self, folder: ExportedFolder, record: Record, found: str | None) -> tuple[str, str] | None:
        """The file that differs from a record, and how. `found`: the next file of labels of the export."""
        name, listed = self._path("Annotations", record), _listed(record)
        if found != name and found and folder.has(name):
            return found, f"stands before {name}; files are in order of image"
        masks = [self._path(kind, record) for kind in ("SegmentationClass", "SegmentationObject")]
        for needed in (name, self._path("JPEGImages", record), *(masks if self.config.task == "segment" else ())):
            if not folder.has(needed):
                return needed, f"is not among the exported files, and image {record.job.id} needs it"
        lines, expected = _read(folder, name).splitlines(), self._xml(record.job, listed, self.categories).splitlines()
        for number in range(max(len(lines), len(expected))):
            one, other = (_line(text, number) for text in (lines, expected))
            if one != other:
                return name, f"has {one} in line {number + 1}, expected {other}"
        if self.config.task == "segment":
            for kind, indices in _indices(_painting(record.job, listed), listed, self.categories):
                name = self._path(kind, record)
                try:
                    drawn = decode_indices(_read(folder, name))
                except ValueError as error:
                    return name, f"is no mask: {error}"
                if drawn.shape != indices.shape or (drawn != indices).any():
                    return name, f"does not show the labels of image {record.job.id} that were kept"
        return None

    @property
    def _root(self) -> str:
        return f"VOCdevkit/VOC{self.config.year}"

    def _path(self, kind: str, record: Record) -> str:
        ending = {"JPEGImages": self.config.image_ending, "Annotations": ".xml"}.get(kind, ".png")
        return f"{self._root}/{kind}/{record.job.id:012d}{ending}"

    def _lists(self, sets: ImageSets) -> Iterator[tuple[str, bytes]]:
        for name, lines in sets.images():
            yield f"{self._root}/ImageSets/Main/{name}", lines
            if self.config.task == "segment":
                yield f"{self._root}/ImageSets/Segmentation/{name}", lines
        for name, lines in sets.classes():
            yield f"{self._root}/ImageSets/Main/{name}", lines

    def _too_many(self, categories: Sequence[Category]) -> str:
        if self.config.task == "detect" or len(categories) < VOID:
            return ""
        return (
            f"got {len(categories)} classes; `voc` takes at most {VOID - 1}, since the pixels of its masks have 8 "
            "bits; take task: detect, or leave some out by its option `classes`"
        )

    def _xml(self, job: Job, listed: Sequence[Annotation], categories: Sequence[Category]) -> bytes:
        """The labels of an image, in ASCII: other characters are character references."""
        names = {category.id: category.name for category in categories}
        lines = [
            "<annotation>",
            f"\t<folder>VOC{self.config.year}</folder>",
            f"\t<filename>{self.config.image_name(job.id)}</filename>",
            "\t<source>\n\t\t<database>synthgen</database>\n\t</source>",
            f"\t<size>\n\t\t<width>{job.width}</width>\n\t\t<height>{job.height}</height>",
            "\t\t<depth>3</depth>\n\t</size>",
            f"\t<segmented>{int(self.config.task == 'segment')}</segmented>",
        ]
        for a in listed:
            x0, y0, x1, y1 = _box(a, job)
            truncated = x0 == 1 or y0 == 1 or x1 == job.width or y1 == job.height
            lines.append(
                f"\t<object>\n\t\t<name>{_text(names[a.category_id])}</name>\n\t\t<pose>Unspecified</pose>\n"
                f"\t\t<truncated>{int(truncated)}</truncated>\n\t\t<difficult>{int(a.ignore)}</difficult>\n"
                f"\t\t<bndbox>\n\t\t\t<xmin>{x0}</xmin>\n\t\t\t<ymin>{y0}</ymin>\n\t\t\t<xmax>{x1}</xmax>\n"
                f"\t\t\t<ymax>{y1}</ymax>\n\t\t</bndbox>\n\t</object>"
            )
        return "\n".join([*lines, "</annotation>\n"]).encode("ascii", "xmlcharrefreplace")


def _text(name: str) -> str:
    return escape(_NOT_XML.sub("\ufffd", name), {"\r": "&#13;"})


def _box(annotation: Annotation, job: Job) -> tuple[int, int, int, int]:
    """The first and the last column and row of a box, from 1, within the image. The last is before the first in a box
    without an extent."""
    x, y, width, height = annotation.bbox_xywh
    x1, y1 = min(ceil(x + width), job.width), min(ceil(y + height), job.height)
    return max(floor(x), 0) + 1, max(floor(y), 0) + 1, x1, y1


def _listed(record: Record) -> list[Annotation]:
    """The labels that have a box, with the regions to be ignored at the end: they have no index."""
    boxes = [(a, _box(a, record.job)) for a in record.annotations]
    listed = [a for a, (x0, y0, x1, y1) in boxes if x0 <= x1 and y0 <= y1]
    return sorted(listed, key=lambda a: a.ignore)


def _painting(job: Job, listed: Sequence[Annotation]) -> Painting:
    """The values are places, from 1."""
    return paint(listed, range(1, len(listed) + 1), job.height, job.width)


def _indices(
    painting: Painting, listed: Sequence[Annotation], categories: Sequence[Category]
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """The folders of masks, and what is shown there: uint8 (H, W)."""
    places = {category.id: place for place, category in enumerate(categories, 1)}
    classes = [0, *(VOID if a.ignore else places[a.category_id] for a in listed)]
    objects = [0, *(VOID if a.ignore else min(place, VOID) for place, a in enumerate(listed, 1))]
    yield "SegmentationClass", np.array(classes, np.uint8)[painting.values]
    yield "SegmentationObject", np.array(objects, np.uint8)[painting.values]


def _meta(categories: Sequence[Category]) -> dict[str, Any]:
    """The classes for datumaro and CVAT, which go by colours where there are few enough classes."""
    known = {category.name for category in categories}
    names = [_free("background", known), *(category.name for category in categories)]
    colours = [[*palette()[index]] for index in range(len(names))] if len(names) <= VOID else []
    if colours:
        names, colours = [*names, _free("ignored", known)], [*colours, [*palette()[VOID]]]
    return {"label_map": {str(i): name for i, name in enumerate(names)}, "segmentation_colors": colours}


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name = f"_{name}_"
    return name


def _read(folder: ExportedFolder, name: str) -> bytes:
    with folder.open(name) as file:
        return file.read()


def _line(lines: Sequence[bytes], number: int) -> str:
    return shown(lines[number].decode("ascii", "replace").strip()) if number < len(lines) else "nothing"
