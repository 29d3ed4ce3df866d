"""How dark or bright an image is as a whole."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from synthgen.backends import ThresholdConfig, ThresholdFilter
from synthgen.types import Sample

# The weights of red, green and blue, from `calculate_brightness` of cleanvision.
_WEIGHTS = np.array([0.241, 0.691, 0.068])
_DARK_END, _BRIGHT_END = 5, 99  # percentiles


class Config(ThresholdConfig):
    """Options of `exposure`."""

    min: float | None = Field(0.32, ge=0, le=0.5, description="Least exposure kept; images below are too dark.")
    max: float | None = Field(0.95, ge=0.5, le=1, description="Greatest exposure kept; images above are too bright.")


class Backend(ThresholdFilter[Config]):
    """The brightness nearest to 0.5 that lies between the image's 5th and 99th percentiles; 0 is black, 1 is white.

    A pixel's brightness is sqrt(0.241 R² + 0.691 G² + 0.068 B²), over 255. If 0.5 lies between the two percentiles, the
    number is 0.5; a dark image has its 99th percentile, and a bright one its 5th. So the number is below a `min` of at
    most 0.5 if and only if the 99th percentile is, and above a `max` of at least 0.5 if and only if the 5th percentile
    is. These are the dark and the light issue of cleanvision 0.3.7
    (src/cleanvision/issue_managers/image_property.py), with its thresholds.
    """

    scope = "image"

    def measure(self, sample: Sample) -> NDArray[Any]:
        """-> float32 (): brightness in [0, 1]."""
        brightness = np.sqrt(np.square(sample.image, dtype=np.float64) @ _WEIGHTS) / 255
        low, high = np.percentile(brightness, [_DARK_END, _BRIGHT_END])
        return np.asarray(np.clip(0.5, low, high), np.float32)
