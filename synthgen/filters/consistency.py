"""Whether SAM gives the same mask for slightly changed boxes and for the mirrored image."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from synthgen.backends import Model, ModelConfig, ThresholdConfig, ThresholdFilter
from synthgen.masks import paired_mask_iou
from synthgen.models.sam.checkpoint import SamFiles
from synthgen.models.sam.model import SamModel
from synthgen.types import Sample

# How far each side of a box moves, as a share of the box's width or height. The directions: grown, shrunk, and shifted
# in two directions.
JITTER = 0.1
DIRECTIONS = np.array([(-1, -1, 1, 1), (1, 1, -1, -1), (1, 1, 1, 1), (-1, -1, -1, -1)], np.float32)


class Config(ModelConfig, ThresholdConfig):
    """Options of `consistency`. `model`: a SAM, named as for the segmenter `sam`; usually the same one."""

    execution: ClassVar[frozenset[str]] = ModelConfig.execution
    judged: ClassVar[frozenset[str]] = ThresholdConfig.judged

    min: float | None = Field(0.5, ge=0, le=1, description="Least IoU kept.")
    max: float | None = Field(None, ge=0, le=1, description="Greatest IoU kept.")


class Backend(ThresholdFilter[Config]):
    """The least IoU of the mask with the masks that SAM gives for the mirrored image (test-time augmentation by a
    horizontal flip), and for its box grown, shrunk and shifted by 10 %. In [0, 1]; 0 for an empty mask. If a mask
    depends on the exact position of its box, it is probably no mask of an object."""

    scope = "instance"

    def models(self) -> Sequence[Model]:
        return [SamFiles(self.config)]

    def measure(self, sample: Sample) -> NDArray[Any]:
        """-> float32 (N,)."""
        instances, image = sample.instances, sample.image
        if not len(instances):
            return np.zeros(0, np.float32)
        options = self.config
        model = SamModel.of(options.model, options.revision, options.device, options.torch_dtype)
        straight, mirrored = model.embed([image, np.ascontiguousarray(image[:, ::-1])])
        height, width = image.shape[:2]
        flipped = instances.boxes.copy()
        flipped[:, [0, 2]] = width - instances.boxes[:, [2, 0]]
        sides = np.tile(instances.boxes[:, 2:] - instances.boxes[:, :2], 2)
        limits = np.array([width, height, width, height], np.float32)
        moved = [instances.boxes + JITTER * direction * sides for direction in DIRECTIONS]
        prompts = [flipped, *(boxes.clip(0, limits).astype(np.float32) for boxes in moved)]
        agreement, done = np.ones(len(instances)), [0] * len(prompts)
        for i, part, _ in model.by_boxes([mirrored, *[straight] * len(moved)], prompts):
            masks = part.masks
            rows = slice(done[i], done[i] + len(masks))
            iou = paired_mask_iou(masks if i else masks[:, :, ::-1], instances.masks[rows])
            agreement[rows] = np.minimum(agreement[rows], iou)
            done[i] = rows.stop
        return agreement.astype(np.float32)
