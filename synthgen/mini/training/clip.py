"""Trains a small CLIP (arXiv 2103.00020): `WORK/clip`, a folder of transformers' `CLIPModel` and `CLIPProcessor`."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

from synthgen.mini import scenes
from synthgen.mini.backgrounds import BACKGROUNDS
from synthgen.mini.training import captions
from synthgen.mini.training.export import LICENCE, replacing_files, write_card
from synthgen.mini.training.text import WORD_VECTORS, known_words, text_config, tokens, word_tokenizer
from synthgen.mini.training.trainer import Batch, Options, Trainer, Weights
from synthgen.models import KnownClass, ModelCard

LONGEST_SCALE = float(np.log(100))  # of the logits: section 2.5
MIDDLE, STEEPNESS = 0.5, 20.0  # the cosine at which a text is as likely true as not, and how fast that changes
# Shares of a thing's visible pixels in a crop: up to the first there is nothing of it, and between the others a part
# too small to be named.
NOTHING, PART = 0.01, (0.1, 0.4)


ALL = range(len(scenes.CLASSES))
COLOURED = [i for i in ALL if scenes.CLASSES[i] in scenes.COLOURED]
# Share of scenes with things of the classes that come in colours only: their colour is learnt at once, and that a blue
# kite is no blue umbrella takes the longest.
PAINTED = 0.4
KINDS = (*scenes.CLASSES, *BACKGROUNDS)  # of which a crop can be


@dataclass(frozen=True)
class Shape:
    """Dimensions. `pixels`: side of the image that the model sees."""

    pixels: int = 64
    patch: int = 8
    width: int = 160
    layers: int = 5
    heads: int = 5
    text: int = 128
    text_layers: int = 2
    projection: int = 128


@dataclass(frozen=True)
class Pairs:
    """Draws images with texts: crops of things, "a photo of a blue car", of nothing but ground, "a photo of grass",
    and whole scenes, with their captions. Crops of parts of things have no text and are negatives of all.

    Crops of one scene share its background and are each other's hard negatives. Every caption has a hard negative too:
    the same but for one thing's class. `views`: crops a thing.

    -> For C crops, T of them with a text, and B scenes `crops` uint8 (C, P, P, 3), `crop_texts`, `fits` bool
    (C, T + K): whether text j is true of crop i, the last K being those of all `KINDS`; `images` uint8 (B, P, P, 3),
    `texts`, `wrong_texts`.
    """

    count: int = 16
    views: int = 2
    size: int = scenes.SIZE
    pixels: int = 64

    def __call__(self, rng: np.random.Generator, index: int) -> Batch:
        painted = rng.random(self.count) < PAINTED
        drawn = [scenes.draw(rng, size=self.size, among=COLOURED if only else ALL) for only in painted]
        crops, texts, shown = [], [], []  # `shown`: (category or background, colour) of a crop
        for scene in drawn:
            for thing in scene.things * self.views:
                crops.append(_around(rng, scene.image, thing.box))
                shown.append((scenes.CLASSES[thing.category], thing.colour))
                told = thing if rng.random() < 0.5 else replace(thing, colour=None)
                texts.append((shown[-1][0], told.colour, caption_of(told)))
            if (ground := _elsewhere(rng, scene, 0, NOTHING)) is not None:
                crops.append(ground)
                shown.append((scene.background, None))
                texts.append((scene.background, None, captions.caption(scene.background, ())))
        for scene in drawn:
            if (part := _elsewhere(rng, scene, *PART)) is not None:
                crops.append(part)
                shown.append(("", None))
        asked = [*((name, colour) for name, colour, _ in texts), *((name, None) for name in KINDS)]
        fits = [[what == name and colour in (None, has) for name, colour in asked] for what, has in shown]
        views = [_spoil(rng, _view(crop, self.pixels)) for crop in crops]
        return {
            "crops": np.stack(views) if views else np.zeros((0, self.pixels, self.pixels, 3), np.uint8),
            "crop_texts": [text for _, _, text in texts],
            "fits": np.array(fits, bool).reshape(len(crops), len(asked)),
            "images": np.stack([_spoil(rng, _view(scene.image, self.pixels)) for scene in drawn]),
            "texts": [captions.caption(scene.background, scene.things, rng) for scene in drawn],
            "wrong_texts": [_wrong(rng, scene) for scene in drawn],
        }


def caption_of(thing: scenes.Thing) -> str:
    """ "a photo of a blue car"."""
    return captions.caption("sky", [thing]).removesuffix(" on sky")


NAMES = tuple(
    caption_of(scenes.Thing(scenes.CLASSES.index(name), None, (0, 0, 1, 1)))
    if name in scenes.CLASSES
    else captions.caption(name, ())
    for name in KINDS
)  # what is said of each, without a colour


def _elsewhere(rng: np.random.Generator, scene: scenes.Scene, least: float, most: float) -> NDArray[np.uint8] | None:
    """A crop with at most the share `most` of every thing's visible pixels, and with at least `least` of one; None if
    twenty tries find none."""
    size = len(scene.image)
    for _ in range(20):
        w, h = (int(n) for n in rng.integers(round(0.2 * size), round(0.6 * size), 2))
        x, y = int(rng.integers(0, size - w)), int(rng.integers(0, size - h))
        shares = [float(mask[y : y + h, x : x + w].sum() / mask.sum()) for mask in scene.masks]
        if least <= max(shares, default=0.0) <= most:
            return scene.image[y : y + h, x : x + w]
    return None


def _around(rng: np.random.Generator, image: NDArray[np.uint8], box: scenes.Box) -> NDArray[np.uint8]:
    """The box with up to 30 % more, or 5 % less, on each side; every second time widened to a square first."""
    x0, y0, x1, y1 = box
    if rng.random() < 0.5:
        more = (x1 - x0) - (y1 - y0)
        x0, x1, y0, y1 = (
            (x0, x1, y0 - more // 2, y1 + more // 2) if more > 0 else (x0 + more // 2, x1 - more // 2, y0, y1)
        )
    left, top, right, bottom = rng.uniform(-0.05, 0.3, 4)
    height, width, _ = image.shape
    rows = slice(max(0, round(y0 - top * (y1 - y0))), min(height, round(y1 + bottom * (y1 - y0))))
    columns = slice(max(0, round(x0 - left * (x1 - x0))), min(width, round(x1 + right * (x1 - x0))))
    return image[rows, columns]


def _view(image: NDArray[np.uint8], pixels: int) -> NDArray[np.uint8]:
    shrinks = max(image.shape) > pixels
    resized = cv2.resize(image, (pixels, pixels), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    return np.asarray(resized, np.uint8)


def _spoil(rng: np.random.Generator, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Blur, noise, other light: what generated images are like, and true scenes are not."""
    values = image.astype(np.float32)
    if rng.random() < 0.4:
        values = cv2.GaussianBlur(values, (0, 0), rng.uniform(0.3, 1.2))
    if rng.random() < 0.4:
        values = values + rng.standard_normal(values.shape, np.float32) * np.float32(rng.uniform(1, 12))
    gain, offset = rng.uniform(0.85, 1.15), rng.uniform(-12, 12)
    return (values * gain + offset).clip(0, 255).astype(np.uint8)


