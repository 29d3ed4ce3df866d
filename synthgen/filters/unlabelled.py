"""Objects of the dataset's classes that are visible in an image and have no label."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from synthgen.backends import Model, ThresholdConfig, ThresholdFilter
from synthgen.models.discovery import Discovery, DiscoveryConfig
from synthgen.types import Sample

COVERED = 0.5  # share of a found mask that must lie in labelled masks for it to count as labelled


class Config(DiscoveryConfig, ThresholdConfig):
    """Options of `unlabelled`."""

    execution: ClassVar[frozenset[str]] = DiscoveryConfig.execution
    judged: ClassVar[frozenset[str]] = ThresholdConfig.judged

    min: float | None = Field(None, ge=0, description="Least number kept.")
    max: float | None = Field(0, ge=0, description="Greatest number kept.")


class Backend(ThresholdFilter[Config]):
    """How many things a search of the whole image finds (SAM at a grid of points, named by CLIP) of which less than
    half is labelled. A diffusion model draws more than it was asked for, and what is visible and unlabelled teaches a
    detector to overlook."""

    scope = "image"

    def models(self) -> Sequence[Model]:
        return self._discovery().models()

    def measure(self, sample: Sample) -> NDArray[Any]:
        """-> float32 (): a number of things."""
        found = self._discovery().find([sample.image])[0]
        labelled = sample.instances.masks.any(0)
        covered = (found.masks & labelled).sum((1, 2)) / np.maximum(found.masks.sum((1, 2)), 1)
        return np.asarray((covered < COVERED).sum(), np.float32)

    def _discovery(self) -> Discovery:
        return Discovery(self.config, self.categories)
