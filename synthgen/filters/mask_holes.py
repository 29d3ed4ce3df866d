"""How much of a mask is holes."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from synthgen.backends import ThresholdConfig, ThresholdFilter
from synthgen.masks import mask_boxes
from synthgen.types import Sample


class Config(ThresholdConfig):
    """Options of `mask_holes`."""

    min: float | None = Field(None, ge=0, le=1, description="Least share kept.")
    max: float | None = Field(0.5, ge=0, le=1, description="Greatest share of the filled mask that may be holes.")


class Backend(ThresholdFilter[Config]):
    """Share of the filled mask that is holes, in [0, 1): 0 if there are none, and 0 for an empty mask.

    A hole is background that the mask encloses: no path along pixels' sides leads out of it. Background that is open to
    the image's border is no hole. Many objects have holes, so the default is generous: it keeps a ring whose inner
    radius is 0.7 of its outer one. A mask with more holes than mask is an outline, or the ground between the parts of a
    pattern.
    """

    scope = "instance"

    def measure(self, sample: Sample) -> NDArray[Any]:
        """-> float32 (N,): the pixels of holes over the pixels of mask and holes."""
        masks = sample.instances.masks
        shares = np.zeros(len(masks), np.float32)
        for i, (x0, y0, x1, y1) in enumerate(mask_boxes(masks).astype(int)):
            if x0 < x1:
                around = np.pad(~masks[i, y0:y1, x0:x1], 1, constant_values=True)  # joins all background outside
                _, labels, stats, _ = cv2.connectedComponentsWithStats(around.astype(np.uint8), connectivity=4)
                areas = stats[:, cv2.CC_STAT_AREA]
                filled = areas.sum() - areas[labels[0, 0]]
                shares[i] = (filled - areas[0]) / filled  # label 0 is the mask
        return shares
