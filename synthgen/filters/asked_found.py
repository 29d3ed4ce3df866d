"""Whether the requested objects were labelled."""

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from synthgen.backends import ThresholdConfig, ThresholdFilter
from synthgen.types import Sample


class Config(ThresholdConfig):
    """Options of `asked_found`."""

    min: float | None = Field(
        1.0, ge=0, le=1, description="Least share of the requested objects that must be labelled."
    )
    max: float | None = Field(None, ge=0, le=1, description="Greatest share kept.")


class Backend(ThresholdFilter[Config]):
    """Share of the asked objects for which there is an instance of their class with a mask; 1 if none was asked.

    Two asked and three found of a class count as two. A diffusion model leaves out parts of prompts, and a grounder
    overlooks things: either way the labels do not say what the prompt says.
    """

    scope = "image"

    def measure(self, sample: Sample) -> NDArray[Any]:
        """-> float32 ()."""
        asked = Counter(sample.job.asked)
        seen = sample.instances.masks.any((1, 2))
        found = Counter(sample.instances.category_id[seen].tolist())
        share = (asked & found).total() / asked.total() if asked else 1.0
        return np.asarray(share, np.float32)
