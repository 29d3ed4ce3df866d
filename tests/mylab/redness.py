"""How red an image is."""

import numpy as np

from synthgen.backends import ThresholdConfig, ThresholdFilter


class Config(ThresholdConfig):
    """Options: `min` and `max` come with it."""


class Backend(ThresholdFilter[Config]):
    """Mean of red less the mean of green and blue, in grey levels: -255 to 255."""

    scope = "image"

    def measure(self, sample):
        red, green, blue = sample.image.mean((0, 1))
        return np.float32(red - (green + blue) / 2)
