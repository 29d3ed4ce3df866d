"""The images of the drawn dataset."""

import numpy as np

from drawn import image_of
from synthgen.backends import Config as BaseConfig
from synthgen.backends import Generator


class Config(BaseConfig):
    """It has no options."""


class Backend(Generator[Config]):
    def generate(self, jobs):
        return np.stack([image_of(job.index) for job in jobs])
