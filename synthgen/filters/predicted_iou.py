"""SAM's own estimate of how well a mask fits its object."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from synthgen.backends import ThresholdConfig, ThresholdFilter
from synthgen.errors import BackendError, listed
from synthgen.types import Sample


class Config(ThresholdConfig):
    """Options of `predicted_iou`."""

    min: float | None = Field(0.8, description="Least predicted IoU kept; SAM's own mask generator takes 0.88.")


class Backend(ThresholdFilter[Config]):
    """The IoU of a mask with its object, as SAM's mask decoder predicts it (arXiv 2304.02643, appendix A).

    A regression, so it may pass 1 a little; it knows nothing of the class.
    """

    scope = "instance"

    def measure(self, sample: Sample) -> NDArray[Any]:
        """-> float32 (N,): the segmenter's score `predicted_iou`.

        Raises:
            BackendError: the segmenter gives no such score.
        """
        instances = sample.instances
        if len(instances) and "predicted_iou" not in instances.scores:
            raise BackendError(
                "filter predicted_iou: needs the segmenter's score 'predicted_iou', which it does not give"
                f" (scores there are: {listed(instances.scores) or 'none'})"
            )
        return instances.scores.get("predicted_iou", np.zeros(0, np.float32))