def _wrong(rng: np.random.Generator, scene: scenes.Scene) -> str:
    """A caption of the scene in which one thing is another; of an empty one, one in which there is a thing."""
    other = int(rng.integers(len(scenes.CLASSES)))
    things = list(scene.things) or [scenes.Thing(other, None, (0, 0, 1, 1))]
    if scene.things:
        i = int(rng.integers(len(things)))
        other = (things[i].category + 1 + other % (len(scenes.CLASSES) - 1)) % len(scenes.CLASSES)
        colour = things[i].colour if scenes.CLASSES[other] in scenes.COLOURED else None
        things[i] = replace(things[i], category=other, colour=colour)
    return captions.caption(scene.background, things, rng)


def contrast(logits: torch.Tensor, fits: torch.Tensor) -> torch.Tensor:
    """InfoNCE with any number of true texts a row: logits (N, M), `fits` bool (N, M) -> the mean cross-entropy with
    the true ones as equals, as in UniCL (arXiv 2204.03610). Rows with none are left out."""
    rows = fits.any(1)
    target = fits[rows].float()
    target = target / target.sum(1, keepdim=True)
    return -(target * F.log_softmax(logits[rows], 1)).sum(1).mean()


def sigmoid_loss(cosines: torch.Tensor, fits: torch.Tensor) -> torch.Tensor:
    """Cosines (N, M), `fits` bool (N, M) -> the summed binary cross-entropy of a row, on average: SigLIP's loss (arXiv
    2303.15343) with the bias fixed, so that a cosine says by itself whether a text is true, whatever the others."""
    logits = STEEPNESS * (cosines - MIDDLE)
    return F.binary_cross_entropy_with_logits(logits, fits.float(), reduction="none").sum(1).mean()


