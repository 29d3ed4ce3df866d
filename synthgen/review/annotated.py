"""What annotators made of an export, as readers of annotation tools give it: one form for all tools."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from synthgen.errors import RunError


class AnnotationError(RunError):
    """What annotators made does not fit the run; nothing of their file is taken."""


@dataclass(frozen=True, slots=True)
class AnnotatedObject:
    """An object in a file of an annotation tool. It has a mask, a box, or both; the mask counts more than the box.

    Attributes:
        instance: the number of the run's label that the object was in the export; None for an object that the annotator
            has added, and for a tool that does not keep the number.
        category: the name of its class, as the file has it.
        rle: its mask in the whole image, as a COCO RLE, `{"size": [h, w], "counts": str}`; None if it has only a box.
        box_xyxy: its box, px, half-open, as the tool gives it; None if it has only a mask.
        ignore: whether it is a region to be ignored; None if the file does not say.
        where: the object's place in the file, for messages, such as `line 12`.
    """

    instance: int | None
    category: str
    rle: Mapping[str, Any] | None
    box_xyxy: tuple[float, float, float, float] | None
    ignore: bool | None = None
    where: str = ""


@dataclass(frozen=True, slots=True)
class AnnotatedImage:
    """An image in a file of an annotation tool.

    Attributes:
        image_id: of the run.
        objects: all objects that it has in the file. A label of the run that is not among them was deleted.
        by: who annotated it; "" if the file does not say.
        at: when, UTC, ISO 8601; "" if the file does not say.
        size: height and width of the image, px, as the file has them; None if it does not say.
        tolerance_iou: a mask or box whose IoU with the run's label is at least this counts as unchanged. Below 1 for
            formats that do not keep every pixel.
        shown: the numbers of the labels that the annotator was shown, if the file says so; None otherwise. A label that
            was not shown was not deleted.
        classes: the names of the classes that the file lists, if it does; None otherwise. A label of another class was
            not shown.
        is_numbered: whether the tool keeps `instance`. If it does not, objects are paired with labels by their masks.
        where: the image's place in the file, for messages.
    """

    image_id: int
    objects: tuple[AnnotatedObject, ...]
    by: str = ""
    at: str = ""
    size: tuple[int, int] | None = None
    tolerance_iou: float = 1.0
    shown: frozenset[int] | None = None
    classes: frozenset[str] | None = None
    is_numbered: bool = True
    where: str = ""
