"""Stuff, such as sky or road: classes without objects. An image has one area of each."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

from pycocotools import mask as coco_mask

from synthgen.types import Annotation, Record


def things_of(record: Record, stuff: Collection[int]) -> Record:
    """The record without its stuff. `stuff`: the ids of the classes that are stuff."""
    if not stuff:
        return record
    return replace(record, annotations=tuple(a for a in record.annotations if a.category_id not in stuff))


def stuff_of(record: Record, stuff: Collection[int]) -> Record:
    """The record with one label for each class of its stuff: the union of all areas, with the id of the first. Regions
    to be ignored and labels without pixels are left out."""
    of_class: dict[int, list[Annotation]] = {}
    for a in record.annotations:
        if a.category_id in stuff and not a.ignore and a.area:
            of_class.setdefault(a.category_id, []).append(a)
    return replace(record, annotations=tuple(_merged(labels) for labels in of_class.values()))


def _merged(labels: list[Annotation]) -> Annotation:
    union = coco_mask.merge([dict(a.rle) for a in labels])
    x, y, width, height = coco_mask.toBbox(union).tolist()
    rle = {"size": list(union["size"]), "counts": union["counts"].decode("ascii")}
    return replace(labels[0], rle=rle, bbox_xywh=(x, y, width, height), area=int(coco_mask.area(union)), scores={})


class StuffLeftOut:
    """Counts the stuff that `stuff_of` leaves out."""

    def __init__(self) -> None:
        self._labels = self._ignored = self._empty = 0

    def add(self, record: Record, stuff: Collection[int]) -> None:
        for a in record.annotations:
            if a.category_id in stuff:
                self._labels += 1
                self._ignored += a.ignore
                self._empty += not a.ignore and a.area == 0

    def sentences(self) -> Iterator[str]:
        if self._ignored:
            yield (
                f"files of stuff have no regions to be ignored: {self._ignored:,} of {self._labels:,} labels of stuff "
                "are left out"
            )
        if self._empty:
            yield f"{self._empty:,} of {self._labels:,} labels of stuff are left out, since their masks are empty"
