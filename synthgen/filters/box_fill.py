"""How much of its box a mask fills."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from synthgen.backends import ThresholdConfig, ThresholdFilter
from synthgen.masks import mask_areas, mask_boxes
from synthgen.types import Sample


class Config(ThresholdConfig):
    """Options of `box_fill`."""

    min: float | None = Field(0.15, ge=0, le=1, description="Least share of its box that a mask must fill.")
    max: float | None = Field(None, ge=0, le=1, description="Greatest share kept.")


class Backend(ThresholdFilter[Config]):
    """Mask pixels over the pixels of the mask's own tight box, in [0, 1]; 0 for an empty mask.

    An upright rectangle has 1, a disc 0.79, a triangle 0.5. Outlines have low numbers, and so do masks with a distant
    speck, whose box is much too large. Thin slanted objects have low numbers too: the default keeps a bar at 45° that
    is 11 times as long as wide.
    """

    scope = "instance"

    def measure(self, sample: Sample) -> NDArray[Any]:
        """-> float32 (N,): share of the box's pixels."""
        masks = sample.instances.masks
        x0, y0, x1, y1 = mask_boxes(masks).astype(np.int64).T
        return np.asarray(mask_areas(masks) / np.maximum((x1 - x0) * (y1 - y0), 1), np.float32)
