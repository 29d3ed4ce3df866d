"""How much of an image is cut off at black or at white."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from synthgen.backends import ThresholdConfig, ThresholdFilter
from synthgen.types import Sample


class Config(ThresholdConfig):
    """Options of `clipping`."""

    min: float | None = Field(None, ge=0, le=1, description="Least share of the image kept.")
    max: float | None = Field(0.5, ge=0, le=1, description="Greatest share of the image that may be clipped.")
    channels: Literal["all", "any"] = Field(
        "all",
        description="all: a pixel counts if red, green and blue are at the same limit, so only black and white count; "
        "any: it counts if one of them is at a limit, so vivid colours count too.",
    )
    tolerance: int = Field(
        0, ge=0, le=64, description="Levels of 0..255 from black or white that still count as black or white."
    )


class Backend(ThresholdFilter[Config]):
    """Share of the pixels at 0 or at 255, in [0, 1]: such pixels show no detail.

    By default a pixel counts if it is black or white. Pure red (255, 0, 0) does not count: it is a colour and no sign
    of a fault. `channels: any` counts it too; it finds pictures that are too saturated, for example because of a high
    guidance scale.
    """

    scope = "image"

    def measure(self, sample: Sample) -> NDArray[Any]:
        """-> float32 (): share of the image's pixels."""
        low, high = self.config.tolerance, 255 - self.config.tolerance
        black, white = sample.image <= low, sample.image >= high
        clipped = black.all(2) | white.all(2) if self.config.channels == "all" else (black | white).any(2)
        return np.asarray(clipped.mean(dtype=np.float64), np.float32)
