"""PASCAL VOC's `ImageSets`: which images are in a split, and which of them show a class."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

import numpy as np

from synthgen.exporters._file_names import file_names
from synthgen.types import Category, Record

SHOWN, IGNORED_ONLY = b" 1", b" 0"  # The development kit calls the second one difficult.


class ImageSets:
    """Gathers the lists of all splits. Memory holds eight bytes an image and nine an image's class."""

    def __init__(self, categories: Sequence[Category]) -> None:
        self._names = [category.name for category in categories]
        self._places = {category.id: place for place, category in enumerate(categories)}
        self._splits: dict[str, _Split] = {}

    def add(self, record: Record) -> None:
        split = self._splits.setdefault(record.job.split, _Split())
        shown: dict[int, bool] = {}
        for annotation in record.annotations:
            place = self._places[annotation.category_id]
            shown[place] = shown.get(place, False) or not annotation.ignore
        for place, is_shown in shown.items():
            split.rows.append(len(split.ids))
            split.places.append(place)
            split.shown.append(is_shown)
        split.ids.append(record.job.id)

    def images(self) -> Iterator[tuple[str, bytes]]:
        """For each split: the name of its list without a folder, and its lines, an image each."""
        for name in sorted(self._splits):
            yield f"{name}.txt", b"".join(b"%012d\n" % image_id for image_id in self._splits[name].ids)

    def classes(self) -> Iterator[tuple[str, bytes]]:
        """For each class and split the same, with 1 for images that show the class, 0 for those with nothing of it but
        regions to be ignored, and -1 for others."""
        texts: dict[tuple[int, str], str] = {}
        taken = set(self._splits)
        for place, class_name in enumerate(self._names):
            for split in sorted(self._splits):
                text = f"{class_name}_{split}"
                while text in taken:
                    text += "~"  # Class a_b with split c, and class a with split b_c.
                taken.add(text)
                texts[place, split] = text
        safe = file_names([*self._splits, *texts.values()])  # Splits come first, so they keep their names.
        for (place, split), text in texts.items():
            yield f"{safe[text]}.txt", self._splits[split].lines(place)


class _Split:
    """The images of a split, and for some of them (`rows`) a class, and whether an object of it is shown."""

    def __init__(self) -> None:
        self.ids, self.rows = array("q"), array("I")
        self.places, self.shown = array("I"), array("B")

    def lines(self, place: int) -> bytes:
        lines = np.frombuffer(b"".join(b"%012d -1\n" % image_id for image_id in self.ids), np.uint8)
        lines = lines.reshape(len(self.ids), -1).copy()
        places, rows = np.frombuffer(self.places, np.uint32), np.frombuffer(self.rows, np.uint32)
        of_class = places == place if len(places) else np.zeros(0, bool)
        marks = np.where(
            np.frombuffer(self.shown, np.uint8)[of_class, None], *(_bytes(m) for m in (SHOWN, IGNORED_ONLY))
        )
        lines[rows[of_class], -3:-1] = marks
        return lines.tobytes()


def _bytes(text: bytes) -> np.ndarray:
    return np.frombuffer(text, np.uint8)
