"""Trains the denoiser, its text encoder and its T2I-Adapter together: `WORK/diffusion`, a folder of a diffusers
pipeline with `adapter/` and a card."""

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

# The shares of scenes with an empty prompt, from which guidance is learnt, and with a layout.
UNPROMPTED_SHARE, LAYOUT_SHARE = 0.1, 0.5
HARD_CLASSES = ("backpack", "chair", "cup", "kite", "pizza", "suitcase")  # missed most, so drawn twice as often
# The share of scenes that get three things, besides those that have three by chance: the third thing is learnt last.
CROWDED_SHARE = 0.5
_AMONG = (*range(len(scenes.CLASSES)), *(scenes.CLASSES.index(name) for name in HARD_CLASSES))
EASY_BATCHES = 3_000
MIN_COMPILED_HOURS = 0.5  # in shorter trainings, compiling the denoiser, which takes minutes, does not pay


@dataclass(frozen=True)
class Shape:
    """The dimensions of the model. `heads`: for each level of the UNet; `text`: the width of the text encoder."""

    channels: tuple[int, ...] = (96, 192, 256)
    heads: tuple[int, ...] = (3, 6, 8)
    groups: int = 16
    text: int = 128
    text_layers: int = 2


@dataclass(frozen=True)
class Captioned:
    """Draws batches of new scenes with prompts and layouts. To draw a scene takes less than a tenth of the denoiser's
    time for it, so a pool of latents would save little, and repeat scenes.

    Returns `images` uint8 (B, S, S, 3); `prompts`, B strings; `layout` float32 (B, C, S/8, S/8), the share of each cell
    that a class's boxes cover; `emphasis` float32 (B, 1, S/8, S/8), the weight of each cell in the loss; `has_layout`
    bool (B,).

    Attributes:
        easy: the number of batches over which the share of scenes that get a single, large thing falls from 0.5 to 0.
    """

    count: int = 32
    size: int = scenes.SIZE
    easy: int = EASY_BATCHES

    def __call__(self, rng: np.random.Generator, index: int) -> Batch:
        single = rng.random(self.count) < (0.5 * (1 - index / self.easy) if index < self.easy else 0)
        crowded = rng.random(self.count) < CROWDED_SHARE
        drawn = [
            scenes.draw(rng, size=self.size, most=1 if alone else 3, least=3 if many and not alone else 0, among=_AMONG)
            for alone, many in zip(single, crowded, strict=True)
        ]
        layout = np.stack([planes(scene.things, self.size) for scene in drawn])
        empty = rng.random(self.count) < UNPROMPTED_SHARE
        prompts = [captions.caption(scene.background, scene.things, rng) for scene in drawn]
        return {
            "images": np.stack([scene.image for scene in drawn]),
            "prompts": ["" if no else prompt for no, prompt in zip(empty, prompts, strict=True)],
            "layout": layout,
            "emphasis": np.stack([emphasis(scene.things, self.size) for scene in drawn]),
            "has_layout": rng.random(self.count) < LAYOUT_SHARE,
        }  # fmt: skip


def planes(things: Sequence[scenes.Thing], size: int) -> NDArray[np.float32]:
    """A layout as the adapter takes it: a plane for each class, float32 (C, S/8, S/8), with the share of each cell that
    the class's boxes cover. A later box hides an earlier one. Pipelines draw the same from the card's palette."""
    layout = np.zeros((size, size, len(scenes.CLASSES)), np.float32)
    for thing in things:
        x0, y0, x1, y1 = thing.box
        layout[y0:y1, x0:x1] = np.eye(len(scenes.CLASSES), dtype=np.float32)[thing.category]
    return _cells(layout)


def emphasis(things: Sequence[scenes.Thing], size: int) -> NDArray[np.float32]:
    """The weight of each cell in the loss, float32 (1, S/8, S/8). Things weigh more than the background, which is
    learnt in minutes where things take hours. Small things weigh more than large ones, since each should count the
    same."""
    weight = np.full((size, size, 1), 0.6, np.float32)
    for thing in things:
        x0, y0, x1, y1 = thing.box
        share = (x1 - x0) * (y1 - y0) / size**2
        weight[y0:y1, x0:x1] = 0.6 + 2.4 * min(max((0.12 / share) ** 0.5, 0.7), 2.0)
    return _cells(weight)


