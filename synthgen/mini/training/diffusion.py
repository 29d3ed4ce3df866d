"""Trains the denoiser, its text encoder and its T2I-Adapter together: `WORK/diffusion`, a diffusers pipeline folder
with `adapter/` and a card."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, T2IAdapter, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from synthgen.errors import RunError
from synthgen.mini import scenes
from synthgen.mini.autoencoder import PatchAutoencoder
from synthgen.mini.training import captions
from synthgen.mini.training.autoencoder import PATCH, to_model
from synthgen.mini.training.export import LICENCE, replacing_files, write_card
from synthgen.mini.training.text import WORD_VECTORS, known_words, text_config, tokens, word_tokenizer
from synthgen.mini.training.trainer import Batch, Options, Trainer, Weights
from synthgen.models import AdapterLayout, KnownClass, ModelCard, read_card

UNPROMPTED, WITH_LAYOUT = 0.1, 0.5  # shares; guidance and plain text-to-image are learnt from the others
HARD = ("backpack", "chair", "cup", "kite", "pizza", "suitcase")  # of shapes that are missed most: drawn twice as often
CROWDED = 0.5  # share of scenes of three things, beside those that have as many by chance: the third is learnt last
_AMONG = (*range(len(scenes.CLASSES)), *(scenes.CLASSES.index(name) for name in HARD))
EASY_BATCHES = 3_000
COMPILED_HOURS = 0.5  # of training, from which on compiling the denoiser, some minutes of it, pays


@dataclass(frozen=True)
class Shape:
    """Dimensions. `heads` a level of the UNet; `text`: width of the text encoder."""

    channels: tuple[int, ...] = (96, 192, 256)
    heads: tuple[int, ...] = (3, 6, 8)
    groups: int = 16
    text: int = 128
    text_layers: int = 2


@dataclass(frozen=True)
class Captioned:
    """Draws scenes with prompts and layouts, afresh for every batch: drawing a scene costs less than a tenth of what
    the denoiser takes for it. So a pool of latents would save little, repeat scenes, and have to be kept.

    -> `images` uint8 (B, S, S, 3); `prompts`, B strings; `layout` float32 (B, C, S/8, S/8), of each cell the share that
    a class's boxes cover; `emphasis` float32 (B, 1, S/8, S/8), of each cell in the loss; `has_layout` bool (B,).

    Attributes:
        easy: batches over which the share of single, large things falls from a half to none of its own.
    """

    count: int = 32
    size: int = scenes.SIZE
    easy: int = EASY_BATCHES

    def __call__(self, rng: np.random.Generator, index: int) -> Batch:
        single = rng.random(self.count) < (0.5 * (1 - index / self.easy) if index < self.easy else 0)
        crowded = rng.random(self.count) < CROWDED
        drawn = [
            scenes.draw(rng, size=self.size, most=1 if alone else 3, least=3 if many and not alone else 0, among=_AMONG)
            for alone, many in zip(single, crowded, strict=True)
        ]
        layout = np.stack([planes(scene.things, self.size) for scene in drawn])
        empty = rng.random(self.count) < UNPROMPTED
        prompts = [captions.caption(scene.background, scene.things, rng) for scene in drawn]
        return {
            "images": np.stack([scene.image for scene in drawn]),
            "prompts": ["" if no else prompt for no, prompt in zip(empty, prompts, strict=True)],
            "layout": layout,
            "emphasis": np.stack([emphasis(scene.things, self.size) for scene in drawn]),
            "has_layout": rng.random(self.count) < WITH_LAYOUT,
        }  # fmt: skip


def planes(things: Sequence[scenes.Thing], size: int) -> NDArray[np.float32]:
    """A layout as the adapter takes it: a plane a class, float32 (C, S/8, S/8), of each cell the share that its boxes
    cover; a later box hides an earlier one. The same as pipelines draw from the card's palette."""
    layout = np.zeros((size, size, len(scenes.CLASSES)), np.float32)
    for thing in things:
        x0, y0, x1, y1 = thing.box
        layout[y0:y1, x0:x1] = np.eye(len(scenes.CLASSES), dtype=np.float32)[thing.category]
    return _cells(layout)


def emphasis(things: Sequence[scenes.Thing], size: int) -> NDArray[np.float32]:
    """How much a cell counts in the loss, float32 (1, S/8, S/8): things more than the ground, for grounds are learnt in
    minutes and things take hours; and small ones more than large ones, for it is things that are counted."""
    weight = np.full((size, size, 1), 0.6, np.float32)
    for thing in things:
        x0, y0, x1, y1 = thing.box
        share = (x1 - x0) * (y1 - y0) / size**2
        weight[y0:y1, x0:x1] = 0.6 + 2.4 * min(max((0.12 / share) ** 0.5, 0.7), 2.0)
    return _cells(weight)


