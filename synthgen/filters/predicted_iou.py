"""SAM's own estimate of how well a mask fits its object."""

from pydantic import Field

from synthgen.backends import ScoreFilter, ThresholdConfig


class Config(ThresholdConfig):
    """Options of `predicted_iou`."""

    min: float | None = Field(0.8, description="Least predicted IoU kept; SAM's own mask generator uses 0.88.")


class Backend(ScoreFilter[Config]):
    """The IoU of a mask with its object, as SAM's mask decoder predicts it (arXiv 2304.02643, appendix A).

    It is a regression, so it may exceed 1 a little; it does not depend on the class.
    """

    score = "predicted_iou"
