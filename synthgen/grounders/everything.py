"""Boxes of all objects of the dataset's classes in the image, requested or not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from synthgen.backends import Grounder, Model
from synthgen.models.discovery import Discovery, DiscoveryConfig
from synthgen.types import Grounding, Job


class Config(DiscoveryConfig):
    """Options of the `everything` grounder."""


class Backend(Grounder[Config]):
    """Finds masks at a grid of points (SAM) and names them by CLIP, so that objects that nobody requested are labelled
    too. Score: `grounding_score`, the cosine of the crop with its class's text."""

    looks_for = "everything"

    def models(self) -> Sequence[Model]:
        return self._discovery().models()

    def score_names(self) -> frozenset[str]:
        return frozenset({"grounding_score"})

    def ground(self, jobs: Sequence[Job], images: Sequence[NDArray[np.uint8]]) -> list[Grounding]:
        """Images uint8 (H, W, 3), RGB -> boxes of the dataset's classes, xyxy px, the surest first.

        Raises:
            BackendError: a model cannot be loaded.
        """
        objects = self._discovery().find(images)
        return [Grounding(o.boxes, o.category_id, {"grounding_score": o.agreement}) for o in objects]

    def _discovery(self) -> Discovery:
        return Discovery(self.config, self.categories)
