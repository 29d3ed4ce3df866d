"""Segments the objects in boxes by Segment Anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synthgen import masks
from synthgen.backends import Model, ModelConfig, Segmenter
from synthgen.models.sam.checkpoint import SamFiles
from synthgen.models.sam.model import SamModel
from synthgen.types import Grounding, Instances


class Config(ModelConfig):
    """Options of the SAM segmenter. `model`: `mini`; `vit_b`, `vit_l` or `vit_h`; an official checkpoint (.pth, .pt or
    .safetensors); a folder or Hugging Face id of transformers' SAM, HQ-SAM, SAM 2, SAM 2.1, SAM 3 or EdgeTAM; or a
    folder with a `synthgen.json` card that has the model's dimensions under `sam`."""


class Backend(Segmenter[Config]):
    """Makes one mask for each box, with its scores:

    - `predicted_iou`: the model's own estimate of the mask's IoU with the truth.
    - `stability_score`: IoU of the masks at logits +1 and -1, at the image's resolution; 0 for an empty mask.
    - `box_iou`: IoU of the mask's tight box with the grounded box; 0 for an empty mask.
    """

    def models(self) -> Sequence[Model]:
        return [SamFiles(self.config)]

    def segment(self, images: Sequence[NDArray[np.uint8]], groundings: Sequence[Grounding]) -> list[Instances]:
        """Images uint8 (H, W, 3), RGB, of any sizes, with their boxes -> one mask for each box, in order.

        An image without boxes does not reach the model.

        Raises:
            BackendError: the checkpoint cannot be read, or is no SAM of the dimensions it should have.
        """
        labelled = [Instances.empty(*image.shape[:2]) for image in images]
        work = [i for i, grounding in enumerate(groundings) if len(grounding)]
        options = self.config
        for start in range(0, len(work), options.batch_size):
            model = SamModel.of(options.model, options.revision, options.device, options.torch_dtype)
            batch = work[start : start + options.batch_size]
            asked = [groundings[i] for i in batch]
            for i, instances in zip(batch, _label(model, [images[i] for i in batch], asked), strict=True):
                labelled[i] = instances
        return labelled


def _label(
    model: SamModel, images: Sequence[NDArray[np.uint8]], groundings: Sequence[Grounding]
) -> Iterator[Instances]:
    """One mask for each box of each image."""
    by_image: list[list[tuple[NDArray[Any], ...]]] = [[] for _ in images]
    for i, part, iou in model.by_boxes(model.embed(images), [grounding.boxes for grounding in groundings]):
        by_image[i].append((part.masks, iou, part.stability_score))
    for parts, grounding in zip(by_image, groundings, strict=True):
        yield _instances(grounding, *map(np.concatenate, zip(*parts, strict=True)))


def _instances(
    grounding: Grounding, mask: NDArray[np.bool_], predicted_iou: NDArray[Any], stability: NDArray[Any]
) -> Instances:
    tight, is_empty = masks.mask_boxes(mask), masks.mask_areas(mask) == 0
    return Instances(
        masks=mask,
        boxes=np.where(is_empty[:, None], grounding.boxes, tight),
        category_id=grounding.category_id,
        scores={
            **grounding.scores,
            "predicted_iou": predicted_iou,
            "stability_score": stability,
            "box_iou": masks.box_iou(tight, grounding.boxes).diagonal().copy(),
        },
    )
