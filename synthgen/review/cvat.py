"""What CVAT exports as `CVAT for images 1.1`: `annotations.xml`, or an archive that holds it.

Format: https://docs.cvat.ai/docs/manual/advanced/xml_format/
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from pycocotools import mask as coco_mask

from synthgen.base.label_ids import instance_of, numbers_in
from synthgen.base.wording import one_line, plain
from synthgen.base.xml_stream import Element, children_of
from synthgen.errors import RunError
from synthgen.review import shapes
from synthgen.review.annotated import AnnotatedImage, AnnotatedObject

MAX_RATIO, SMALL = 200, 2**26  # how much of a file in an archive may come from a byte of it; bytes that always may
_NAME = re.compile(r"0*(\d{1,18})\.\w{1,8}")


def read_cvat(path: Path) -> Iterator[AnnotatedImage]:
    """Yields every image of the file. CVAT does not say which of them were looked at.

    An object's attribute `instance` says which label it was. Where objects of an image share one, since somebody has
    copied or cut one, the largest keeps it, and one that CVAT has only read before one that was drawn. `outside`
    objects are not there; `occluded` and `z_order` say nothing about a mask. Tags of an image are read for what the
    export wrote there; others say nothing about an object.

    Raises:
        RunError: the file is no such export, is damaged, or has shapes that are neither masks nor boxes.
    """
    with _opened(path) as file:
        yield from _read(file)


def _read(file: IO[bytes]) -> Iterator[AnnotatedImage]:
    meta = _Meta(Element("meta", {}, 0))
    for element in children_of(file, "annotations"):
        if element.tag == "meta":
            meta = _Meta(element)
        elif element.tag == "track":
            raise ValueError(f"line {element.line} has a track; export the task as CVAT for images 1.1, not for video")
        elif element.tag == "image":
            try:
                yield _image(element, meta)
            except ValueError as error:
                raise ValueError(f"the image in line {element.line}: {error}") from error


def _image(element: Element, meta: _Meta) -> AnnotatedImage:
    attributes = element.attributes
    name = attributes.get("name", "")
    if not (match := _NAME.fullmatch(name.rpartition("/")[2])):
        raise ValueError(
            f"its name is {plain(name)!r}, expected the name that the export gave it, such as 000000000012.png"
        )
    image_id = int(match[1])
    height, width = (shapes.whole_number(attributes.get(key), key) for key in ("height", "width"))
    shapes.require_size(height, width)
    found: list[tuple[AnnotatedObject, Any]] = []
    by_people: list[bool] = []
    shown = None
    for child in element.children:
        if child.tag == "tag":
            shown = numbers_in(_attributes(child).get("instances", "?")) if shown is None else shown
        elif child.attributes.get("outside") != "1":
            try:
                found.append((_object(child, image_id, height, width), _group(child)))
            except ValueError as error:
                raise ValueError(f"the {plain(child.tag)} in line {child.line}: {error}") from error
            by_people.append(child.attributes.get("source") != "file")
    by, at = meta.who(attributes.get("task_id", ""))
    return AnnotatedImage(
        image_id,
        shapes.joined(_once_each(found, by_people)),
        by=by,
        at=at,
        size=(height, width),
        shown=shown,
        classes=meta.classes,
        where=f"line {element.line}",
    )


def _object(shape: Element, image_id: int, height: int, width: int) -> AnnotatedObject:
    rle, box = None, None
    if shape.attributes.get("rotation", "0") not in {"0", "0.0", "0.00"} and shape.tag != "ellipse":
        raise ValueError("it is rotated, and a box of a dataset is not; draw a mask or a polygon instead")
    if shape.tag == "mask":
        rle = _mask(shape.attributes, height, width)
    elif shape.tag == "polygon":
        rle = shapes.polygon_rle(_points(shape.attributes.get("points", "")), height, width)
    elif shape.tag == "ellipse":
        cx, cy, rx, ry, turn = (
            shapes.number(shape.attributes.get(k, "0" if k == "rotation" else None), k)
            for k in ("cx", "cy", "rx", "ry", "rotation")
        )
        rle = shapes.ellipse_rle((cx, cy), (rx, ry), turn, height, width)
    elif shape.tag == "box":
        x0, y0, x1, y1 = (shapes.number(shape.attributes.get(k), k) for k in ("xtl", "ytl", "xbr", "ybr"))
        box = shapes.box_xyxy(x0, y0, x1, y1, height, width)
    else:
        raise ValueError("takes masks, boxes, polygons and ellipses")
    attributes = _attributes(shape)
    ignore = {"true": True, "false": False}.get(attributes.get("ignore", "").strip().lower())
    instance = instance_of(attributes.get("instance", "").strip(), image_id)
    return AnnotatedObject(instance, shape.attributes.get("label", ""), rle, box, ignore, f"line {shape.line}")


def _attributes(shape: Element) -> dict[str, str]:
    return {child.attributes.get("name", ""): child.text for child in shape.children if child.tag == "attribute"}


def _group(shape: Element) -> int | None:
    return shapes.whole_number(shape.attributes.get("group_id", "0"), "group_id") or None


def _mask(attributes: Mapping[str, str], height: int, width: int) -> dict[str, Any]:
    """The mask in a box of the image, row by row, in runs; the first run is background."""
    left, top, wide, high = (shapes.whole_number(attributes.get(k), k) for k in ("left", "top", "width", "height"))
    if wide < 1 or high < 1 or left + wide > width or top + high > height:
        raise ValueError(f"it lies at ({left}, {top}) and is {wide} x {high} px, in an image of {width} x {height} px")
    try:
        runs = np.array([int(word) for word in attributes.get("rle", "").split(",")], np.int64)
    except (ValueError, OverflowError):
        raise ValueError("its rle is no list of whole numbers") from None
    if runs.min() < 0 or runs.max() > wide * high or runs.sum() != wide * high:
        raise ValueError(f"its rle does not sum to {wide} x {high} px")
    mask = np.zeros((height, width), bool)
    mask[top : top + high, left : left + wide] = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(high, wide)
    return shapes.mask_rle(mask)


def _points(text: str) -> list[tuple[float, float]]:
    found = []
    for pair in text.split(";"):
        x, _, y = pair.partition(",")
        found.append((shapes.number(x, "a point"), shapes.number(y, "a point")))
    return found


def _once_each(
    found: list[tuple[AnnotatedObject, Any]], by_people: list[bool]
) -> Iterator[tuple[AnnotatedObject, Any]]:
    """The shapes, of which only one has the number of each label."""

    def rank(position: int) -> tuple[bool, float]:
        shape = found[position][0]
        return not by_people[position], _area(shape)

    best: dict[int, int] = {}
    for position, (shape, _) in enumerate(found):
        if shape.instance is not None:
            other = best.setdefault(shape.instance, position)
            if rank(position) > rank(other):
                best[shape.instance] = position
    for position, (shape, group) in enumerate(found):
        is_it = shape.instance is None or best[shape.instance] == position
        yield (shape if is_it else replace(shape, instance=None), group)


def _area(shape: AnnotatedObject) -> float:
    if shape.rle:
        return float(coco_mask.area(shape.rle))
    x0, y0, x1, y1 = shape.box_xyxy or (0, 0, 0, 0)
    return (x1 - x0) * (y1 - y0)


class _Meta:
    """What the head of the file says: of a task, of a job, or of a project with several tasks."""

    def __init__(self, meta: Element) -> None:
        heads = [child for child in meta.children if child.tag in {"task", "job", "project"}]
        tasks = [*heads, *(task for head in heads for task in (head.find("tasks") or head).children)]
        self._who = {task.text_at("id"): _who(task) for task in reversed(tasks) if task.find("updated")}
        self._anyone = _who(heads[0]) if heads else ("", "")
        labels = [head.find("labels") for head in heads]
        self.classes = frozenset(
            name.text
            for listed in labels
            for label in (listed.children if listed else ())
            if (name := label.find("name")) and label.text_at("type") != "tag"
        )

    def who(self, task_id: str) -> tuple[str, str]:
        return self._who.get(task_id, self._anyone)


def _who(task: Element) -> tuple[str, str]:
    by = task.text_at("assignee", "username") or task.text_at("owner", "username")
    return by[:200], shapes.utc(task.text_at("updated"))


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The XML file, which may lie in an archive. What goes wrong within the block is said of this file.

    Raises:
        RunError: there is none, the archive is damaged, or the block raised a `ValueError`.
    """
    try:
        with open(path, "rb") as file:
            if file.read(2) != b"PK":
                file.seek(0)
                yield file
                return
            with zipfile.ZipFile(file) as archive, archive.open(_annotations(archive)) as inner:
                yield inner
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from error
    # zipfile raises the last two for passwords and for ways of compression that it does not know.
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise RunError(f"{path} is no archive that can be read: {one_line(error, 200)}") from error
    except ValueError as error:
        raise RunError(f"{path}: {error}") from error


def _annotations(archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    found = [i for i in archive.infolist() if i.filename.endswith(".xml") and not i.filename.startswith("__MACOSX/")]
    if len(found) != 1:
        raise ValueError(f"the archive holds {len(found)} XML files, expected one, annotations.xml")
    if found[0].file_size > max(SMALL, MAX_RATIO * found[0].compress_size):
        raise ValueError(
            f"{found[0].filename} of the archive is compressed more than {MAX_RATIO} times, as no export is"
        )
    return found[0]
