"""Trains the autoencoder in whose latents the denoiser works: `WORK/autoencoder`, a folder of `PatchAutoencoder`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from synthgen.mini import scenes
from synthgen.mini.autoencoder import PatchAutoencoder
from synthgen.mini.training.export import replacing_files
from synthgen.mini.training.trainer import Batch, Options, Trainer, Weights

LATENT_NOISE = 0.05  # in standard deviations; so the decoder learns to tolerate a denoiser's errors
PATCH = 8


@dataclass(frozen=True)
class Pictures:
    """Draws batches of scenes: whole ones, and every second time four crops of each, so that the model does not learn
    the grid of patches and the borders by heart.

    Returns `images`, uint8 (scenes, S, S, 3) or (4 scenes, S/2, S/2, 3), with the same number of pixels.
    """

    count: int = 8
    size: int = scenes.SIZE

    def __call__(self, rng: np.random.Generator, index: int) -> Batch:
        images = [scenes.draw(rng, size=self.size).image for _ in range(self.count)]
        if index % 2:
            half = self.size // 2
            corners = rng.integers(0, half + 1, (self.count, 4, 2))
            images = [
                image[y : y + half, x : x + half] for image, four in zip(images, corners, strict=True) for y, x in four
            ]
        return {"images": np.stack(images)}


def to_model(images: torch.Tensor) -> torch.Tensor:
    """Converts images, uint8 (B, H, W, 3), to float32 (B, 3, H, W) in [-1, 1], channels last in memory."""
    return images.permute(0, 3, 1, 2).float().div(127.5).sub(1)


def unit_scale(model: PatchAutoencoder, images: torch.Tensor) -> None:
    """Folds the latents' scale, measured on `images` (B, 3, H, W), into the weights: each latent channel then has unit
    variance, and `scaling_factor` is 1. The decoder's output does not change."""
    first, last = model.decoder[0], model.encoder[-1]
    with torch.no_grad():
        latents = model.encoder(images)
        scale = latents.std((0, 2, 3))
        last.weight /= scale.view(-1, 1, 1, 1)
        last.bias /= scale
        first.weight *= scale.view(1, -1, 1, 1)


def train(options: Options, pictures: Pictures | None = None, channels: int = 256, decoder_blocks: int = 6) -> None:
    """Trains and exports the autoencoder. The decoder is the larger half: it has to invent what 16 numbers cannot say
    of the 192 of a patch."""
    pictures = pictures or Pictures()

    def build() -> dict[str, nn.Module]:
        made = PatchAutoencoder(channels=channels, decoder_blocks=decoder_blocks, sample_size=pictures.size)
        return {"vae": made}

    def earlier(folder: Path) -> dict[str, Weights]:
        return {"vae": load_file(folder / "diffusion_pytorch_model.safetensors")}

    trainer = Trainer("autoencoder", build, options, peak=2e-3, decay=0.999, weight_decay=0.0, earlier=earlier)
    model = trainer.models["vae"]
    assert isinstance(model, PatchAutoencoder)

    def step(batch: Batch, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        target = to_model(batch["images"])
        with trainer.autocast():
            z = model.encoder(target).float()
            noise = torch.randn(z.shape, generator=generator).to(z.device)
            out = model.decoder(z + LATENT_NOISE * z.std().detach() * noise).float()
        difference = out - target
        # L1 alone blurs edges; the loss on gradients keeps them sharp. The square is what PSNR measures.
        edges = difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()
        square = difference.pow(2).mean()
        loss = difference.abs().mean() + 0.5 * edges + 2 * square + 1e-3 * z.pow(2).mean()
        return loss, {"psnr_db": 10 * float(torch.log10(4 / square.detach()))}  # the range is 2 wide

    rng = np.random.default_rng([options.seed, 2**32])
    probe = to_model(torch.from_numpy(Pictures(100, pictures.size)(rng, 0)["images"])).to(trainer.device)

    def export(average: Mapping[str, nn.Module]) -> None:
        vae = PatchAutoencoder.from_config(model.config)
        vae.load_state_dict(average["vae"].state_dict())
        unit_scale(vae.to(trainer.device), probe)
        with replacing_files(options.work / "autoencoder") as folder:
            vae.cpu().half().save_pretrained(folder)

    trainer.run(pictures, step, export)
