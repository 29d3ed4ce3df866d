"""What a detector sees of an image: the whole, tiles of it, and each of them mirrored."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# A box is cut if it comes this near to the edge of a tile inside the image: a share of the tile's side, or a pixel.
NEAR = 0.01
# A cut box is a piece of another box of its class in which this share of it lies.
COVERED = 0.8


@dataclass(frozen=True, slots=True)
class View:
    """A part of an image in px, half-open; mirrored: its left is its right."""

    left: int
    top: int
    right: int
    bottom: int
    mirrored: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.bottom - self.top, self.right - self.left

    def picture(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Image uint8 (H, W, 3) -> this part of it."""
        part = image[self.top : self.bottom, self.left : self.right]
        return np.ascontiguousarray(part[:, ::-1] if self.mirrored else part)

    def in_image(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Boxes (P, 4), xyxy px of this view -> px of the image, cut off at the view's edges."""
        height, width = self.shape
        boxes = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
        if self.mirrored:
            boxes = np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
        return boxes + np.array([self.left, self.top, self.left, self.top], np.float32)

    def cuts(self, boxes: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.bool_]:
        """Whether boxes (P, 4) in px of the image reach an edge of this view that is no edge of the image. `size`: of
        the image, height and width."""
        height, width = self.shape
        near_x, near_y = max(1.0, NEAR * width), max(1.0, NEAR * height)
        cut = np.zeros(len(boxes), bool)
        cut |= (boxes[:, 0] <= self.left + near_x) & (self.left > 0)
        cut |= (boxes[:, 1] <= self.top + near_y) & (self.top > 0)
        cut |= (boxes[:, 2] >= self.right - near_x) & (self.right < size[1])
        cut |= (boxes[:, 3] >= self.bottom - near_y) & (self.bottom < size[0])
        return cut


def views(size: tuple[int, int], tiles: int, overlap: float, flip: bool) -> list[View]:
    """The whole image; then, for more than one tile a side, the tiles; then all of these mirrored, if `flip`.

    Args:
        size: of the image, height and width in px.
        tiles: in each direction.
        overlap: of neighbouring tiles, as a share of a tile's side.
    """
    height, width = size
    found = [View(0, 0, width, height)]
    if tiles > 1:
        rows, columns = list(_spans(height, tiles, overlap)), list(_spans(width, tiles, overlap))
        found += [View(left, top, right, bottom) for top, bottom in rows for left, right in columns]
    mirrored = [View(v.left, v.top, v.right, v.bottom, mirrored=True) for v in found] if flip else []
    return found + mirrored


def _spans(length: int, tiles: int, overlap: float) -> Iterator[tuple[int, int]]:
    """Equal spans that cover a length."""
    side = math.ceil(length / (tiles - (tiles - 1) * overlap))
    for i in range(tiles):
        start = round(i * (length - side) / (tiles - 1))
        yield start, start + side


def pieces(boxes: NDArray[np.float32], category_id: NDArray[np.int64], cut: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which boxes (N, 4) are cut pieces of an object of which another view has the whole, or a larger piece; (N,)."""
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    found = np.zeros(len(boxes), bool)
    for i in np.flatnonzero(cut):
        low, high = np.maximum(boxes[i, :2], boxes[:, :2]), np.minimum(boxes[i, 2:], boxes[:, 2:])
        covers = np.clip(high - low, 0, None).prod(1) >= COVERED * area[i]
        found[i] = (covers & (category_id == category_id[i]) & (~cut | (area > area[i]))).any()
    return found
