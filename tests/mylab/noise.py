"""Images of noise: they show what the labels and filters make of images that show nothing."""

import numpy as np
from pydantic import Field

from synthgen.backends import Config as BaseConfig
from synthgen.backends import Generator


class Config(BaseConfig):
    """Options of the generator."""

    contrast: int = Field(64, ge=1, le=127, description="How far a value may lie from 128, in grey levels.")


class Backend(Generator[Config]):
    """Draws every value of a pixel by itself, from the image's own seed."""

    def generate(self, jobs):
        return np.stack([self._image(job) for job in jobs])

    def _image(self, job):
        low, high = 128 - self.config.contrast, 128 + self.config.contrast
        return np.random.default_rng(job.seed).integers(low, high, (job.height, job.width, 3), np.uint8, endpoint=True)
