"""A COCO file of one split, read back and compared with the records, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any

from pycocotools import mask as coco_mask

from synthgen.base.json_stream import items
from synthgen.base.wording import shown
from synthgen.exporters._coco_file import image_entry, label_entry
from synthgen.types import Record

_END: Any = object()  # of a list
IMAGES, LABELS, CLASSES = (
    f"does not have {what}" for what in ("the accepted images", "the labels that were kept", "the classes of the spec")
)


class SplitReader:
    """A split's file, read back: its images and its annotations side by side, in order of id.

    Args:
        images, annotations: the file, opened twice.
        categories: the entries of the classes, as far as they are compared.
    """

    def __init__(self, images: IO[bytes], annotations: IO[bytes], categories: Iterable[Mapping[str, Any]]) -> None:
        self._images = _of_one_key(images, "images")
        self._categories = iter(categories)
        self._annotations = self._read_annotations(annotations)

    def compare(self, record: Record, file_name: str, ids: Mapping[int, int]) -> None:
        """Compares the next image and its annotations with the next record of the split.

        Raises:
            ValueError: they differ; the end of a sentence that begins with the file's name.
        """
        self.compare_image(image_entry(record, file_name))
        for a in record.annotations:
            self.compare_label({**label_entry(record, a, ids), "iscrowd": int(a.ignore)}, a.rle)

    def compare_image(self, expected: Mapping[str, Any]) -> None:
        """
        Raises:
            ValueError: the next image is another one.
        """
        require_equal(next_of(self._images), expected, f"{IMAGES}: image {expected['id']}")

    def compare_label(self, expected: Mapping[str, Any], rle: Mapping[str, Any]) -> None:
        """
        Raises:
            ValueError: the next annotation is another one, or has another mask.
        """
        what, found = f"{LABELS}: annotation {expected['id']}", next_of(self._annotations)
        require_equal(found, expected, what)
        if not _is_mask(found.get("segmentation"), rle):
            raise ValueError(f"{what} has another mask")

    def finish(self) -> None:
        """
        Raises:
            ValueError: the file has more than the records, other classes, or something behind its end.
        """
        if (image := next(self._images, _END)) is not _END:
            raise ValueError(f"{IMAGES}: it has {_named(image)} besides")
        if (annotation := next(self._annotations, _END)) is not _END:
            raise ValueError(f"{LABELS}: it has {_named(annotation)} besides")
        if (category := next(self._categories, None)) is not None:
            raise ValueError(f"{CLASSES}: class {category['name']!r} is missing")

    def _read_annotations(self, file: IO[bytes]) -> Iterator[Any]:
        """The annotations. This pass reads the whole file, and compares the classes when it meets them."""
        for key, item in _checked(items(file, ("categories", "annotations"))):
            if key == "annotations":
                yield item
            elif (category := next(self._categories, None)) is None:
                raise ValueError(f"{CLASSES}: it has {_named(item)} besides")
            else:
                require_equal(item, category, f"{CLASSES}: class {category['name']!r}")


def _of_one_key(file: IO[bytes], key: str) -> Iterator[Any]:
    return (item for _, item in _checked(items(file, (key,))))


def _checked(found: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    try:
        yield from found
    except ValueError as error:
        raise ValueError(f"is no COCO file: {error}") from error


def _named(item: Any) -> str:
    return f"an entry with the id {shown(item.get('id'))}" if isinstance(item, dict) else "an entry without an id"


def next_of(found: Iterator[Any]) -> Any:
    """The next item; a mark of the end behind the last."""
    return next(found, _END)


def require_equal(found: Any, expected: Mapping[str, Any], what: str) -> None:
    """
    Raises:
        ValueError: the entry is missing, is another one, or differs from what is expected in one of these keys.
    """
    if found is _END:
        raise ValueError(f"{what} is missing")
    for key, value in expected.items():
        has = found.get(key) if isinstance(found, dict) else None
        if has != value or isinstance(has, bool):
            raise ValueError(f"{what}: {key} is {shown(has)}, expected {shown(value)}")


def _is_mask(segmentation: Any, rle: Mapping[str, Any]) -> bool:
    """Whether a segmentation is this mask, to the pixel."""
    if isinstance(segmentation, dict):
        return segmentation == rle
    height, width = rle["size"]
    if not (
        isinstance(segmentation, list) and segmentation and all(_is_polygon(p, height, width) for p in segmentation)
    ):
        return False
    drawn = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    return bool(drawn["counts"].decode("ascii") == rle["counts"])


def _is_polygon(points: Any, height: int, width: int) -> bool:
    """Whether pycocotools can draw these points: [x, y, x, y, …] within the image, px."""
    return (
        isinstance(points, list)
        and len(points) >= 6
        and len(points) % 2 == 0
        and all(isinstance(p, int | float) for p in points)
        and all(0 <= x <= width for x in points[::2])
        and all(0 <= y <= height for y in points[1::2])
    )
