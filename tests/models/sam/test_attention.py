"""Segment Anything's attention as products, against upstream's own."""

import copy
from types import SimpleNamespace

import pytest
import torch
from segment_anything.modeling.image_encoder import Attention, ImageEncoderViT
from segment_anything.modeling.transformer import TwoWayTransformer
from torch import nn

from synthgen.models.sam.attention import ALIGNED, FusedAttention, FusedCrossAttention, fuse


def official(dim: int, heads: int, size: tuple[int, int]) -> Attention:
    torch.manual_seed(0)
    attention = Attention(dim, num_heads=heads, use_rel_pos=True, input_size=size)
    with torch.no_grad():  # they begin as zeros
        attention.rel_pos_h.normal_()
        attention.rel_pos_w.normal_()
    return attention


@pytest.mark.parametrize(
    ("dim", "heads", "size"),
    [(16, 2, (4, 4)), (16, 2, (3, 7)), (12, 3, (7, 2)), (64, 1, (14, 14)), (32, 4, (1, 1)), (160, 2, (9, 9))],
)
def test_it_is_the_same_function(dim: int, heads: int, size: tuple[int, int]) -> None:
    theirs = official(dim, heads, size)
    ours = FusedAttention(theirs)
    tokens = torch.randn(3, *size, dim)
    with torch.inference_mode():
        torch.testing.assert_close(ours(tokens), theirs(tokens), rtol=1e-5, atol=1e-5)


def test_it_is_as_near_in_bfloat16_as_upstream_s() -> None:
    exact = official(32, 2, (5, 6))
    tokens = torch.randn(2, 5, 6, 32)
    with torch.inference_mode():
        wanted = exact(tokens)
        half = copy.deepcopy(exact).bfloat16()
        theirs, ours = (module(tokens.bfloat16()).float() for module in (half, FusedAttention(half)))
    off = [float((found - wanted).abs().max()) for found in (theirs, ours)]
    assert 0 < off[1] < 2 * off[0] < 0.2


def test_positions_count() -> None:
    """So that the test before can fail."""
    theirs = official(16, 2, (4, 4))
    without = copy.deepcopy(theirs)
    without.use_rel_pos = False
    tokens = torch.randn(1, 4, 4, 16)
    with torch.inference_mode():
        assert (theirs(tokens) - without(tokens)).abs().max() > 0.1


@pytest.mark.parametrize("size", [(14, 14), (64, 64)])
def test_kernels_are_given_widths_that_they_take(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]) -> None:
    """Those of vit_h, in a window and over the whole image: all of one width, of 256 numbers at most."""
    seen = []

    def fused(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: float) -> torch.Tensor:
        seen.append((q.shape[-1], k.shape[-1], v.shape[-1], options))
        return v

    monkeypatch.setattr("synthgen.models.sam.attention.scaled_dot_product_attention", fused)
    with torch.inference_mode():
        FusedAttention(official(80, 1, size))(torch.randn(1, *size, 80))
    ((q, k, v, options),) = seen
    assert q == k == v <= 256 and q % ALIGNED == 0 and options == {"scale": 1.0}


def test_all_blocks_of_an_encoder() -> None:
    torch.manual_seed(0)
    encoder = ImageEncoderViT(
        img_size=32, patch_size=4, embed_dim=16, depth=3, num_heads=2, out_chans=8, qkv_bias=True, use_rel_pos=True,
        global_attn_indexes=(1,), window_size=3,
    )  # fmt: skip
    with torch.no_grad():
        for name, table in encoder.named_parameters():
            if "rel_pos" in name:
                table.normal_()
    theirs = copy.deepcopy(encoder)
    fuse(SimpleNamespace(image_encoder=encoder, mask_decoder=nn.Identity()))
    assert [type(block.attn) for block in encoder.blocks] == [FusedAttention] * 3
    image = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(encoder(image), theirs(image), rtol=1e-4, atol=1e-4)


def test_a_whole_decoder() -> None:
    torch.manual_seed(0)
    transformer = TwoWayTransformer(depth=2, embedding_dim=32, mlp_dim=64, num_heads=4)
    theirs = copy.deepcopy(transformer)
    fuse(SimpleNamespace(image_encoder=SimpleNamespace(blocks=[]), mask_decoder=nn.Sequential(transformer)))
    assert sum(isinstance(module, FusedCrossAttention) for module in transformer.modules()) == 7
    image, position, points = torch.randn(3, 32, 5, 6), torch.randn(3, 32, 5, 6), torch.randn(3, 7, 32)
    with torch.inference_mode():
        for ours, wanted in zip(transformer(image, position, points), theirs(image, position, points), strict=True):
            torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-5)
