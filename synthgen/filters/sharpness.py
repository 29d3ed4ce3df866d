"""How much fine detail an image has."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from synthgen.backends import ThresholdConfig, ThresholdFilter
from synthgen.types import Sample


class Config(ThresholdConfig):
    """Options of `sharpness`."""

    min: float | None = Field(5.0, ge=0, description="Least variance of the Laplacian kept, grey levels 0..255.")
    max: float | None = Field(None, ge=0, description="Greatest variance kept: noise is sharp too.")


class Backend(ThresholdFilter[Config]):
    """Variance of the Laplacian of the grey image, on the 0..255 scale: 0 for one flat colour, so black images fail.

    It is LAP_VAR of J. L. Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy: a comparative study",
    ICPR 2000, vol. 3, 314-317, doi 10.1109/ICPR.2000.903548, in the form in common use: the signed Laplacian with
    the kernel [[0, 1, 0], [1, -4, 1], [0, 1, 0]], and the mean of squares. The paper has a sixth of the kernel,
    absolute values and a sum.

    The number depends on the image's size and style. The kernel covers only a pixel and its neighbours, so the same
    picture at twice the size has smoother edges and a lower number (up to 16 times lower in smooth parts). The number
    grows with the square of the contrast. Set `min` from the numbers of your own images, and again when the size
    changes.
    """

    scope = "image"

    def measure(self, sample: Sample) -> NDArray[Any]:
        """-> float32 (): squared grey levels."""
        import cv2

        grey = cv2.cvtColor(sample.image, cv2.COLOR_RGB2GRAY)
        return np.asarray(cv2.Laplacian(grey, cv2.CV_64F).var(), np.float32)
