"""A measure that kills its process, once."""

import os
import signal
from pathlib import Path

import numpy as np
from pydantic import Field

from synthgen.backends import ThresholdConfig, ThresholdFilter


class Config(ThresholdConfig):
    flag: str = Field(description="A file: while it is there, the process that measures removes it and is killed.")


class Backend(ThresholdFilter[Config]):
    scope = "image"

    def measure(self, sample):
        flag = Path(self.config.flag)
        if flag.exists():
            flag.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return np.float32(sample.image.mean())
