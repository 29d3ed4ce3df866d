"""Finds objects in an image, requested or not: Segment Anything finds masks at a grid of points, CLIP names them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from synthgen.backends import Model, ModelConfig
from synthgen.base.pattern import ONE_GAP
from synthgen.masks import box_iou, mask_boxes
from synthgen.models import clip
from synthgen.models.clip import ClipConfig, ClipFiles, ClipModel
from synthgen.models.clip_families import Cosine
from synthgen.models.sam.checkpoint import SamFiles
from synthgen.models.sam.model import STABILITY_OFFSET, SamModel
from synthgen.models.sam.network import Embedded
from synthgen.types import Category

# Pieces of a mask that are smaller than this share of its largest piece are removed, as by `min_mask_region_area` of
# SamAutomaticMaskGenerator (which is in px): a stray pixel hardly changes the mask, but it changes its box, which CLIP
# sees.
SPECK = 0.1
# Boxes of segment_anything end at the last pixel and not after it; its suppression compares the areas of such boxes.
UPSTREAM_BOX = np.array([0, 0, 1, 1], np.float32)
ROUGH_SIDE = 256  # px: the side of the official models' logits
# The greatest difference expected between a score at the decoder's resolution and at the image's. A mask whose rough
# score is within it is scaled to the image to be sure.
STABILITY_MARGIN, NMS_MARGIN = 0.15, 0.05
# A mask that touches this many of the image's four borders is the ground that objects stand on.
BORDERS = 3
# If more than this share of a named mask lies in another one, it is a part of the other, or the same object.
PART = 0.5


class DiscoveryConfig(ModelConfig):
    """Options of the search for objects. `model` is the SAM, `clip` the CLIP."""

    execution: ClassVar[frozenset[str]] = ModelConfig.execution | {"clip"}

    clip: str = Field(
        "mini", description="The CLIP that names the masks: `mini`, a folder, or a Hugging Face model id."
    )
    points_per_side: int = Field(
        12, ge=1, le=128, description="Points on a side of the grid; SAM's own mask generator uses 32."
    )
    predicted_iou: float = Field(
        0.7, ge=0, le=1, description="Least predicted IoU of a mask; SAM's own mask generator uses 0.88."
    )
    stability_score: float = Field(
        0.5, ge=0, le=1, description="Least stability of a mask; SAM's own mask generator uses 0.95."
    )
    nms_iou: float = Field(
        0.85,
        ge=0,
        le=1,
        description="If two masks overlap more, only the better one stays; SAM's own mask generator uses 0.7.",
    )
    proposals: Literal["things", "official"] = Field(
        "things",
        description="`official`: the masks of SamAutomaticMaskGenerator. `things`: also masks that lie on others.",
    )
    prompt: Annotated[str, ONE_GAP] = Field(
        "a photo of a {}",
        description="The text that CLIP compares with a crop; {} is a class's name or synonym.",
    )
    agreement: float = Field(0.5, ge=-1, le=1, description="Least cosine of a crop with its class's text.")
    others: tuple[str, ...] = Field(
        (), description="Texts for other objects; a crop that agrees better with one of them is left out."
    )


@dataclass(frozen=True, slots=True)
class Found:
    """Named masks of one image, the surest first.

    Attributes:
        masks: bool (N, H, W).
        boxes: float32 (N, 4), xyxy px, tight.
        category_id: int64 (N,).
        agreement: float32 (N,), cosines.
    """

    masks: NDArray[np.bool_]
    boxes: NDArray[np.float32]
    category_id: NDArray[np.int64]
    agreement: NDArray[np.float32]


class Discovery:
    """A SAM and a CLIP that know the classes of a dataset."""

    def __init__(self, config: DiscoveryConfig, categories: Sequence[Category]) -> None:
        self.config = config
        self.categories = tuple(categories)
        self.clip_config = ClipConfig(
            use="clip", model=config.clip, device=config.device, torch_dtype=config.torch_dtype
        )

    def models(self) -> Sequence[Model]:
        names = [word for c in self.categories for word in (c.name, *c.synonyms)]
        cosine = Cosine.of(self.config, "agreement", "-1", "embedded")
        return [SamFiles(self.config), ClipFiles(self.clip_config, names, field=".clip", cosine=cosine)]

    def find(self, images: Sequence[NDArray[np.uint8]]) -> list[Found]:
        """Images uint8 (H, W, 3), RGB, of any sizes -> the named masks of each.

        Raises:
            BackendError: a model cannot be loaded.
        """
        options, found = self.config, list[Found]()
        for start in range(0, len(images), options.batch_size):
            model = SamModel.of(options.model, options.revision, options.device, options.torch_dtype)
            part = images[start : start + options.batch_size]
            for image, embedded in zip(part, model.embed(part), strict=True):
                proposed = propose(
                    model, embedded, points_per_side=options.points_per_side, predicted_iou=options.predicted_iou,
                    stability_score=options.stability_score, nms_iou=options.nms_iou,
                    proposals=options.proposals,
                )  # fmt: skip
                found.append(self.name(image, proposed))
        return found

    def name(self, image: NDArray[np.uint8], proposed: Proposals) -> Found:
        """Names the masks. If one mask contains another (an object, a part of it, the object with its neighbour), only
        the surest is kept. CLIP's cosine tells a whole object from a part or from two objects; SAM's predicted IoU
        tells a clean outline from a ragged one."""
        things = ~is_ground(proposed.masks)
        masks, predicted_iou = proposed.masks[things], proposed.predicted_iou[things]
        boxes = mask_boxes(masks)
        model = ClipModel.of(self.clip_config)
        words = [(c.id, word) for c in self.categories for word in (c.name, *c.synonyms)]
        texts = [clip.phrase(self.config.prompt, word) for _, word in words]
        cosines = (
            model.pictures([clip.crop(image, box) for box in boxes])
            @ model.cached_texts((*texts, *self.config.others)).T
        )
        by_word = cosines[:, : len(words)]
        best = by_word.max(1, initial=-1)
        sure = (best >= self.config.agreement) & (best >= cosines[:, len(words) :].max(1, initial=-1))
        trust = best.clip(0) ** 2 * predicted_iou.clip(0)
        order = np.flatnonzero(sure)[np.argsort(-trust[sure], kind="stable")]
        chosen = order[without_parts(masks[order])]
        chosen = chosen[np.argsort(-best[chosen], kind="stable")]
        ids = np.array([category_id for category_id, _ in words], np.int64)
        return Found(masks[chosen], boxes[chosen], ids[by_word[chosen].argmax(1)], best[chosen].astype(np.float32))


@dataclass(frozen=True, slots=True)
class Proposals:
    """Masks bool (N, H, W), best first, with their scores, float32 (N,)."""

    masks: NDArray[np.bool_]
    predicted_iou: NDArray[np.float32]
    stability_score: NDArray[np.float32]


def propose(
    model: SamModel,
    embedded: Embedded,
    *,
    points_per_side: int,
    predicted_iou: float,
    stability_score: float,
    nms_iou: float,
    proposals: Literal["things", "official"] = "things",
) -> Proposals:
    """Masks at the points of a grid, three for each point. It drops masks that score less than `predicted_iou` or
    `stability_score`, and if two masks overlap by more than `nms_iou`, the one with the lower predicted IoU.

    `things`: overlap is the IoU of masks at the decoder's resolution, so that an object in front of another is kept;
    specks are removed. `official`: the masks of SamAutomaticMaskGenerator with the same thresholds and without its
    crops; overlap is the IoU of boxes at the image's resolution.
    """
    import torch

    official = proposals == "official"
    least = stability_score - (STABILITY_MARGIN if official else 0)
    ticks = (np.arange(points_per_side, dtype=np.float32) + 0.5) / points_per_side
    height, width = embedded.size
    points = np.stack(np.meshgrid(ticks * width, ticks * height), -1).reshape(-1, 2).astype(np.float32)
    threshold = model.mask_threshold
    found: list[Any] = []
    scores: list[Any] = []
    for start in range(0, len(points), model.prompts_at_once):
        answer = model.by_points(embedded, points[start : start + model.prompts_at_once], multimask=True)
        logits, iou = answer.logits.flatten(0, 1), answer.predicted_iou.flatten()
        logits = without_padding(logits, embedded, model.side)
        high = (logits > threshold + STABILITY_OFFSET).sum((1, 2))
        low = (logits > threshold - STABILITY_OFFSET).sum((1, 2))
        stability = high / low.clamp(min=1)
        kept = (iou >= predicted_iou) & (stability >= least) & (logits > threshold).any(2).any(1)
        found.append(answer.logits.flatten(0, 1)[kept])
        scores.append(torch.stack([iou[kept], stability[kept]], 1))
    logits, score = torch.cat(found), torch.cat(scores)
    order = score[:, 0].argsort(descending=True, stable=True)
    choose = _official if official else _things
    return choose(model, embedded, logits[order], score[order], stability_score, nms_iou)


def _things(
    model: SamModel, embedded: Embedded, logits: Any, score: Any, stability_score: float, nms_iou: float
) -> Proposals:
    """Logits (N, h, w), best first, with predicted IoU and stability, (N, 2)."""
    small = (without_padding(logits, embedded, model.side) > model.mask_threshold).flatten(1).float()
    chosen = suppress(small, nms_iou)
    masks, numbers = model.masks(embedded, logits[chosen]).masks, score[chosen].cpu().numpy().astype(np.float32)
    visible = masks.any((1, 2))  # a single pixel of the decoder's can lie between the pixels of the image
    clean = np.array([without_specks(mask) for mask in masks[visible]], bool).reshape(-1, *embedded.size)
    return Proposals(clean, numbers[visible, 0], numbers[visible, 1])


def _official(
    model: SamModel, embedded: Embedded, logits: Any, score: Any, stability_score: float, nms_iou: float
) -> Proposals:
    """Arguments as for `_things`. SamAutomaticMaskGenerator scales every mask to the image before it chooses. Here a
    mask is scaled only when its turn comes; most masks never are, since a better one clearly suppresses them."""
    rough = rough_boxes(model, embedded, logits)
    iou = score[:, 0].cpu().numpy()
    suppressed = np.zeros(len(logits), bool)
    masks, boxes, numbers = [], np.zeros((0, 4), np.float32), []
    for i in range(len(logits)):
        if suppressed[i]:
            continue
        scaled = model.masks(embedded, logits[i, None])
        box, stability = mask_boxes(scaled.masks) - UPSTREAM_BOX, float(scaled.stability_score[0])
        if not scaled.masks.any() or stability < stability_score or box_iou(box, boxes).max(initial=0) > nms_iou:
            continue
        masks.append(scaled.masks[0])
        boxes = np.concatenate([boxes, box])
        numbers.append((iou[i], stability))
        suppressed |= box_iou(rough, box)[:, 0] > nms_iou + NMS_MARGIN
    scores = np.array(numbers, np.float32).reshape(-1, 2)
    return Proposals(np.array(masks, bool).reshape(-1, *embedded.size), scores[:, 0], scores[:, 1])


def rough_boxes(model: SamModel, embedded: Embedded, logits: Any) -> NDArray[np.float32]:
    """Logits (N, h, w) -> boxes in px of the image, (N, 4), in segment_anything's convention; they may be too large and
    never too small. The maxima of the logits' rows and columns are scaled in the same way as `postprocess_masks`
    scales all logits, which is linear along each axis."""
    import torch
    from torch.nn.functional import interpolate

    edges: list[Any] = []
    with torch.inference_mode():
        # Never smaller than the logits are: their maxima would be lost.
        side = max(min(model.side, ROUGH_SIDE), logits.shape[-1])
        small = interpolate(logits[:, None], (side,) * 2, mode="bilinear")[:, 0]
        for axis in (1, 0):  # x, y
            greatest = small.amax(2 - axis)[:, None]
            frame = interpolate(greatest, model.side, mode="linear")[..., : embedded.input_size[axis]]
            inside = interpolate(frame, embedded.size[axis], mode="linear")[:, 0] > model.mask_threshold
            first, last = inside.int().argmax(1), inside.shape[1] - 1 - inside.flip(1).int().argmax(1)
            edges.append((first, last))
    (x0, x1), (y0, y1) = edges
    boxes: NDArray[np.float32] = torch.stack([x0, y0, x1, y1], 1).cpu().numpy().astype(np.float32)
    return boxes


def without_padding(logits: Any, embedded: Embedded, side: int) -> Any:
    """The part of logits (N, h, w) that shows the image: SAM pads it at the right and the bottom."""
    height, width = (-(-length * logits.shape[-1] // side) for length in embedded.input_size)
    return logits[:, :height, :width]


def without_specks(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask (H, W), not empty -> the mask without small pieces; the largest piece always stays."""
    import cv2

    _, pieces, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA]
    areas[0] = 0  # the background
    kept = (areas >= SPECK * areas.max()) & (areas > 0)
    clean: NDArray[np.bool_] = kept[pieces]
    return clean


def suppress(masks: Any, iou: float) -> Any:
    """Greedy non-maximum suppression: flat masks (N, P) of 0 and 1, best first -> positions of those that stay."""
    import torch

    areas, kept = masks.sum(1), list[int]()
    for i in range(len(masks)):
        if kept:
            common = masks[kept] @ masks[i]
            if (common / (areas[kept] + areas[i] - common)).max() > iou:
                continue
        kept.append(i)
    return torch.tensor(kept, dtype=torch.long, device=masks.device)


def is_ground(masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    borders = [masks[:, 0], masks[:, -1], masks[:, :, 0], masks[:, :, -1]]
    reached: NDArray[np.int64] = np.sum([border.any(1) for border in borders], 0)
    return reached >= BORDERS


def without_parts(masks: NDArray[np.bool_]) -> list[int]:
    """Masks (N, H, W), the surest first -> positions of those that neither contain a surer one nor lie in one."""
    flat = masks.reshape(len(masks), masks[:1].size).astype(np.float32)
    areas, kept = flat.sum(1), list[int]()
    for i in range(len(flat)):
        if not kept or (flat[kept] @ flat[i] / np.minimum(areas[kept], areas[i])).max() <= PART:
            kept.append(i)
    return kept
