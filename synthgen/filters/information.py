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
    """Shannon entropy of the histogram of the grey image, in bits: 0 for one flat colour, 8 if all levels are equally
    frequent.

    It is low for black, grey and white frames, for such frames with faint noise, and for drawings of a few flat tones
    (n tones have at most log2 n bits). It ignores where the levels are: shuffled pixels have the same entropy.

    It follows the low information issue of cleanvision 0.3.7 (src/cleanvision/issue_managers/image_property.py), which
    rejects less than 3 bits. Cleanvision takes the entropy of the joined histograms of red, green and blue, like
    Pillow's `Image.entropy`; for a picture without colour that is log2 3 = 1.6 bits more than here.
    """

    scope = "image"

    def measure(self, sample: Sample) -> NDArray[Any]:
        """-> float32 (): bits."""
        import cv2

        counts = np.bincount(cv2.cvtColor(sample.image, cv2.COLOR_RGB2GRAY).ravel())
        share = counts[counts > 0] / counts.sum()
        return np.asarray(-(share * np.log2(share)).sum() + 0.0, np.float32)  # + 0.0 makes 0 of -0
