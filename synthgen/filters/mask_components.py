"""Whether a mask is in one piece."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from synthgen.backends import ThresholdConfig, ThresholdFilter
from synthgen.masks import mask_boxes
from synthgen.types import Sample


class Config(ThresholdConfig):
    """Options of `mask_components`."""

    min: float | None = Field(None, ge=0, le=1, description="Least share kept.")
    max: float | None = Field(
        0.25, ge=0, le=1, description="Greatest share of the mask's pixels that may lie outside its largest piece."
    )


class Backend(ThresholdFilter[Config]):
    """Share of the mask's pixels outside its largest piece, in [0, 1): 0 for one piece, 0.5 for two equal pieces, and 0
    for an empty mask. Pixels that touch at a side or a corner belong to one piece.

    It is a share and not a number of pieces: SAM's masks have specks, which do little harm (its authors remove those of
    less than 100 px, arXiv 2304.02643, appendix B). A mask over two objects does harm. An object behind a pole looks
    the same to this measure, and some objects consist of two parts: so the default allows a quarter outside.
    """

    scope = "instance"

    def measure(self, sample: Sample) -> NDArray[Any]:
        """-> float32 (N,): share of the mask's pixels."""
        masks = sample.instances.masks
        shares = np.zeros(len(masks), np.float32)
        for i, (x0, y0, x1, y1) in enumerate(mask_boxes(masks).astype(int)):
            if x0 < x1:
                part = np.ascontiguousarray(masks[i, y0:y1, x0:x1], np.uint8)
                _, _, stats, _ = cv2.connectedComponentsWithStats(part, connectivity=8)
                areas = stats[1:, cv2.CC_STAT_AREA]
                shares[i] = (areas.sum() - areas.max()) / areas.sum()
        return shares
