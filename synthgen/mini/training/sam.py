"""Trains a small Segment Anything model (arXiv 2304.02643): `WORK/sam`, weights with a card of its dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

from synthgen.mini import scenes
from synthgen.mini.training.export import LICENCE, replacing_files, write_card
from synthgen.mini.training.trainer import Batch, Options, Trainer, Weights
from synthgen.models import ModelCard, SamShape

# With patches of 8 px the mask decoder answers at half the image's resolution. With 4 px it would answer at the full
# one, but take four times as long, and to label everything in an image takes a hundred answers.
SHAPE = SamShape(
    image_size=scenes.SIZE, patch_size=8, embed_dim=192, depth=6, num_heads=6, global_attn_indexes=(0, 1, 2, 3, 4, 5),
    window_size=0, prompt_embed_dim=128, mlp_dim=512, iou_head_hidden_dim=128,
)  # fmt: skip
MIN_VISIBLE_PX = 30  # things with fewer visible pixels get no prompt
MAX_BOX_JITTER = 0.1  # of a box's side; each box draws its own maximum below it
BOX_SHARE = 0.6  # of prompts; the others are points


@dataclass(frozen=True)
class Prompts:
    """Draws batches of scenes with a prompt for every thing in them.

    Returns `images` uint8 (B, S, S, 3); for N things `owner` int64 (N,), `masks` uint8 (N, S, S), `boxes` float32 (N,
    4) xyxy px, `points` float32 (N, 2) px, `boxed` bool (N,).
    """

    count: int = 12
    size: int = scenes.SIZE

    def __call__(self, rng: np.random.Generator, index: int) -> Batch:
        drawn = [scenes.draw(rng, size=self.size) for _ in range(self.count)]
        visible = [(i, m) for i, scene in enumerate(drawn) for m in scene.masks if m.sum() >= MIN_VISIBLE_PX]
        masks = np.stack([m for _, m in visible]) if visible else np.zeros((0, self.size, self.size), bool)
        n = len(masks)
        boxes = np.array([_box(m) for m in masks], np.float32).reshape(n, 4)
        sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
        jitter = rng.uniform(0, MAX_BOX_JITTER, (n, 1)) * rng.uniform(-1, 1, (n, 4))
        return {
            "images": np.stack([scene.image for scene in drawn]),
            "owner": np.array([i for i, _ in visible], np.int64),
            "masks": masks.astype(np.uint8),
            "boxes": (boxes + jitter * sides).clip(0, self.size).astype(np.float32),
            "points": np.array([_point(rng, m) for m in masks], np.float32).reshape(n, 2),
            "boxed": rng.random(n) < BOX_SHARE,
        }


def _box(mask: np.ndarray[Any, Any]) -> tuple[int, int, int, int]:
    """The tight box of a mask, half-open xyxy px."""
    x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
    return x, y, x + w, y + h


def _point(rng: np.random.Generator, mask: np.ndarray[Any, Any]) -> tuple[int, int]:
    """A random pixel (x, y) of the mask; every second time one near the middle, where people click."""
    allowed = mask
    if rng.random() < 0.5:
        depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
        allowed = depth >= 0.6 * depth.max()
    ys, xs = np.nonzero(allowed)
    pick = rng.integers(len(ys))
    return int(xs[pick]), int(ys[pick])


def build(shape: SamShape) -> Sam:  # type: ignore[no-any-unimported, unused-ignore]
    """Builds a SAM, as `segment_anything.build_sam` does, which knows only the official models' dimensions."""
    grid, width = shape.image_size // shape.patch_size, shape.prompt_embed_dim
    return Sam(
        ImageEncoderViT(
            shape.image_size, shape.patch_size, 3, shape.embed_dim, shape.depth, shape.num_heads, out_chans=width,
            norm_layer=partial(nn.LayerNorm, eps=1e-6), use_rel_pos=True, window_size=shape.window_size,
            global_attn_indexes=shape.global_attn_indexes,
        ),
        PromptEncoder(width, (grid, grid), (shape.image_size,) * 2, mask_in_chans=16),
        MaskDecoder(
            transformer_dim=width, transformer=TwoWayTransformer(2, width, 8, shape.mlp_dim),
            iou_head_hidden_dim=shape.iou_head_hidden_dim,
        ),
    )  # fmt: skip


