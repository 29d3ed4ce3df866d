"""The autoencoder's training."""

import pytest
import torch

from synthgen.mini.autoencoder import PatchAutoencoder
from synthgen.mini.training import autoencoder


def test_unit_scale_changes_latents_only():
    torch.manual_seed(0)
    vae = PatchAutoencoder(channels=16, decoder_blocks=1)
    images = torch.rand(8, 3, 32, 32)
    before = vae.decoder(vae.encoder(images))
    autoencoder.unit_scale(vae, images)
    assert vae.encoder(images).std((0, 2, 3)).tolist() == pytest.approx([1.0] * 16, abs=1e-4)
    torch.testing.assert_close(vae.decoder(vae.encoder(images)), before, atol=1e-4, rtol=1e-4)
