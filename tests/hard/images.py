"""The images of the dataset of hard shapes."""

import numpy as np

from hard import image_of
from synthgen.backends import Config as BaseConfig
from synthgen.backends import Generator


class Config(BaseConfig):
    """It has no options."""


class Backend(Generator[Config]):
    def generate(self, jobs):
        return np.stack([image_of(job.index) for job in jobs])