def _cells(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means over the pixels of each cell, (S, S, C) -> (C, S/8, S/8)."""
    cells = len(pixels) // PATCH
    return np.ascontiguousarray(pixels.reshape(cells, PATCH, cells, PATCH, -1).mean((1, 3)).transpose(2, 0, 1))


def build(shape: Shape, size: int) -> dict[str, nn.Module]:
    """`size`: px of the images' sides. All levels of the UNet have cross-attention: with a plain one first, the
    adapter's features do not fit."""
    levels = len(shape.channels)
    unet = UNet2DConditionModel(
        sample_size=size // PATCH, in_channels=16, out_channels=16, layers_per_block=1, cross_attention_dim=shape.text,
        attention_head_dim=shape.heads,  # of this class it is the *number* of heads
        norm_num_groups=shape.groups, block_out_channels=shape.channels,
        down_block_types=("CrossAttnDownBlock2D",) * levels, up_block_types=("CrossAttnUpBlock2D",) * levels,
        mid_block_type="UNetMidBlock2D",  # one block without attention: the last level, as coarse, has its own
    )  # fmt: skip
    adapter = T2IAdapter(
        in_channels=len(scenes.CLASSES), channels=list(shape.channels), num_res_blocks=1, downscale_factor=1
    )
    text_encoder = CLIPTextModel(CLIPTextConfig(**text_config(shape.text, shape.text_layers)))
    return {"unet": unet, "text_encoder": text_encoder, "adapter": adapter}


def known_colours(weights: Weights, earlier: AdapterLayout, fresh: torch.Tensor) -> Weights:
    """The weights of an earlier adapter for today's planes: its first layer answers a class's plane as it did that
    class's colour, over all pixels of a cell; `fresh` (out, C, 3, 3) answers classes that are new."""
    key = "adapter.conv_in.weight"
    before = weights[key].float()  # (out, channels * pixels of a cell, 3, 3)
    table = fresh.clone()
    for i, name in enumerate(scenes.CLASSES):
        if name in earlier.palette:
            colour = torch.tensor(earlier.palette[name])
            cells = before.reshape(len(before), len(colour), -1, 3, 3).sum(2)
            table[:, i] = torch.einsum("ockl,c->okl", cells, colour)
    return {**weights, key: table}


def noise_scheduler() -> Any:
    """Cosine noise, v prediction, no signal at the last step (arXiv 2305.08891)."""
    return DDIMScheduler(
        1000, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", clip_sample=False,
        rescale_betas_zero_snr=True, timestep_spacing="trailing", steps_offset=1,
    )  # fmt: skip


def loss_weight(alpha: torch.Tensor) -> torch.Tensor:
    """Cumulative alpha (B,) -> weight of the v loss: min-SNR with gamma 5 (arXiv 2303.09556). It would be 0 where
    there is no signal yet, which is where sampling starts and a picture's plan is made: there it is at least 0.4."""
    snr = alpha / (1 - alpha)
    weight = snr.clamp(max=5) / (snr + 1)
    return torch.where(snr < 1, weight.clamp(min=0.4), weight)


def card(size: int) -> ModelCard:
    ratios = {name: scenes.aspect_ratio(i) for i, name in enumerate(scenes.CLASSES)}
    return ModelCard(
        licence=LICENCE,
        sizes=((size, size),),
        classes={n: KnownClass(aspect_ratio=(round(0.95 * r, 3), round(1.05 * r, 3))) for n, r in ratios.items()},
        vocabulary=tuple(captions.words()),
        layout=AdapterLayout(
            form="t2i_adapter",
            folder="adapter",
            palette=dict(zip(scenes.CLASSES, map(tuple, np.eye(len(ratios)).tolist()), strict=True)),
            downscale=PATCH,
        ),
    )


def _autoencoder(folder: Path) -> tuple[Any, str]:
    """The trained autoencoder, float32, and the sha256 of its weights."""
    file = folder / "diffusion_pytorch_model.safetensors"
    if not file.is_file():
        raise RunError(f"there is no {file}; train it first: python -m synthgen.mini train autoencoder")
    loaded = PatchAutoencoder.from_pretrained(folder, local_files_only=True)
    # A fresh one: a loaded one's config, and with it the export, names the folder that it came from.
    vae = PatchAutoencoder(**{k: v for k, v in loaded.config.items() if not k.startswith("_")})
    vae.load_state_dict(loaded.state_dict())
    return vae.float().eval().requires_grad_(False), hashlib.sha256(file.read_bytes()).hexdigest()


def compiles(options: Options, device: torch.device) -> bool:
    """Whether the denoiser is compiled: a step then takes a fifth less time on a CPU, and the last bits differ."""
    long = options.steps is None and options.hours >= COMPILED_HOURS
    return long and bool(find_spec("triton") if device.type == "cuda" else which(os.environ.get("CXX", "g++")))


def train(options: Options, captioned: Captioned | None = None, shape: Shape | None = None) -> None:
    # An earlier model knows single things.
    captioned, shape = captioned or Captioned(easy=0 if options.start else EASY_BATCHES), shape or Shape()
    vae, digest = _autoencoder(options.work / "autoencoder")
    tokenizer, scheduler, about = word_tokenizer(), noise_scheduler(), card(captioned.size)
    known = hashlib.sha256(about.model_dump_json().encode()).hexdigest()

    def earlier(folder: Path) -> dict[str, Weights]:
        fresh = {name: model.state_dict() for name, model in build(shape, captioned.size).items()}
        unet = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
        drawn = load_file(folder / "adapter" / "diffusion_pytorch_model.safetensors")
        said = load_file(folder / "text_encoder" / "model.safetensors")
        layout = read_card(folder).layout
        if layout is None:
            raise RunError(f"cannot start from {folder}: its card says of no layout")
        return {
            "unet": {name: unet[name] for name in fresh["unet"]},  # a block that is no more is left out
            "adapter": known_colours(drawn, layout, fresh["adapter"]["adapter.conv_in.weight"]),
            "text_encoder": known_words(said, WORD_VECTORS, folder / "tokenizer", fresh["text_encoder"][WORD_VECTORS]),
        }

    trainer = Trainer(
        "diffusion", lambda: build(shape, captioned.size), options, peak=5e-4, decay=0.9995,
        about=f"{shape}; card {known[:12]}; autoencoder {digest[:12]}", earlier=earlier,
    )  # fmt: skip
    unet, text_encoder, adapter = (trainer.models[name] for name in ("unet", "text_encoder", "adapter"))
    if trainer.device.type == "cpu":  # torch's fused attention is 2.5 times as slow backwards there
        unet.set_attn_processor(AttnProcessor())  # type: ignore[operator, unused-ignore]
    denoise = torch.compile(unet) if compiles(options, trainer.device) else unet
    encoder = copy.deepcopy(vae.encoder).to(trainer.device, memory_format=torch.channels_last)
    alphas = scheduler.alphas_cumprod.to(trainer.device)

    def step(batch: Batch, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        with torch.no_grad(), trainer.autocast():
            clean = encoder(to_model(batch["images"])).float()  # (B, 16, S/8, S/8)
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
        t = torch.randint(len(alphas), (len(clean),), generator=generator).to(clean.device)
        alpha = alphas[t]
        signal, spread = alpha.sqrt().view(-1, 1, 1, 1), (1 - alpha).sqrt().view(-1, 1, 1, 1)
        noisy = (signal * clean + spread * noise).contiguous(memory_format=torch.channels_last)
        velocity = signal * noise - spread * clean
        ids = tokens(tokenizer, batch["prompts"]).to(clean.device)
        told = batch["has_layout"].float().view(-1, 1, 1, 1)
        with trainer.autocast():
            features = [told * f for f in adapter(batch["layout"])]
            said = text_encoder(ids)[0]
            guess = denoise(noisy, t, said, down_intrablock_additional_residuals=features).sample
        counts = batch["emphasis"]
        error = ((guess.float() - velocity).pow(2) * counts).mean((1, 2, 3)) / counts.mean((1, 2, 3))
        weight = loss_weight(alpha)
        return (error * weight).mean() / weight.mean(), {"error": float(error.detach().mean())}

    def export(average: Mapping[str, nn.Module]) -> None:
        half = {name: copy.deepcopy(model).cpu().half() for name, model in average.items()}
        pipeline = StableDiffusionPipeline(
            vae=copy.deepcopy(vae).half(), unet=half["unet"], text_encoder=half["text_encoder"],
            tokenizer=word_tokenizer(), scheduler=scheduler, safety_checker=None, feature_extractor=None,
            requires_safety_checker=False,
        )  # fmt: skip
        with replacing_files(options.work / "diffusion") as folder:
            pipeline.save_pretrained(folder)
            half["adapter"].save_pretrained(folder / "adapter")  # type: ignore[operator, unused-ignore]
            write_card(folder, about)

    trainer.run(captioned, step, export)
