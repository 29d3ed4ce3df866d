"""How much of an object the image's border cuts off."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from synthgen.backends import ThresholdConfig, ThresholdFilter
from synthgen.masks import mask_boxes
from synthgen.types import Sample


class Config(ThresholdConfig):
    """Options of `touches_border`."""

    min: float | None = Field(None, ge=0, le=1, description="Least share kept.")
    max: float | None = Field(None, ge=0, le=1, description="Greatest share kept; 0 keeps only whole objects.")


class Backend(ThresholdFilter[Config]):
    """Length of the cut over the object's own width or height, in [0, 1]; 0 if the mask does not touch the image's
    border, or is empty.

    It is the greatest of four shares: the mask's pixels in the image's first row and in its last row, over the width of
    the mask's box; and those in its first column and in its last column, over the height of the mask's box. A ball that
    is cut through its middle has 1, and one that grazes the border has nearly 0.

    By default it rejects nothing: objects that the border cuts off are normal in photographs and in most datasets.
    """

    scope = "instance"

    def measure(self, sample: Sample) -> NDArray[Any]:
        """-> float32 (N,): share of the side of the mask's box."""
        masks = sample.instances.masks
        x0, y0, x1, y1 = mask_boxes(masks).T
        across = np.maximum(masks[:, 0].sum(1), masks[:, -1].sum(1)) / np.maximum(x1 - x0, 1)
        down = np.maximum(masks[:, :, 0].sum(1), masks[:, :, -1].sum(1)) / np.maximum(y1 - y0, 1)
        return np.asarray(np.maximum(across, down), np.float32)
