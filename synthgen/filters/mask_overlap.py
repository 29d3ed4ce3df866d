"""Whether two labels are on one object."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from synthgen.backends import ThresholdConfig, ThresholdFilter
from synthgen.masks import mask_areas, mask_boxes
from synthgen.types import Sample

_AT_ONCE = 1 << 16  # px that are counted at once, which bounds the memory


class Config(ThresholdConfig):
    """Options of `mask_overlap`."""

    min: float | None = Field(None, ge=0, le=1, description="Least share kept.")
    max: float | None = Field(
        0.5, ge=0, le=1, description="Greatest share of the mask that another object's mask may cover."
    )


class Backend(ThresholdFilter[Config]):
    """The greatest share of the mask that any one other mask of the image covers, in [0, 1]; 0 for an empty mask, and
    if there is no other mask.

    Two equal masks, which are two labels on one object, both have 1. If a mask lies inside a larger one, the smaller
    has 1 and the larger has little: so `on_fail: drop` drops the part and keeps the whole.
    """

    scope = "instance"

    def measure(self, sample: Sample) -> NDArray[Any]:
        """-> float32 (N,): share of the mask's pixels."""
        masks = sample.instances.masks
        depth = np.zeros(masks.shape[1:], np.int32)  # the number of masks that cover a pixel
        for mask, (x0, y0, x1, y1) in zip(masks, mask_boxes(masks).astype(int), strict=True):
            depth[y0:y1, x0:x1] += mask[y0:y1, x0:x1]
        ys, xs = (depth > 1).nonzero()
        shared = np.zeros((len(masks), len(masks)))  # px
        for start in range(0, len(ys), _AT_ONCE):
            block = slice(start, start + _AT_ONCE)
            members = masks[:, ys[block], xs[block]].astype(np.float32)
            shared += members @ members.T
        np.fill_diagonal(shared, 0)
        return np.asarray(shared.max(1, initial=0) / np.maximum(mask_areas(masks), 1), np.float32)
