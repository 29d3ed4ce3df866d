"""What Label Studio exports as `JSON`: a list of tasks with their annotations.

Format: https://labelstud.io/guide/export#Label-Studio-JSON-format-of-annotated-tasks
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any

from synthgen.base.brush_rle import decode_brush
from synthgen.base.json_stream import entries
from synthgen.base.label_ids import instance_of
from synthgen.base.wording import plain
from synthgen.errors import RunError
from synthgen.review import shapes
from synthgen.review.annotated import AnnotatedImage, AnnotatedObject

SHAPES = ("brush", "rectangle", "polygon", "ellipse")
OTHERS = ("bitmask", "keypoint", "vector", "magicwand", "cuboid")  # drawn on images too


def read_label_studio(path: Path) -> Iterator[AnnotatedImage]:
    """Yields the image of every task that somebody has annotated. Of several annotations of a task, the ground truth
    counts, else the one that was changed last; cancelled ones do not count.

    A region's id says which label it was: a prediction's regions keep theirs when they become those of an annotation,
    and copies get new ones. A region below another one of its class, in the outliner, is a part of the same object.

    Raises:
        RunError: the file is no such export, is damaged, or has regions that are neither masks nor boxes.
    """
    try:
        with open(path, "rb") as file:
            for position, task in enumerate(entries(file), 1):
                where = (
                    f"task {task['id']}" if isinstance(task, dict) and _is_int(task.get("id")) else f"entry {position}"
                )
                try:
                    if image := _image(task, where):
                        yield image
                except ValueError as error:
                    raise ValueError(f"{where}: {error}") from error
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise RunError(f"{path}: {error}") from error


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _image(task: Any, where: str) -> AnnotatedImage | None:
    if isinstance(task, dict) and "annotation_id" in task and "data" not in task:
        raise ValueError("it is of JSON-MIN, which does not say which object is which; export the project as JSON")
    data = task.get("data") if isinstance(task, dict) else None
    if not isinstance(data, dict) or not _is_int(data.get("image_id")):
        raise ValueError("it has no `data` with an `image_id`, as tasks of an export have")
    if (annotation := _annotation(task)) is None:
        return None
    image_id = data["image_id"]
    results = annotation.get("result")
    if not isinstance(results, list) or not all(isinstance(r, dict) for r in results):
        raise ValueError("its annotation has no list of results")
    size = _size(results)
    numbers = data.get("instances")
    return AnnotatedImage(
        image_id,
        shapes.joined(_shapes(results, image_id, *size)) if size else (),
        by=_by(annotation.get("completed_by")),
        at=shapes.utc(annotation.get("updated_at") or annotation.get("created_at")),
        size=size,
        shown=frozenset(numbers) if isinstance(numbers, list) and all(map(_is_int, numbers)) else None,
        where=where,
    )


def _annotation(task: Mapping[str, Any]) -> Mapping[str, Any] | None:
    found = task.get("annotations", [])
    if not isinstance(found, list) or not all(isinstance(a, dict) for a in found):
        raise ValueError("its annotations are no list of mappings")
    counting = [a for a in found if not a.get("was_cancelled")]
    return max(reversed(counting), key=_rank) if counting else None


def _rank(annotation: Mapping[str, Any]) -> tuple[bool, str]:
    return bool(annotation.get("ground_truth")), shapes.utc(annotation.get("updated_at"))


def _by(who: Any) -> str:
    if isinstance(who, dict):
        who = who.get("email") or who.get("username") or who.get("id")
    return f"user {who}" if _is_int(who) else plain(who, 200) if isinstance(who, str) else ""


def _size(results: list[dict[str, Any]]) -> tuple[int, int] | None:
    """Height and width of the image; None if there is no region that says them."""
    found = {(r["original_height"], r["original_width"]) for r in results if _kind(r) in SHAPES and _has_size(r)}
    if len(found) > 1:
        raise ValueError("its regions are of images of different sizes")
    for height, width in found:
        shapes.require_size(height, width)
        return height, width
    return None


def _has_size(result: Mapping[str, Any]) -> bool:
    if not all(_is_int(result.get(key)) for key in ("original_height", "original_width")):
        raise ValueError(f"region {_id(result)!r} has no original_height and original_width")
    return True


def _kind(result: Mapping[str, Any]) -> str:
    """What was drawn, such as `brush`; "" if nothing was."""
    kind = str(result.get("type", "")).lower().removesuffix("labels")
    if kind in OTHERS or kind.startswith("video"):
        raise ValueError(f"region {_id(result)!r} is a {plain(kind)}; takes brushes, rectangles, polygons and ellipses")
    return kind if kind in SHAPES else ""


def _id(result: Mapping[str, Any]) -> str:
    found = result.get("id")
    return plain(found, 200) if isinstance(found, str) else ""


def _shapes(
    results: list[dict[str, Any]], image_id: int, height: int, width: int
) -> Iterator[tuple[AnnotatedObject, Hashable]]:
    """The regions, each with the one that it is a part of."""
    parents = {_id(r): r["parentID"] for r in results if isinstance(r.get("parentID"), str) and r["parentID"]}
    families = {*parents, *parents.values()}
    # With <Labels> beside <Brush> or <Rectangle>, a region's class is a result of its own.
    labels = {_id(r): names for r in results if r.get("type") == "labels" and (names := _names(r, "labels"))}
    seen: set[str] = set()
    for result in results:
        if not (kind := _kind(result)):
            continue
        region = _id(result)
        try:
            if region in seen and region:
                raise ValueError("it stands in the annotation twice")
            names = _names(result, f"{kind}labels") or _names(result, "labels") or labels.get(region, [])
            if len(names) != 1:
                raise ValueError(f"it has {len(names)} classes, expected one")
            rle, box = _drawn(kind, result, height, width)
        except ValueError as error:
            raise ValueError(f"region {region!r}: {error}") from error
        seen.add(region)
        ignore = meta.get("ignore") if isinstance(meta := result.get("meta"), dict) else None
        yield (
            AnnotatedObject(
                instance_of(region, image_id),
                names[0],
                rle,
                box,
                ignore if isinstance(ignore, bool) else None,
                f"region {region}",
            ),
            _root(region, parents) if region in families else None,
        )


def _root(region: str, parents: Mapping[str, str]) -> str:
    for _ in range(len(parents)):  # Parents may be each other's.
        if region not in parents:
            break
        region = parents[region]
    return region


def _names(result: Mapping[str, Any], key: str) -> list[str]:
    value = result.get("value")
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, list) and all(isinstance(n, str) for n in found) else []


def _drawn(
    kind: str, result: Mapping[str, Any], height: int, width: int
) -> tuple[dict[str, Any] | None, tuple[float, float, float, float] | None]:
    """The mask, or the box, of a region. Label Studio gives places in percent of the image's width and height."""
    value = result.get("value")
    if not isinstance(value, dict):
        raise ValueError("it has no value")
    if result.get("image_rotation", 0) != 0:
        raise ValueError("its image was rotated")
    if kind == "brush":
        if value.get("format") != "rle" or not isinstance(value.get("rle"), list):
            raise ValueError("it is a brush without RLE")
        return shapes.mask_rle(decode_brush(value["rle"], height, width)), None
    if kind == "polygon":
        points = value.get("points")
        if not isinstance(points, list) or not all(isinstance(p, list) and len(p) == 2 for p in points):
            raise ValueError("its points are no list of pairs")
        drawn = [(_px(x, "a point", width), _px(y, "a point", height)) for x, y in points]
        return shapes.polygon_rle(drawn, height, width), None
    x, y = _px(value.get("x"), "x", width), _px(value.get("y"), "y", height)
    rotation = shapes.number(value.get("rotation", 0), "rotation")
    if kind == "ellipse":
        radii = _px(value.get("radiusX"), "radiusX", width), _px(value.get("radiusY"), "radiusY", height)
        return shapes.ellipse_rle((x, y), radii, rotation, height, width), None
    if rotation:
        raise ValueError("it is rotated, and a box of a dataset is not; draw a brush mask or a polygon instead")
    wide, high = _px(value.get("width"), "width", width), _px(value.get("height"), "height", height)
    return None, shapes.box_xyxy(x, y, x + wide, y + high, height, width)


def _px(percent: Any, what: str, length: int) -> float:
    return shapes.number(percent, what) / 100 * length
