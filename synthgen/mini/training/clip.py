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

MAX_LOG_SCALE = float(np.log(100))  # of the logits: section 2.5
EVEN_COSINE, STEEPNESS = 0.5, 20.0  # the cosine at which a text is as likely true as not, and the slope there
# Shares of a thing's visible pixels in a crop: up to the first, nothing of it can be seen; between the other two, a
# part too small to be named.
MAX_NOTHING, PART = 0.01, (0.1, 0.4)


ALL = range(len(scenes.CLASSES))
COLOURED = [i for i in ALL if scenes.CLASSES[i] in scenes.COLOURED]
# The share of scenes that have only things of the classes that come in colours. The model learns colours at once, but
# takes longest to tell a blue kite from a blue umbrella.
COLOURED_SHARE = 0.4
CROP_KINDS = (*scenes.CLASSES, *BACKGROUNDS)  # the names that a crop can have


@dataclass(frozen=True)
class Shape:
    """The dimensions of the model. `pixels`: the side of its input images."""

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
    """Draws batches of images with texts: crops of things, "a photo of a blue car"; crops of background alone, "a photo
    of grass"; and whole scenes with their captions. Crops of parts of things have no text, and no text is true of them.

    Crops of one scene share its background, so they are each other's hard negatives. Every caption has a hard negative
    too: the caption with another class for one thing. `views`: the number of crops of each thing.

    Returns, for C crops, T of them with a text, and B scenes: `crops` uint8 (C, P, P, 3), `crop_texts`, `fits` bool
    (C, T + K), whether text j is true of crop i, where the last K texts are those of all `CROP_KINDS`; `images` uint8
    (B, P, P, 3), `texts` and `wrong_texts`.
    """

    count: int = 16
    views: int = 2
    size: int = scenes.SIZE
    pixels: int = 64

    def __call__(self, rng: np.random.Generator, index: int) -> Batch:
        coloured_only = rng.random(self.count) < COLOURED_SHARE
        drawn = [scenes.draw(rng, size=self.size, among=COLOURED if only else ALL) for only in coloured_only]
        crops, texts, contents = [], [], []  # `contents`: (class or background, colour) of a crop
        for scene in drawn:
            for thing in scene.things * self.views:
                crops.append(_crop_around(rng, scene.image, thing.box))
                contents.append((scenes.CLASSES[thing.category], thing.colour))
                described = thing if rng.random() < 0.5 else replace(thing, colour=None)
                texts.append((contents[-1][0], described.colour, caption_of(described)))
            if (background := _random_crop(rng, scene, 0, MAX_NOTHING)) is not None:
                crops.append(background)
                contents.append((scene.background, None))
                texts.append((scene.background, None, captions.caption(scene.background, ())))
        for scene in drawn:
            if (part := _random_crop(rng, scene, *PART)) is not None:
                crops.append(part)
                contents.append(("", None))
        described_by = [*((name, colour) for name, colour, _ in texts), *((name, None) for name in CROP_KINDS)]
        fits = [[what == name and colour in (None, has) for name, colour in described_by] for what, has in contents]
        views = [_degrade(rng, _resize(crop, self.pixels)) for crop in crops]
        return {
            "crops": np.stack(views) if views else np.zeros((0, self.pixels, self.pixels, 3), np.uint8),
            "crop_texts": [text for _, _, text in texts],
            "fits": np.array(fits, bool).reshape(len(crops), len(described_by)),
            "images": np.stack([_degrade(rng, _resize(scene.image, self.pixels)) for scene in drawn]),
            "texts": [captions.caption(scene.background, scene.things, rng) for scene in drawn],
            "wrong_texts": [_wrong_caption(rng, scene) for scene in drawn],
        }


def caption_of(thing: scenes.Thing) -> str:
    """The caption of one thing, as in "a photo of a blue car"."""
    return captions.caption("sky", [thing]).removesuffix(" on sky")


KIND_TEXTS = tuple(
    caption_of(scenes.Thing(scenes.CLASSES.index(name), None, (0, 0, 1, 1)))
    if name in scenes.CLASSES
    else captions.caption(name, ())
    for name in CROP_KINDS
)  # the text of each of `CROP_KINDS`, without a colour


