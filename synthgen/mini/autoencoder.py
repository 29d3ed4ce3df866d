"""An autoencoder that a CPU can train and run, in the place of a Stable Diffusion VAE."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin


class Block(nn.Module):
    """Depthwise 3x3, then a pointwise MLP, added to the input: ConvNeXt's block (arXiv 2201.03545) with GroupNorm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dw = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.n = nn.GroupNorm(1, channels)
        self.a = nn.Conv2d(channels, 2 * channels, 1)
        self.b = nn.Conv2d(2 * channels, channels, 1)
        nn.init.zeros_(self.b.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = x + self.b(F.gelu(self.a(self.n(self.dw(x)))))
        return y


class PatchAutoencoder(ModelMixin, ConfigMixin):  # type: ignore[misc, no-any-unimported, unused-ignore]
    """8x8-patch autoencoder: image (B, 3, H, W) in [-1, 1] <-> latent (B, 16, H/8, W/8) of unit scale.

    All work is 1x1 and depthwise convolution at 1/8 resolution: a CPU trains it in minutes, where `AutoencoderKL`
    spends its time in full-resolution convolutions. It answers the calls that Stable Diffusion pipelines make of a VAE.
    """

    @register_to_config  # type: ignore[untyped-decorator, unused-ignore]
    def __init__(
        self,
        latent_channels: int = 16,
        channels: int = 256,
        encoder_blocks: int = 2,
        decoder_blocks: int = 5,
        patch_size: int = 8,
        in_channels: int = 3,
        block_out_channels: tuple[int, ...] = (256,) * 4,  # pipelines take the factor 8 from its length
        scaling_factor: float = 1.0,
        shift_factor: float | None = None,
        force_upcast: bool = False,
        sample_size: int = 128,
    ) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(in_channels, channels, patch_size, patch_size),
            *[Block(channels) for _ in range(encoder_blocks)],
            nn.Conv2d(channels, latent_channels, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(latent_channels, channels, 3, padding=1),
            *[Block(channels) for _ in range(decoder_blocks)],
            nn.Conv2d(channels, in_channels * patch_size**2, 1),
            nn.PixelShuffle(patch_size),
        )

    def encode(
        self, x: torch.Tensor, return_dict: bool = True
    ) -> AutoencoderKLOutput | tuple[DiagonalGaussianDistribution]:
        z = self.encoder(x)
        moments = torch.cat([z, torch.full_like(z, -30.0)], 1)  # no variance: the latent is the encoder's output
        posterior = DiagonalGaussianDistribution(moments, deterministic=True)
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def decode(
        self, z: torch.Tensor, return_dict: bool = True, generator: torch.Generator | None = None
    ) -> DecoderOutput | tuple[torch.Tensor]:
        x = self.decoder(z)
        return DecoderOutput(sample=x) if return_dict else (x,)
