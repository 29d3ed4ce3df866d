"""How much information the grey levels of an image carry."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from synthgen.backends import ThresholdConfig, ThresholdFilter
from synthgen.types import Sample


class Config(ThresholdConfig):
    """Options of `information`."""

    min: float | None = Field(3.0, ge=0, le=8, description="Least entropy kept, bits; a flat image has 0.")
    max: float | None = Field(None, ge=0, le=8, description="Greatest entropy kept, bits: noise has nearly 8.")


class Backend(ThresholdFilter[Config]):
    """Shannon entropy of the histogram of the grey image, in bits: 0 for one flat colour, 8 if all levels are alike.

    Fails black, grey and white frames, faint noise on them, and drawings of a few flat tones (n tones have at most
    log2 n bits). It knows nothing of where the levels are: shuffled pixels have the same entropy.

    After the low information issue of cleanvision 0.3.7 (src/cleanvision/issue_managers/image_property.py), which
    takes less than 3 bits for too little. There it is the entropy of the histograms of red, green and blue in a row, as
    in Pillow's `Image.entropy`, which for a picture without colour is log2 3 = 1.6 bits more than here.
    """

    scope = "image"

    def measure(self, sample: Sample) -> NDArray[Any]:
        """-> float32 (): bits."""
        import cv2

        counts = np.bincount(cv2.cvtColor(sample.image, cv2.COLOR_RGB2GRAY).ravel())
        share = counts[counts > 0] / counts.sum()
        return np.asarray(-(share * np.log2(share)).sum() + 0.0, np.float32)  # + 0.0 makes 0 of -0
