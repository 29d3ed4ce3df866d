"""How colourful an image is."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from synthgen.backends import ThresholdConfig, ThresholdFilter
from synthgen.types import Sample


class Config(ThresholdConfig):
    """Options of `colourfulness`."""

    min: float | None = Field(
        None, ge=0, description="Least colourfulness kept; 15 asks for slight colour, and 0 is grey."
    )
    max: float | None = Field(None, ge=0, description="Greatest colourfulness kept; 109 is extreme.")


class Backend(ThresholdFilter[Config]):
    """Colourfulness M3 of D. Hasler and S. Suesstrunk, "Measuring colourfulness in natural images", Human Vision and
    Electronic Imaging VIII, SPIE 5007, 2003, 87-95, doi 10.1117/12.477378.

    With rg = R - G and yb = (R + G) / 2 - B on the 0..255 scale, it is the root of the sum of their variances, plus 0.3
    times the root of the sum of their squared means. It is 0 for grey images, and only for these. The paper calls 15
    slightly, 33 moderately, 45 averagely, 59 quite, 82 highly and 109 extremely colourful.

    By default it rejects nothing: images of fog, snow and night are rightly grey.
    """

    scope = "image"

    def measure(self, sample: Sample) -> NDArray[Any]:
        """-> float32 (): levels of 0..255."""
        red, green, blue = np.moveaxis(sample.image.astype(np.float64), 2, 0)
        opponent = np.stack([red - green, (red + green) / 2 - blue])
        spread, centre = opponent.std((1, 2)), opponent.mean((1, 2))
        return np.asarray(np.hypot(*spread) + 0.3 * np.hypot(*centre), np.float32)