def _random_crop(rng: np.random.Generator, scene: scenes.Scene, least: float, most: float) -> NDArray[np.uint8] | None:
    """A random crop that has at most the share `most` of every thing's visible pixels, and at least the share `least`
    of one thing's; None if twenty attempts give none."""
    size = len(scene.image)
    for _ in range(20):
        w, h = (int(n) for n in rng.integers(round(0.2 * size), round(0.6 * size), 2))
        x, y = int(rng.integers(0, size - w)), int(rng.integers(0, size - h))
        shares = [float(mask[y : y + h, x : x + w].sum() / mask.sum()) for mask in scene.masks]
        if least <= max(shares, default=0.0) <= most:
            return scene.image[y : y + h, x : x + w]
    return None


def _crop_around(rng: np.random.Generator, image: NDArray[np.uint8], box: scenes.Box) -> NDArray[np.uint8]:
    """A crop of the box with up to 30 % more, or 5 % less, on each side; every second time of the square around it."""
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


def _resize(image: NDArray[np.uint8], pixels: int) -> NDArray[np.uint8]:
    shrinks = max(image.shape) > pixels
    resized = cv2.resize(image, (pixels, pixels), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    return np.asarray(resized, np.uint8)


def _degrade(rng: np.random.Generator, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Adds blur, noise and a change of light, which generated images have and composed scenes do not."""
    values = image.astype(np.float32)
    if rng.random() < 0.4:
        values = cv2.GaussianBlur(values, (0, 0), rng.uniform(0.3, 1.2))
    if rng.random() < 0.4:
        values = values + rng.standard_normal(values.shape, np.float32) * np.float32(rng.uniform(1, 12))
    gain, offset = rng.uniform(0.85, 1.15), rng.uniform(-12, 12)
    return (values * gain + offset).clip(0, 255).astype(np.uint8)


def _wrong_caption(rng: np.random.Generator, scene: scenes.Scene) -> str:
    """A caption in which one thing has another class; for an empty scene, a caption with a thing."""
    other = int(rng.integers(len(scenes.CLASSES)))
    things = list(scene.things) or [scenes.Thing(other, None, (0, 0, 1, 1))]
    if scene.things:
        i = int(rng.integers(len(things)))
        other = (things[i].category + 1 + other % (len(scenes.CLASSES) - 1)) % len(scenes.CLASSES)
        colour = things[i].colour if scenes.CLASSES[other] in scenes.COLOURED else None
        things[i] = replace(things[i], category=other, colour=colour)
    return captions.caption(scene.background, things, rng)


def contrast(logits: torch.Tensor, fits: torch.Tensor) -> torch.Tensor:
    """InfoNCE for rows with any number of true texts, from logits (N, M) and `fits`, bool (N, M): the mean
    cross-entropy with equal shares for the true texts, as in UniCL (arXiv 2204.03610). Rows without a true text are
    left out."""
    rows = fits.any(1)
    target = fits[rows].float()
    target = target / target.sum(1, keepdim=True)
    return -(target * F.log_softmax(logits[rows], 1)).sum(1).mean()


def sigmoid_loss(cosines: torch.Tensor, fits: torch.Tensor) -> torch.Tensor:
    """The binary cross-entropy summed over each row, on average, from cosines (N, M) and `fits`, bool (N, M). This is
    SigLIP's loss (arXiv 2303.15343) with a fixed bias, so that a cosine alone says whether a text is true."""
    logits = STEEPNESS * (cosines - EVEN_COSINE)
    return F.binary_cross_entropy_with_logits(logits, fits.float(), reduction="none").sum(1).mean()


def build(shape: Shape) -> dict[str, nn.Module]:
    """The CLIP, with random weights."""
    vision = {
        "hidden_size": shape.width, "intermediate_size": 4 * shape.width, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "image_size": shape.pixels, "patch_size": shape.patch,
        "projection_dim": shape.projection,
    }  # fmt: skip
    text = text_config(shape.text, shape.text_layers, projection_dim=shape.projection)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=shape.projection)
    return {"clip": CLIPModel(config)}


def train(options: Options, pairs: Pairs | None = None, shape: Shape | None = None) -> None:
    """Trains and exports the CLIP."""
    shape = shape or Shape()
    pairs = pairs or Pairs(pixels=shape.pixels)
    tokenizer = word_tokenizer()
    vocabulary_hash = hashlib.sha256(repr((scenes.CLASSES, captions.words())).encode()).hexdigest()

    def earlier(folder: Path) -> dict[str, Weights]:
        weights, key = load_file(folder / "model.safetensors"), f"text_model.{WORD_VECTORS}"
        return {"clip": known_words(weights, key, folder, build(shape)["clip"].state_dict()[key])}

    trainer = Trainer(
        "clip", lambda: build(shape), options, peak=1e-3, decay=0.999, weight_decay=0.05,
        about=f"{shape}; words {vocabulary_hash[:12]}", earlier=earlier,
    )  # fmt: skip
    clip: Any = trainer.models["clip"]
    if trainer.device.type == "cpu":  # The backward pass of torch's fused attention takes twice as long there.
        clip.set_attn_implementation("eager")

    def embed_images(images: torch.Tensor) -> torch.Tensor:
        pixels = images.permute(0, 3, 1, 2).float().div(127.5).sub(1)
        with trainer.autocast():
            features = clip.visual_projection(clip.vision_model(pixel_values=pixels).pooler_output)
        return F.normalize(features.float(), dim=1)

    def embed_texts(texts: list[str]) -> torch.Tensor:
        with trainer.autocast():
            pooled = clip.text_model(input_ids=tokens(tokenizer, texts).to(trainer.device)).pooler_output
            features = clip.text_projection(pooled)
        return F.normalize(features.float(), dim=1)

    def step(batch: Batch, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        count, texts = len(batch["crops"]), batch["texts"]
        images = embed_images(torch.cat([batch["crops"], batch["images"]]))
        vectors = embed_texts([*batch["crop_texts"], *KIND_TEXTS, *texts, *batch["wrong_texts"]])
        scale = clip.logit_scale.clamp(max=MAX_LOG_SCALE).exp()
        split = len(batch["crop_texts"]) + len(KIND_TEXTS)
        of_crops, of_scenes = images[:count] @ vectors[:split].T, images[count:] @ vectors[split:].T
        fits = batch["fits"]
        same = torch.tensor([[a == b for b in [*texts, *batch["wrong_texts"]]] for a in texts], device=images.device)
        square = len(texts)
        loss = contrast(scale * of_scenes, same) + contrast(scale * of_scenes[:, :square].T, same[:, :square].T)
        loss = loss / 2 + sigmoid_loss(of_scenes, same) / 2
        figures = {"scale": float(scale.detach()), "scene_right": _share_right(of_scenes, same)}
        if fits.any():
            loss = loss + (contrast(scale * of_crops, fits) + contrast(scale * of_crops.T, fits.T)) / 2
            loss = loss + sigmoid_loss(of_crops, fits)
            named = fits.any(1)
            figures["crop_right"] = _share_right(of_crops[named], fits[named])
            wrong = of_crops.detach().masked_fill(fits, -1).amax(1)
            figures["crop_absolute"] = float(
                torch.cat([of_crops.detach()[fits] > EVEN_COSINE, wrong < EVEN_COSINE]).float().mean()
            )
        return loss, figures

    card = ModelCard(
        licence=LICENCE,
        classes={name: KnownClass() for name in scenes.CLASSES},
        vocabulary=tuple(captions.words()),
    )
    image_processor = CLIPImageProcessor(
        size={"height": shape.pixels, "width": shape.pixels}, do_center_crop=False, image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )  # fmt: skip

    def export(average: Mapping[str, nn.Module]) -> None:
        half: Any = copy.deepcopy(average["clip"]).cpu().half()
        with replacing_files(options.work / "clip") as folder:
            half.save_pretrained(folder)
            CLIPProcessor(image_processor, word_tokenizer()).save_pretrained(folder)
            write_card(folder, card)

    trainer.run(pairs, step, export)


def _share_right(logits: torch.Tensor, fits: torch.Tensor) -> float:
    """The share of rows whose likeliest text is true."""
    return float(fits.gather(1, logits.argmax(1, keepdim=True)).float().mean())
