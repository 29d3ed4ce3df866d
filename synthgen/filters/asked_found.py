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
    """Share of the requested objects that have an instance of their class with a mask; 1 if none was requested.

    If two objects of a class are requested and there are three, two count. A diffusion model may leave out parts of a
    prompt, and a grounder may overlook objects: in both cases the labels do not match the prompt.
    """

    scope = "image"

    def measure(self, sample: Sample) -> NDArray[Any]:
        """-> float32 ()."""
        requested = Counter(sample.job.asked)
        has_mask = sample.instances.masks.any((1, 2))
        labelled = Counter(sample.instances.category_id[has_mask].tolist())
        share = (requested & labelled).total() / requested.total() if requested else 1.0
        return np.asarray(share, np.float32)
