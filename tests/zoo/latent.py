"""Tiny autoencoders with latents as the large models have them, their schedulers, and weights that do something."""

from typing import Any

import diffusers
import torch

BLOCKS = 4  # of an autoencoder that makes one latent of 8x8 pixels, as those of the real models


def excited(model: Any, gain: float = 1.0):
    """The model with large random weights. As models are initialised, prompts and guidance hardly change a picture."""
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=gain / weight[0].numel() ** 0.5)
        elif not weight.any():  # gates and biases that start at 0
            torch.nn.init.normal_(weight, std=0.1 * gain)
    return model.eval()


def fixed():
    """The scheduler of models with one noise schedule for all sizes."""
    return diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)


def shifting():
    """The scheduler of models whose noise schedule depends on the size of the image."""
    return diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)


def unscaled(channels: int) -> dict[str, list[float]]:
    return {"latents_mean": [0.0] * channels, "latents_std": [1.0] * channels}


def qwen_vae(channels: int = 4):
    return excited(
        diffusers.AutoencoderKLQwenImage(
            base_dim=4, z_dim=channels, dim_mult=[1] * BLOCKS, num_res_blocks=1, **unscaled(channels)
        )
    )


def flux2_vae(channels: int = 4):
    return excited(
        diffusers.AutoencoderKLFlux2(
            block_out_channels=(4,) * BLOCKS, layers_per_block=1, latent_channels=channels, norm_num_groups=2,
            sample_size=32,
        )
    )  # fmt: skip


def kl_vae(channels: int = 4, **options: Any):
    return excited(
        diffusers.AutoencoderKL(
            block_out_channels=(4,) * BLOCKS, norm_num_groups=2, latent_channels=channels, sample_size=32,
            down_block_types=("DownEncoderBlock2D",) * BLOCKS, up_block_types=("UpDecoderBlock2D",) * BLOCKS, **options,
        )
    )  # fmt: skip


def wan_vae(channels: int = 4, **options: Any):
    return excited(
        diffusers.AutoencoderKLWan(
            base_dim=4, z_dim=channels, dim_mult=[1] * BLOCKS, num_res_blocks=1, **unscaled(channels), **options
        )
    )