def build(shape: Shape) -> dict[str, nn.Module]:
    vision = {
        "hidden_size": shape.width, "intermediate_size": 4 * shape.width, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "image_size": shape.pixels, "patch_size": shape.patch,
        "projection_dim": shape.projection,
    }  # fmt: skip
    text = text_config(shape.text, shape.text_layers, projection_dim=shape.projection)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=shape.projection)
    return {"clip": CLIPModel(config)}


def train(options: Options, pairs: Pairs | None = None, shape: Shape | None = None) -> None:
    shape = shape or Shape()
    pairs = pairs or Pairs(pixels=shape.pixels)
    tokenizer = word_tokenizer()
    known = hashlib.sha256(repr((scenes.CLASSES, captions.words())).encode()).hexdigest()

    def earlier(folder: Path) -> dict[str, Weights]:
        weights, key = load_file(folder / "model.safetensors"), f"text_model.{WORD_VECTORS}"
        return {"clip": known_words(weights, key, folder, build(shape)["clip"].state_dict()[key])}

    trainer = Trainer(
        "clip", lambda: build(shape), options, peak=1e-3, decay=0.999, weight_decay=0.05,
        about=f"{shape}; words {known[:12]}", earlier=earlier,
    )  # fmt: skip
    clip: Any = trainer.models["clip"]
    if trainer.device.type == "cpu":  # torch's fused attention is half as fast backwards there
        clip.set_attn_implementation("eager")

    def see(images: torch.Tensor) -> torch.Tensor:
        pixels = images.permute(0, 3, 1, 2).float().div(127.5).sub(1)
        with trainer.autocast():
            features = clip.visual_projection(clip.vision_model(pixel_values=pixels).pooler_output)
        return F.normalize(features.float(), dim=1)

    def read(texts: list[str]) -> torch.Tensor:
        with trainer.autocast():
            pooled = clip.text_model(input_ids=tokens(tokenizer, texts).to(trainer.device)).pooler_output
            features = clip.text_projection(pooled)
        return F.normalize(features.float(), dim=1)

    def step(batch: Batch, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        count, texts = len(batch["crops"]), batch["texts"]
        seen = see(torch.cat([batch["crops"], batch["images"]]))
        said = read([*batch["crop_texts"], *NAMES, *texts, *batch["wrong_texts"]])
        scale = clip.logit_scale.clamp(max=LONGEST_SCALE).exp()
        split = len(batch["crop_texts"]) + len(NAMES)
        of_crops, of_scenes = seen[:count] @ said[:split].T, seen[count:] @ said[split:].T
        fits = batch["fits"]
        same = torch.tensor([[a == b for b in [*texts, *batch["wrong_texts"]]] for a in texts], device=seen.device)
        square = len(texts)
        loss = contrast(scale * of_scenes, same) + contrast(scale * of_scenes[:, :square].T, same[:, :square].T)
        loss = loss / 2 + sigmoid_loss(of_scenes, same) / 2
        figures = {"scale": float(scale.detach()), "scene_right": _right(of_scenes, same)}
        if fits.any():
            loss = loss + (contrast(scale * of_crops, fits) + contrast(scale * of_crops.T, fits.T)) / 2
            loss = loss + sigmoid_loss(of_crops, fits)
            named = fits.any(1)
            figures["crop_right"] = _right(of_crops[named], fits[named])
            wrong = of_crops.detach().masked_fill(fits, -1).amax(1)
            figures["crop_absolute"] = float(
                torch.cat([of_crops.detach()[fits] > MIDDLE, wrong < MIDDLE]).float().mean()
            )
        return loss, figures

    card = ModelCard(
        licence=LICENCE,
        classes={name: KnownClass() for name in scenes.CLASSES},
        vocabulary=tuple(captions.words()),
    )
    look = CLIPImageProcessor(
        size={"height": shape.pixels, "width": shape.pixels}, do_center_crop=False, image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )  # fmt: skip

    def export(average: Mapping[str, nn.Module]) -> None:
        half: Any = copy.deepcopy(average["clip"]).cpu().half()
        with replacing_files(options.work / "clip") as folder:
            half.save_pretrained(folder)
            CLIPProcessor(look, word_tokenizer()).save_pretrained(folder)
            write_card(folder, card)

    trainer.run(pairs, step, export)


def _right(logits: torch.Tensor, fits: torch.Tensor) -> float:
    """Share of rows whose likeliest text is true."""
    return float(fits.gather(1, logits.argmax(1, keepdim=True)).float().mean())
