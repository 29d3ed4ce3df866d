"""Boxes of everything in the image that a class's name fits, requested or not."""

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
    """Masks at a grid of points (SAM), named by CLIP: so what nobody asked for is labelled too. Score:
    `grounding_score`, the cosine of the crop with its class's text."""

    def models(self) -> Sequence[Model]:
        return self._discovery().models()

    def ground(self, jobs: Sequence[Job], images: Sequence[NDArray[np.uint8]]) -> list[Grounding]:
        """Images uint8 (H, W, 3), RGB -> boxes of the dataset's classes, xyxy px, the surest first.

        Raises:
            BackendError: a model cannot be loaded.
        """
        found = self._discovery().find(images)
        return [Grounding(f.boxes, f.category_id, {"grounding_score": f.agreement}) for f in found]

    def _discovery(self) -> Discovery:
        return Discovery(self.config, self.categories)
