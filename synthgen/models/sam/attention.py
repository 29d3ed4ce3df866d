"""The attention of Segment Anything as plain products, which torch has fused kernels for.

In the image encoder, upstream writes down a table of all pairs of places to add what their distance counts for; at 1024
px such a table has 4096 x 4096 entries a head. But what is added depends on the difference in rows and on that in
columns, apart from each other (arXiv 2112.01526, section 4.1): with a query that also holds its product with every
row's and every column's vector, and a key that also says in which row and column it stands, it is part of the product
of the two.
"""

from __future__ import annotations

from typing import Any

import torch
from segment_anything.modeling.image_encoder import Attention, get_rel_pos
from segment_anything.modeling.transformer import Attention as CrossAttention
from torch import nn
from torch.nn.functional import one_hot, pad, scaled_dot_product_attention

ALIGNED = 8  # fused kernels on GPUs take widths of so many numbers


class FusedAttention(nn.Module):
    """The same function as a trained `Attention`, with its weights, for the size of image that it was made for."""

    rows: torch.Tensor
    columns: torch.Tensor
    places: torch.Tensor

    def __init__(self, official: Any) -> None:
        super().__init__()
        self.num_heads, self.scale = official.num_heads, official.scale
        self.qkv, self.proj = official.qkv, official.proj
        height, width = ((len(table) + 1) // 2 for table in (official.rel_pos_h, official.rel_pos_w))
        with torch.no_grad():
            self.register_buffer("rows", get_rel_pos(height, height, official.rel_pos_h).detach(), persistent=False)
            self.register_buffer("columns", get_rel_pos(width, width, official.rel_pos_w).detach(), persistent=False)
        y, x = torch.arange(height).repeat_interleave(width), torch.arange(width).repeat(height)
        places = torch.cat([one_hot(y, height), one_hot(x, width)], 1)
        rest = -(self.rows.shape[-1] + height + width) % ALIGNED
        self.register_buffer("places", pad(places, (0, rest)).to(self.rows), persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        batch, height, width, _ = tokens.shape
        qkv = self.qkv(tokens).view(batch, height * width, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, H * W, d)
        at = q.reshape(batch, self.num_heads, height, width, -1)
        down = torch.einsum("bnhwc,hkc->bnhwk", at, self.rows).flatten(2, 3)
        across = torch.einsum("bnhwc,wkc->bnhwk", at, self.columns).flatten(2, 3)
        own, padding = q.shape[-1], self.places.shape[-1] - height - width
        q = pad(torch.cat([q * self.scale, down, across], -1), (0, padding))
        k = torch.cat([k, self.places.expand(batch, self.num_heads, -1, -1)], -1)
        if q.device.type == "cpu" and q.dtype is not torch.float32:
            # On CPUs the fused kernel takes twice as long in bfloat16 as the products one by one.
            seen = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        else:  # it takes one width for all three
            seen = scaled_dot_product_attention(q, k, pad(v, (0, q.shape[-1] - own)), scale=1.0)[..., :own]
        answer: torch.Tensor = self.proj(seen.transpose(1, 2).reshape(batch, height, width, -1))
        return answer


class FusedCrossAttention(nn.Module):
    """The same function as a trained `Attention` of the mask decoder, with its weights."""

    def __init__(self, official: Any) -> None:
        super().__init__()
        self.num_heads = official.num_heads
        self.q_proj, self.k_proj, self.v_proj = official.q_proj, official.k_proj, official.v_proj
        self.out_proj = official.out_proj

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """(B, N, C), (B, M, C), (B, M, C) -> (B, N, C)."""
        heads = (
            projection(tokens).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for projection, tokens in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        )
        answer: torch.Tensor = self.out_proj(scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))
        return answer


def fuse(sam: Any) -> None:
    """Puts them in the place of every attention of a `Sam` whose weights have been loaded."""
    for block in sam.image_encoder.blocks:
        if isinstance(block.attn, Attention) and block.attn.use_rel_pos:
            block.attn = FusedAttention(block.attn)
    for module in list(sam.mask_decoder.modules()):
        for name, child in module.named_children():
            if isinstance(child, CrossAttention):
                setattr(module, name, FusedCrossAttention(child))
