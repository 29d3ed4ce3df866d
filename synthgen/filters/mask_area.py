"""How much of the image a mask covers."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from synthgen.backends import ThresholdConfig, ThresholdFilter
from synthgen.types import Sample


class Config(ThresholdConfig):
    """Options of `mask_area`."""

    min: float | None = Field(0.005, ge=0, le=1, description="Least share of the image kept.")
    max: float | None = Field(0.9, ge=0, le=1, description="Greatest share of the image kept.")


class Backend(ThresholdFilter[Config]):
    """Mask pixels over image pixels, in [0, 1]. An object that SAM did not find has an empty mask and so 0, which fails
    if `min` is above 0; a mask of the background instead of the object is near 1."""

    scope = "instance"

    def measure(self, sample: Sample) -> NDArray[Any]:
        """-> float32 (N,): share of the image's pixels."""
        masks = sample.instances.masks
        return np.asarray(masks.mean((1, 2), dtype=np.float64), np.float32)
