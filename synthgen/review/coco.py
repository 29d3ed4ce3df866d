"""COCO files that people have corrected, with whatever tool."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from synthgen.base.json_stream import items
from synthgen.base.wording import shown
from synthgen.errors import RunError
from synthgen.masks import segmentation_rle
from synthgen.review import shapes
from synthgen.review.annotated import AnnotatedImage, AnnotatedObject

POLYGON_IOU = 0.98  # Tools that turn masks into polygons move the outline by a pixel here and there.
_NAME = re.compile(r"0*(\d{1,18})\.\w{1,8}")


def read_coco(path: Path) -> Iterator[AnnotatedImage]:
    """Yields the images of a file with `images`, `annotations` and `categories`.

    Many tools give images and annotations other ids. So an image is known by the number in its file's name, which the
    export gave it, and else by its id; objects have no `instance`. `iscrowd` is not read, because some tools set it
    for every mask.

    Raises:
        RunError: the file is no such file, or is damaged.
    """
    try:
        with open(path, "rb") as file:
            found: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": []}
            for key, item in items(file, found):
                if not isinstance(item, dict):
                    raise ValueError(f"its {key!r} hold {shown(item)}, which is no mapping")
                found[key].append(item)
        yield from _images(found)
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise RunError(f"{path}: {error}") from error


def _images(found: Mapping[str, list[Any]]) -> Iterator[AnnotatedImage]:
    names = {}
    for category in found["categories"]:
        if not isinstance(category.get("name"), str):
            raise ValueError(f"category {shown(category.get('id'))} has no name")
        names[shapes.whole_number(category.get("id"), "the id of a category")] = category["name"]
    objects: dict[int, list[dict[str, Any]]] = {}
    for annotation in found["annotations"]:
        image = shapes.whole_number(annotation.get("image_id"), "the image_id of an annotation")
        objects.setdefault(image, []).append(annotation)
    for image in found["images"]:
        number = shapes.whole_number(image.get("id"), "the id of an image")
        height, width = (shapes.whole_number(image.get(k), f"the {k} of image {number}") for k in ("height", "width"))
        shapes.require_size(height, width)
        name = str(image.get("file_name", "")).replace("\\", "/").rpartition("/")[2]
        match = _NAME.fullmatch(name)
        drawn = []
        has_polygons = False
        for annotation in objects.pop(number, ()):
            where = f"annotation {shown(annotation.get('id'))}"
            try:
                if (category := names.get(_hashed(annotation.get("category_id")))) is None:
                    raise ValueError("a category that is not in the file")
                rle, box = _drawn(annotation, height, width)
            except ValueError as error:
                raise ValueError(f"{where} has {error}") from error
            has_polygons |= isinstance(annotation.get("segmentation"), list)
            drawn.append(AnnotatedObject(None, category, rle, box, where=where))
        yield AnnotatedImage(
            int(match[1]) if match else number,
            tuple(drawn),
            size=(height, width),
            tolerance_iou=POLYGON_IOU if has_polygons else 1.0,
            classes=frozenset(names.values()),
            is_numbered=False,
            where=f"image {number}",
        )
    for number in objects:
        raise ValueError(f"an annotation has the image_id {number}, and no image has this id")


def _drawn(
    annotation: Mapping[str, Any], height: int, width: int
) -> tuple[dict[str, Any] | None, tuple[float, float, float, float] | None]:
    """The mask of an annotation in an image of this size, px, or its box if it has no mask.

    Raises:
        ValueError: it has neither; the end of a sentence that begins with "an annotation has".
    """
    if segmentation := annotation.get("segmentation"):
        rle = segmentation_rle(segmentation, height, width)
        return {"size": [height, width], "counts": rle["counts"].decode("ascii")}, None
    bbox = annotation.get("bbox")
    if not isinstance(bbox, list) or len(bbox) != 4:
        raise ValueError("neither a segmentation nor a bbox of four numbers")
    x, y, wide, high = (shapes.number(value, "a bbox, and a number of it") for value in bbox)
    return None, shapes.box_xyxy(x, y, x + wide, y + high, height, width)


def _hashed(value: Any) -> Any:
    """A value that can be looked up: a damaged file may have a list in place of a number."""
    return value if isinstance(value, int | str) else None
