"""Objects of the dataset's classes that are visible in an image and have no label."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from synthgen.backends import Model, ThresholdConfig, ThresholdFilter
from synthgen.models.discovery import Discovery, DiscoveryConfig
from synthgen.types import Sample

COVERED = 0.5  # an object counts as labelled if at least this share of its mask lies in labelled masks


class Config(DiscoveryConfig, ThresholdConfig):
    """Options of `unlabelled`."""

    execution: ClassVar[frozenset[str]] = DiscoveryConfig.execution
    judged: ClassVar[frozenset[str]] = ThresholdConfig.judged

    min: float | None = Field(None, ge=0, description="Least number of objects kept.")
    max: float | None = Field(0, ge=0, description="Greatest number of objects kept.")


class Backend(ThresholdFilter[Config]):
    """Number of objects that a search of the whole image finds (SAM at a grid of points, named by CLIP) and that are
    less than half labelled. A diffusion model may draw more objects than the prompt asks for, and an object that is
    visible and unlabelled teaches a detector to overlook it."""

    scope = "image"

    def models(self) -> Sequence[Model]:
        return self._discovery().models()

    def measure(self, sample: Sample) -> NDArray[Any]:
        """-> float32 (): a number of objects."""
        masks = self._discovery().find([sample.image])[0].masks
        labelled = sample.instances.masks.any(0)
        covered = (masks & labelled).sum((1, 2)) / np.maximum(masks.sum((1, 2)), 1)
        return np.asarray((covered < COVERED).sum(), np.float32)

    def _discovery(self) -> Discovery:
        return Discovery(self.config, self.categories)
