"""What people draw in annotation tools, as masks of the whole image."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from synthgen.base.pictures import MAX_PIXELS
from synthgen.base.wording import shown
from synthgen.masks import decode_rle, encode_rle
from synthgen.review.annotated import AnnotatedObject

MAX_POINTS = 100_000  # of a polygon


def number(value: Any, what: str) -> float:
    """
    Raises:
        ValueError: it is no finite number.
    """
    try:
        found = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise ValueError(f"{what} is {shown(value)}, expected a finite number")
    return found


def whole_number(value: Any, what: str) -> int:
    """
    Raises:
        ValueError: it is no whole number.
    """
    if isinstance(value, str) and value.isdecimal() and len(value) <= 18:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError(f"{what} is {shown(value)}, expected a whole number")


def require_size(height: int, width: int) -> None:
    """Comes before anything of this size is made: a file may claim any size.

    Raises:
        ValueError: no image of a run is that large.
    """
    if min(height, width) < 1 or height * width > MAX_PIXELS:
        raise ValueError(f"it is {width:,} x {height:,} px, expected an image of at most {MAX_PIXELS:,} px")


def mask_rle(mask: NDArray[np.bool_]) -> dict[str, Any]:
    return encode_rle(mask[None])[0]


def polygon_rle(points: Sequence[tuple[float, float]], height: int, width: int) -> dict[str, Any]:
    """A polygon, x and y in px, as pycocotools draws it.

    Raises:
        ValueError: it has fewer than three points, too many, or points farther from the image than the image is wide
            or high.
    """
    if not 3 <= len(points) <= MAX_POINTS:
        raise ValueError(f"a polygon of {len(points):,} points, expected 3 to {MAX_POINTS:,}")
    corners = np.array(points, float)
    size = np.array([width, height])
    if (corners < -size).any() or (corners > 2 * size).any():
        raise ValueError("a polygon that reaches far beyond the image")
    # pycocotools draws inside its canvas only. So the canvas holds the whole polygon, and is cut to the image.
    low = np.ceil(np.maximum(-corners.min(0), 0)).astype(int)
    high = np.ceil(np.maximum(corners.max(0) - size, 0)).astype(int)
    canvas_width, canvas_height = (size + low + high).tolist()
    drawn = coco_mask.frPyObjects([(corners + low).reshape(-1).tolist()], canvas_height, canvas_width)[0]
    rle = {"size": [canvas_height, canvas_width], "counts": drawn["counts"].decode("ascii")}
    if (low + high).any():
        x, y = low.tolist()
        whole = decode_rle([rle], canvas_height, canvas_width)[0]
        return mask_rle(np.ascontiguousarray(whole[y : y + height, x : x + width]))
    return rle


def ellipse_rle(
    center: tuple[float, float], radii: tuple[float, float], degrees: float, height: int, width: int
) -> dict[str, Any]:
    """The pixels whose centres lie in an ellipse, turned clockwise by `degrees` about its centre; all in px.

    Raises:
        ValueError: it has no area, or reaches far beyond the image.
    """
    if min(radii) <= 0:
        raise ValueError("an ellipse without area")
    if max(abs(center[0]), abs(center[1]), *radii) > 3 * max(height, width):
        raise ValueError("an ellipse that reaches far beyond the image")
    turn, reach = math.radians(degrees), max(radii)
    x0, x1 = (min(max(int(center[0] + r), 0), width) for r in (-reach - 1, reach + 1))
    y0, y1 = (min(max(int(center[1] + r), 0), height) for r in (-reach - 1, reach + 1))
    x = np.arange(x0, x1, dtype=np.float32)[None] + 0.5 - center[0]
    y = np.arange(y0, y1, dtype=np.float32)[:, None] + 0.5 - center[1]
    along, across = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    mask = np.zeros((height, width), bool)
    mask[y0:y1, x0:x1] = (along / radii[0]) ** 2 + (across / radii[1]) ** 2 <= 1
    return mask_rle(mask)


def box_xyxy(x0: float, y0: float, x1: float, y1: float, height: int, width: int) -> tuple[float, float, float, float]:
    """
    Raises:
        ValueError: its sides are in the wrong order, or it reaches far beyond the image.
    """
    if not (-width <= x0 <= x1 <= 2 * width and -height <= y0 <= y1 <= 2 * height):
        raise ValueError(f"a box from ({x0:g}, {y0:g}) to ({x1:g}, {y1:g}) in an image of {width} x {height} px")
    return x0, y0, x1, y1


def joined(shapes: Iterable[tuple[AnnotatedObject, Hashable]]) -> tuple[AnnotatedObject, ...]:
    """Shapes become objects. Those that the annotator has grouped are the parts of one object, if they have masks, are
    of one class, and at most one of them is an object of the export; others stay apart.

    Args:
        shapes: each with its group; None for a shape without one.
    """
    groups: dict[tuple[Hashable, str], list[AnnotatedObject]] = {}
    for position, (shape, group) in enumerate(shapes):
        alone = group is None or shape.rle is None
        groups.setdefault((("alone", position) if alone else ("group", group), shape.category), []).append(shape)
    found: list[AnnotatedObject] = []
    for parts in groups.values():
        known = [part for part in parts if part.instance is not None]
        if len(parts) == 1 or len(known) > 1:
            found += parts
        else:
            found.append(replace((known or parts)[0], rle=_union([part.rle for part in parts if part.rle])))
    return tuple(found)


def _union(rles: list[Mapping[str, Any]]) -> dict[str, Any]:
    merged = coco_mask.merge(rles)
    return {"size": [int(n) for n in merged["size"]], "counts": merged["counts"].decode("ascii")}


def utc(text: Any) -> str:
    """A time that a tool has written, in UTC, ISO 8601; "" for anything else."""
    try:
        time = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return ""
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC).isoformat()
