"""Whether a mask fills the box that it was made from."""

from pydantic import Field

from synthgen.backends import ScoreFilter, ThresholdConfig


class Config(ThresholdConfig):
    """Options of `box_agreement`."""

    min: float | None = Field(0.7, ge=0, le=1, description="Least IoU of the two boxes kept.")
    max: float | None = Field(None, ge=0, le=1, description="Greatest IoU kept.")


class Backend(ScoreFilter[Config]):
    """IoU of the mask's tight box with the grounded box, the score `box_iou` of SAM; in [0, 1], 0 for an empty mask.

    It is low if SAM segments only a part of the object or the background behind it, and if the generator did not draw
    the object in its box. The IoU of boxes is that of the PASCAL VOC challenge (doi 10.1007/s11263-009-0275-4).
    """

    score = "box_iou"
