"""A mask row by row, as annotation tools store it. COCO's RLE runs down the columns."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from synthgen.masks import rle_runs
from synthgen.types import Annotation


def mask_box(annotation: Annotation) -> tuple[int, int, int, int]:
    """The box of a mask that has pixels: x, y, width, height, px."""
    x, y, width, height = annotation.bbox_xywh
    return int(x), int(y), int(width), int(height)


def row_runs(annotation: Annotation, *, whole: bool = False) -> NDArray[np.int64]:
    """The runs, (N,), of a mask that has pixels, in its box or, if `whole`, in the image. Background and mask take
    turns; the first run is background and may be 0."""
    x, y, width, height = mask_box(annotation)
    rows, columns = annotation.rle["size"]
    # Only the columns of the box become pixels: most objects are much smaller than their image.
    first, last = x * rows, (x + width) * rows
    ends = rle_runs(annotation.rle["counts"]).cumsum().clip(first, last)
    pixels = np.repeat(np.arange(len(ends)) % 2 == 1, np.diff(ends, prepend=first)).reshape(width, rows)
    framed = np.zeros((height, width + 2), np.uint8)
    framed[:, 1:-1] = cv2.transpose(np.ascontiguousarray(pixels[:, y : y + height]).view(np.uint8)).reshape(
        height, width
    )
    row, column = np.divmod(np.flatnonzero(framed[:, 1:] != framed[:, :-1]), width + 1)  # begins and ends, in turn
    edges = (row + y) * columns + column + x if whole else row * width + column
    # A run that ends a row goes on where the next row begins.
    apart = np.diff(edges[1:-1].reshape(-1, 2)).reshape(-1) > 0
    edges = np.concatenate([edges[:1], edges[1:-1].reshape(-1, 2)[apart].reshape(-1), edges[-1:]])
    runs = np.diff(edges, prepend=0, append=rows * columns if whole else width * height)
    return runs if runs[-1] else runs[:-1]
