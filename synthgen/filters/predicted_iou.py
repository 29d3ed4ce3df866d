"""SAM's own estimate of how well a mask fits its object."""

from pydantic import Field

from synthgen.backends import ScoreFilter, ThresholdConfig


class Config(ThresholdConfig):
    """Options of `predicted_iou`."""

    min: float | None = Field(0.8, description="Least predicted IoU kept; SAM's own mask generator takes 0.88.")


class Backend(ScoreFilter[Config]):
    """The IoU of a mask with its object, as SAM's mask decoder predicts it (arXiv 2304.02643, appendix A).

    A regression, so it may pass 1 a little; it knows nothing of the class.
    """

    score = "predicted_iou"