def decode(
    sam: Any, embeddings: torch.Tensor, sparse: torch.Tensor, dense: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """`MaskDecoder.predict_masks` for prompts of different images at once.

    `embeddings` (N, C, h, w) are one for each prompt. Returns logits (N, 4, 4h, 4w) and predicted IoU (N, 4); mask 0 is
    the one of `multimask_output=False`.
    """
    decoder = sam.mask_decoder
    tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])[None].expand(len(sparse), -1, -1)
    source = embeddings + dense
    positions = sam.prompt_encoder.get_dense_pe().expand(len(source), -1, -1, -1)
    states, attended = decoder.transformer(source, positions, torch.cat((tokens, sparse), 1))
    upscaled = decoder.output_upscaling(attended.transpose(1, 2).reshape(source.shape))
    kernels = torch.stack([mlp(states[:, 1 + i]) for i, mlp in enumerate(decoder.output_hypernetworks_mlps)], 1)
    logits = (kernels @ upscaled.flatten(2)).view(len(source), -1, *upscaled.shape[-2:])
    return logits, decoder.iou_prediction_head(states[:, 0])


def mask_losses(logits: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss (N, M), and IoU (N, M) without gradient, of logits (N, M, H, W) for true masks (N, 1, H, W) in {0, 1}.

    The loss is 20 focal + 1 dice (arXiv 2304.02643, A.3). The focal loss weighs five times as much within 2 px of the
    true outline: everywhere else even a small model is right within minutes.
    """
    outline = (F.avg_pool2d(masks, 5, 1, 2, count_include_pad=False) - masks).abs() > 1e-4
    weight = 1 + 4 * outline.float()
    target = masks.expand_as(logits)
    p = logits.sigmoid()
    wrong = torch.where(target > 0, 1 - p, p)
    cross = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    focal = (wrong.pow(2) * cross * weight).mean((2, 3)) / weight.mean((2, 3))
    dice = 1 - (2 * (p * target).sum((2, 3)) + 1) / (p.sum((2, 3)) + target.sum((2, 3)) + 1)
    with torch.no_grad():
        hit, real = logits > 0, target > 0
        iou = (hit & real).sum((2, 3)) / (hit | real).sum((2, 3)).clamp(min=1)
    return 20 * focal + dice, iou


def train(options: Options, prompts: Prompts | None = None, shape: SamShape = SHAPE) -> None:
    """Trains and exports the SAM."""
    prompts = prompts or Prompts()

    def earlier(folder: Path) -> dict[str, Weights]:
        return {"sam": load_file(folder / "model.safetensors")}

    trainer = Trainer(
        "sam", lambda: {"sam": build(shape)}, options, peak=8e-4, decay=0.999, weight_decay=0.02, earlier=earlier
    )
    sam: Any = trainer.models["sam"]

    def step(batch: Batch, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        pixels = (batch["images"].permute(0, 3, 1, 2).float() - sam.pixel_mean) / sam.pixel_std
        boxed, points = batch["boxed"], batch["points"][:, None]
        masks, labels = batch["masks"][:, None].float(), torch.ones(len(points), 1, device=points.device)
        with trainer.autocast():
            embeddings = sam.image_encoder(pixels).float()[batch["owner"]]
        # Every prompt has two tokens: a box's corners, or a point and the padding that stands for "no box".
        by_box, dense = sam.prompt_encoder(points=None, boxes=batch["boxes"], masks=None)
        by_point, _ = sam.prompt_encoder(points=(points, labels), boxes=None, masks=None)
        with trainer.autocast():
            logits, predicted = decode(sam, embeddings, torch.where(boxed[:, None, None], by_box, by_point), dense)
        logits = F.interpolate(logits.float(), pixels.shape[-2:], mode="bilinear", align_corners=False)
        each, iou = mask_losses(logits, masks)
        # Of the three masks of an ambiguous prompt, the best one is trained most, so that they may differ (section 3).
        # The others are trained a little, since a thing of these scenes has only one right mask.
        best = each[:, 0] + each[:, 1:].amin(1) + 0.1 * each[:, 1:].sum(1)
        loss = best.mean() + (predicted.float() - iou).pow(2).mean()
        figures = {"predicted_iou_bias": float((predicted.detach() - iou)[:, 0].mean())}
        for name, chosen in (("box_iou", boxed), ("point_iou", ~boxed)):
            if chosen.any():
                figures[name] = float(iou[chosen, 0].mean())
        return loss, figures

    card = ModelCard(
        licence=LICENCE,
        weights="model.safetensors",
        sam=shape,
    )

    def export(average: Mapping[str, nn.Module]) -> None:
        state = {k: v.half().cpu().contiguous() for k, v in average["sam"].state_dict().items()}
        with replacing_files(options.work / "sam") as folder:
            save_file(state, folder / "model.safetensors")
            write_card(folder, card)

    trainer.run(prompts, step, export)
