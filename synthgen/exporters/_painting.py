"""The labels of an image as one layer, in which every pixel shows at most one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from synthgen.masks import rle_runs
from synthgen.types import Annotation


@dataclass(frozen=True, slots=True)
class Painting:
    """
    Attributes:
        values: int32 (H, W), what each pixel shows; 0 where there is no label.
        hidden: int64 (N,), for each label the number of its pixels that show another value.
    """

    values: NDArray[np.int32]
    hidden: NDArray[np.int64]


def paint(annotations: Sequence[Annotation], values: Sequence[int], height: int, width: int) -> Painting:
    """Paints labels over each other: at the bottom the regions to be ignored, over them the objects from the largest to
    the smallest, and equal ones in their order. So small objects stay visible in front of large ones.

    Args:
        values: above 0, for each label what its pixels show.
        height, width: of the image, px.

    Raises:
        ValueError: a mask is damaged, or of another size.
    """
    canvas = np.zeros(height * width, np.int32)  # column by column, as RLE counts
    masks = [_pixels(a.rle, height, width) for a in annotations]
    for i in sorted(range(len(masks)), key=lambda i: (not annotations[i].ignore, -annotations[i].area)):
        begin, mask = masks[i]
        canvas[begin : begin + len(mask)][mask] = values[i]
    hidden = np.zeros(len(masks), np.int64)
    if sum(a.area for a in annotations) != np.count_nonzero(canvas):
        hidden[:] = [
            np.count_nonzero(canvas[begin : begin + len(mask)][mask] != value)
            for (begin, mask), value in zip(masks, values, strict=True)
        ]
    return Painting(cv2.transpose(canvas.reshape(width, height)), hidden)


def _pixels(rle: Mapping[str, Any], height: int, width: int) -> tuple[int, NDArray[np.bool_]]:
    """A mask from its first pixel to its last, column by column: the place of the first, and bool (pixels,)."""
    runs = rle_runs(rle["counts"])
    if rle["size"] != [height, width] or runs.min(initial=0) < 0 or runs.sum() != height * width:
        raise ValueError(f"an RLE that is not one of {height}x{width} px")
    inner = runs[1 : len(runs) // 2 * 2]
    return int(runs[0]), np.repeat(np.arange(len(inner)) % 2 == 0, inner)


class Covered:
    """Counts what objects lose in paintings: objects that are partly or wholly under others, and those without pixels.

    It leaves out regions to be ignored, since what lies over them is labelled.
    """

    def __init__(self) -> None:
        self._objects = self._pixels = 0
        self._hidden = self._covered = self._gone = self._empty = 0

    def add(self, annotations: Sequence[Annotation], painting: Painting) -> None:
        for annotation, hidden in zip(annotations, painting.hidden.tolist(), strict=True):
            if not annotation.ignore:
                self._objects += 1
                self._pixels += annotation.area
                self._hidden += hidden
                self._covered += hidden > 0
                self._gone += hidden == annotation.area > 0
                self._empty += annotation.area == 0

    def sentences(self, where: str) -> list[str]:
        """What was lost, in numbers; none if nothing was. `where`: what holds each pixel once, such as masks."""
        found = []
        if self._hidden:
            found.append(
                f"{where} show one label a pixel, so the smaller object is on top: {self._hidden:,} of "
                f"{self._pixels:,} pixels of objects are under another one; {self._covered:,} of {self._objects:,} "
                f"objects lose pixels, {self._gone:,} of these all of them"
            )
        if self._empty:
            found.append(f"{where} do not show {self._empty:,} of {self._objects:,} objects, whose masks are empty")
        return found
