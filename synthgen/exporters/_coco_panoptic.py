"""COCO's panoptic form: an image of the ids of segments for each image, and what each segment is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import IO, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from synthgen.base.pictures import require_png
from synthgen.exporters._coco_file import category_entry, image_entry
from synthgen.exporters._coco_reader import LABELS, SplitReader, next_of, require_equal
from synthgen.exporters._painting import Painting, paint
from synthgen.exporters._palette import palette
from synthgen.types import Category, Record

# The id of the nth segment of an image is n times this number, modulo 2**24. It is odd, so no two are the same. Its
# multiples are far apart, so people see segments in different colours.
_STEP = 0x9E3779


def panoptic_entries(categories: Collection[Category], stuff: Collection[int]) -> list[dict[str, Any]]:
    """The entries of the classes, each with a colour. `stuff`: the ids of the classes that are stuff."""
    colours = palette()[1:]  # The first is black, which is void. More than 255 classes share colours.
    return [
        {**category_entry(c), "isthing": int(c.id not in stuff), "color": [*colours[number % len(colours)]]}
        for number, c in enumerate(categories)
    ]


class Panoptic:
    """The segments of one image.

    Every object of a thing class is a segment. All areas of a stuff class are one segment. So are all regions of a
    class that are to be ignored, with `iscrowd` 1: panopticapi knows one such segment of a class. Where segments
    overlap, the smaller label is on top. A label that is covered whole, or has no pixels, is no segment.

    Attributes:
        painting: its values are numbers of segments, from 1.
        file_name: of its PNG.
        entry: the annotation of the image.
    """

    def __init__(self, record: Record, ids: Mapping[int, int], stuff: Collection[int]) -> None:
        job = record.job
        numbers: dict[tuple[str, int], int] = {}  # segment -> its number
        labels = []  # of each label, its segment
        for a in record.annotations:
            kind, key = ("ignored", a.category_id) if a.ignore else ("thing", a.id)
            if not a.ignore and a.category_id in stuff:
                kind, key = "stuff", a.category_id
            labels.append(numbers.setdefault((kind, key), len(numbers) + 1))
        self._count = len(numbers)
        self.painting: Painting = paint(record.annotations, labels, job.height, job.width)
        areas = np.bincount(self.painting.values.ravel(), minlength=self._count + 1).tolist()
        segments: dict[int, dict[str, Any]] = {}
        for number, a in zip(labels, record.annotations, strict=True):
            if areas[number] and number not in segments:
                segments[number] = {
                    "id": number * _STEP % 2**24,
                    "category_id": ids[a.category_id],
                    "area": areas[number],
                    # One label that is not covered keeps its box.
                    "bbox": [int(v) for v in a.bbox_xywh] if areas[number] == a.area else self._box(number),
                    "iscrowd": int(a.ignore),
                }
        self.file_name = f"{job.id:012d}.png"
        self.entry = {"image_id": job.id, "file_name": self.file_name, "segments_info": [*segments.values()]}

    def png(self) -> bytes:
        """The ids of the segments as colours, R + 256 G + 65536 B; 0 is void."""
        return cv2.imencode(".png", self._bgr())[1].tobytes()

    def is_png(self, data: bytes) -> bool:
        """Whether these bytes are a PNG of the same pixels."""
        try:
            require_png(data)
        except ValueError:
            return False
        found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        return found is not None and np.array_equal(found, self._bgr())

    def _bgr(self) -> NDArray[np.uint8]:
        ids = np.arange(self._count + 1) * _STEP % 2**24
        colours = np.stack([ids >> 16, ids >> 8 & 255, ids & 255], 1).astype(np.uint8)
        return np.take(colours, self.painting.values, axis=0)

    def _box(self, number: int) -> list[int]:
        """The box of what can be seen of a segment, x, y, width and height in px."""
        return [int(v) for v in cv2.boundingRect((self.painting.values == number).view(np.uint8))]


class PanopticReader(SplitReader):
    """A split's panoptic file, read back.

    Args:
        pixels: gives the bytes of an image of ids, by the name that its annotation gives it.
        stuff: the ids of the classes that are stuff.
    """

    def __init__(
        self,
        images: IO[bytes],
        annotations: IO[bytes],
        categories: Iterable[Mapping[str, Any]],
        stuff: Collection[int],
        pixels: Callable[[str], bytes],
    ) -> None:
        super().__init__(images, annotations, categories)
        self._stuff, self._pixels = stuff, pixels

    def compare(self, record: Record, file_name: str, ids: Mapping[int, int]) -> None:
        self.compare_image(image_entry(record, file_name))
        expected = Panoptic(record, ids, self._stuff)
        what = f"{LABELS}: image {record.job.id}"
        require_equal(next_of(self._annotations), expected.entry, what)
        if not expected.is_png(self._pixels(expected.file_name)):
            raise ValueError(f"{what} has other pixels in {expected.file_name}")