def _cells(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """The means over the pixels of each cell, (S, S, C) -> (C, S/8, S/8)."""
    cells = len(pixels) // PATCH
    return np.ascontiguousarray(pixels.reshape(cells, PATCH, cells, PATCH, -1).mean((1, 3)).transpose(2, 0, 1))


def build(shape: Shape, size: int) -> dict[str, nn.Module]:
    """The models, with random weights. `size`: the side of the images, px.

    All levels of the UNet have cross-attention: the adapter's features do not fit a UNet whose first level has none.
    """
    levels = len(shape.channels)
    unet = UNet2DConditionModel(
        sample_size=size // PATCH, in_channels=16, out_channels=16, layers_per_block=1, cross_attention_dim=shape.text,
        attention_head_dim=shape.heads,  # in this class, the *number* of heads
        norm_num_groups=shape.groups, block_out_channels=shape.channels,
        down_block_types=("CrossAttnDownBlock2D",) * levels, up_block_types=("CrossAttnUpBlock2D",) * levels,
        mid_block_type="UNetMidBlock2D",  # without attention, which the last level has at the same resolution
    )  # fmt: skip
    adapter = T2IAdapter(
        in_channels=len(scenes.CLASSES), channels=list(shape.channels), num_res_blocks=1, downscale_factor=1
    )
    text_encoder = CLIPTextModel(CLIPTextConfig(**text_config(shape.text, shape.text_layers)))
    return {"unet": unet, "text_encoder": text_encoder, "adapter": adapter}


def known_colours(weights: Weights, earlier: AdapterLayout, fresh: torch.Tensor) -> Weights:
    """The weights of an earlier adapter, which took colours, for today's planes of classes. The first layer's response
    to a class's plane is its response to that class's colour, over all pixels of a cell. New classes get the weights of
    `fresh` (out, C, 3, 3)."""
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
    """Cosine noise, v-prediction, and no signal at the last step (arXiv 2305.08891)."""
    return DDIMScheduler(
        1000, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", clip_sample=False,
        rescale_betas_zero_snr=True, timestep_spacing="trailing", steps_offset=1,
    )  # fmt: skip


def loss_weight(alpha: torch.Tensor) -> torch.Tensor:
    """The weight of the v loss, from cumulative alpha (B,): min-SNR with gamma 5 (arXiv 2303.09556), but at least 0.4
    where the SNR is below 1. Sampling starts there and decides on the composition, and min-SNR would fall to 0."""
    snr = alpha / (1 - alpha)
    weight = snr.clamp(max=5) / (snr + 1)
    return torch.where(snr < 1, weight.clamp(min=0.4), weight)


def card(size: int) -> ModelCard:
    """The card of a model for images of `size` x `size` px."""
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
    # A loaded model's config names its folder, and the export would name it too. So this builds a new model.
    vae = PatchAutoencoder(**{k: v for k, v in loaded.config.items() if not k.startswith("_")})
    vae.load_state_dict(loaded.state_dict())
    return vae.float().eval().requires_grad_(False), hashlib.sha256(file.read_bytes()).hexdigest()


def compiles(options: Options, device: torch.device) -> bool:
    """Whether to compile the denoiser. A step then takes a fifth less time on a CPU, but its last bits differ."""
    long = options.steps is None and options.hours >= MIN_COMPILED_HOURS
    return long and bool(find_spec("triton") if device.type == "cuda" else which(os.environ.get("CXX", "g++")))


def train(options: Options, captioned: Captioned | None = None, shape: Shape | None = None) -> None:
    """Trains and exports the pipeline. A training from an earlier model, which knows single things, starts without the
    easy batches."""
    captioned, shape = captioned or Captioned(easy=0 if options.start else EASY_BATCHES), shape or Shape()
    vae, vae_hash = _autoencoder(options.work / "autoencoder")
    tokenizer, scheduler, about = word_tokenizer(), noise_scheduler(), card(captioned.size)
    card_hash = hashlib.sha256(about.model_dump_json().encode()).hexdigest()

    def earlier(folder: Path) -> dict[str, Weights]:
        fresh = {name: model.state_dict() for name, model in build(shape, captioned.size).items()}
        unet = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
        adapter = load_file(folder / "adapter" / "diffusion_pytorch_model.safetensors")
        text_encoder = load_file(folder / "text_encoder" / "model.safetensors")
        layout = read_card(folder).layout
        if not isinstance(layout, AdapterLayout):
            raise RunError(f"cannot start from {folder}: its card has no T2I-Adapter")
        return {
            "unet": {name: unet[name] for name in fresh["unet"]},  # leaves out blocks that today's UNet does not have
            "adapter": known_colours(adapter, layout, fresh["adapter"]["adapter.conv_in.weight"]),
            "text_encoder": known_words(
                text_encoder, WORD_VECTORS, folder / "tokenizer", fresh["text_encoder"][WORD_VECTORS]
            ),
        }

    trainer = Trainer(
        "diffusion", lambda: build(shape, captioned.size), options, peak=5e-4, decay=0.9995,
        about=f"{shape}; card {card_hash[:12]}; autoencoder {vae_hash[:12]}", earlier=earlier,
    )  # fmt: skip
    unet, text_encoder, adapter = (trainer.models[name] for name in ("unet", "text_encoder", "adapter"))
    if trainer.device.type == "cpu":  # The backward pass of torch's fused attention takes 2.5 times as long there.
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
        with_layout = batch["has_layout"].float().view(-1, 1, 1, 1)
        with trainer.autocast():
            features = [with_layout * f for f in adapter(batch["layout"])]
            text = text_encoder(ids)[0]
            predicted = denoise(noisy, t, text, down_intrablock_additional_residuals=features).sample
        weights = batch["emphasis"]
        error = ((predicted.float() - velocity).pow(2) * weights).mean((1, 2, 3)) / weights.mean((1, 2, 3))
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
