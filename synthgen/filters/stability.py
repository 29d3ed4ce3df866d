"""How little a mask changes when SAM's threshold moves."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from synthgen.backends import ThresholdConfig, ThresholdFilter
from synthgen.errors import BackendError, listed
from synthgen.types import Sample


class Config(ThresholdConfig):
    """Options of `stability`."""

    min: float | None = Field(
        0.7, ge=0, le=1, description="Least stability score kept; SAM's own mask generator takes 0.95."
    )
    max: float | None = Field(None, ge=0, le=1, description="Greatest stability score kept.")


class Backend(ThresholdFilter[Config]):
    """SAM's stability score: the IoU of the masks cut at a higher and at a lower logit (arXiv 2304.02643, appendix B;
    `calculate_stability_score` of segment_anything). In [0, 1]; low where the object's edge is soft."""

    scope = "instance"

    def measure(self, sample: Sample) -> NDArray[Any]:
        """-> float32 (N,): the segmenter's score `stability_score`.

        Raises:
            BackendError: the segmenter gives no such score.
        """
        instances = sample.instances
        if len(instances) and "stability_score" not in instances.scores:
            raise BackendError(
                "filter stability: needs the segmenter's score 'stability_score', which it does not give"
                f" (scores there are: {listed(instances.scores) or 'none'})"
            )
        return instances.scores.get("stability_score", np.zeros(0, np.float32))
