"""How little a mask changes when SAM's threshold moves."""

from pydantic import Field

from synthgen.backends import ScoreFilter, ThresholdConfig


class Config(ThresholdConfig):
    """Options of `stability`."""

    min: float | None = Field(
        0.5, ge=0, le=1, description="Least stability score kept; SAM's own mask generator uses 0.95."
    )
    max: float | None = Field(None, ge=0, le=1, description="Greatest stability score kept.")


class Backend(ScoreFilter[Config]):
    """SAM's stability score: the IoU of the masks cut at a higher and at a lower logit (arXiv 2304.02643, appendix B;
    `calculate_stability_score` of segment_anything). In [0, 1]; low if the object's edge is soft."""

    score = "stability_score"
