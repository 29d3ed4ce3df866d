"""Models of SigLIP's, SigLIP 2's and MetaCLIP 2's real classes, of random weights, in the real format."""

from pathlib import Path
from string import ascii_lowercase
from typing import Any

import torch
import transformers

TOWER = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
PICTURES = {"size": {"height": 32, "width": 32}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
LENGTH = 64  # tokens of a text


def gemma_tokenizer(kind: Any) -> Any:
    """A tokenizer of letters. `kind`: `Siglip2Tokenizer` lower-cases, `GemmaTokenizer` does not."""
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *ascii_lowercase, *ascii_lowercase.upper()]
    return kind(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[])


def siglip(folder: Path) -> Any:
    """As google/siglip2-base-patch16-224 is, whose tokenizer knows two cases."""
    look = transformers.SiglipImageProcessor(**PICTURES)
    transformers.SiglipProcessor(look, gemma_tokenizer(transformers.GemmaTokenizer)).save_pretrained(folder)
    text = {**TOWER, "vocab_size": 60, "max_position_embeddings": LENGTH, "projection_size": 16}
    vision = {**TOWER, "image_size": 32, "patch_size": 8}
    return transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision))


def siglip2(folder: Path) -> Any:
    """As google/siglip2-base-patch16-naflex is."""
    look = transformers.Siglip2ImageProcessor()  # its defaults are those of its processor
    transformers.Siglip2Processor(look, gemma_tokenizer(transformers.Siglip2Tokenizer)).save_pretrained(folder)
    text = {**TOWER, "vocab_size": 60, "max_position_embeddings": LENGTH, "projection_size": 16}
    vision = {**TOWER, "patch_size": 16, "num_patches": 256}
    return transformers.Siglip2Model(transformers.Siglip2Config(text_config=text, vision_config=vision))


def metaclip_2(folder: Path) -> Any:
    special = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    tokenizer = transformers.XLMRobertaTokenizer(vocab=[*special, ("▁", -2.0), *((c, -3.0) for c in ascii_lowercase)])
    transformers.CLIPProcessor(
        transformers.CLIPImageProcessor(**PICTURES, do_center_crop=False), tokenizer
    ).save_pretrained(folder)
    text = {**TOWER, "vocab_size": 40, "max_position_embeddings": LENGTH, "eos_token_id": 2, "pad_token_id": 1,
            "bos_token_id": 0}  # fmt: skip
    vision = {**TOWER, "image_size": 32, "patch_size": 8}
    config = transformers.MetaClip2Config(text_config=text, vision_config=vision, projection_dim=8)
    return transformers.MetaClip2Model(config)


def save(name: str, folder: Path) -> Path:
    """One of the models above, in a folder of its name."""
    folder = folder / name
    folder.mkdir()
    torch.manual_seed(7)
    model = globals()[name](folder)
    with torch.no_grad():
        for part in model.parameters():
            part.copy_(torch.randn(part.shape) * 0.3)
        if name.startswith("siglip"):
            model.logit_scale.fill_(4.6)
            model.logit_bias.fill_(-12.0)
    model.save_pretrained(folder)
    return folder
