"""Tiny detectors of the real classes with random weights, which tests save in the real formats."""

from pathlib import Path
from typing import Any

import torch
import transformers
from tiny import spread_scores

WORDS = ["a", "photo", "of", "cat", "kitten", "tom", "-", "hot", "dog", "fire", "truck", "lorry", "red", "green"]
SIDE = 64  # px of a tiny model's picture


def letters_tokenizer(most: int) -> Any:
    """Every letter is a token. The end of a text has the greatest id, at which OWL-ViT's text model pools."""
    letters = [*"abcdefghijklmnopqrstuvwxyz-."]
    tokens = ["!", *letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=[], pad_token="!", model_max_length=most)


def text_settings(tokenizer: Any, most: int) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 1,
        "num_attention_heads": 4, "max_position_embeddings": most, "projection_dim": 32, "pad_token_id": 0,
        "bos_token_id": len(tokenizer) - 2, "eos_token_id": len(tokenizer) - 1,
    }  # fmt: skip


def save_owlvit(folder: Path) -> Path:
    tokenizer = letters_tokenizer(40)
    vision = {
        "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "image_size": SIDE, "patch_size": 16,
    }  # fmt: skip
    text = {k: v for k, v in text_settings(tokenizer, 40).items() if k != "projection_dim"}
    torch.manual_seed(0)
    model = transformers.OwlViTForObjectDetection(
        transformers.OwlViTConfig(text_config=text, vision_config=vision, projection_dim=32)
    )
    spread_scores(model)
    model.save_pretrained(folder)
    images = transformers.OwlViTImageProcessor(size={"height": SIDE, "width": SIDE})
    transformers.OwlViTProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def save_grounding_dino(folder: Path, kind: str = "GroundingDino") -> Path:
    """`kind`: GroundingDino, or MMGroundingDino, of which LLMDet is one. Ids of delimiters are those of BERT."""
    tokens = [f"[unused{i}]" for i in range(1100)]
    places = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012, "?": 1029}
    for i, token in [*((i, t) for t, i in places.items()), *enumerate(WORDS, start=200)]:
        tokens[i] = token
    tokenizer = transformers.BertTokenizer(vocab={t: i for i, t in enumerate(tokens)}, model_max_length=512)
    backbone = transformers.SwinConfig(
        image_size=SIDE, embed_dim=12, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4,
        out_indices=[2, 3, 4],
    )  # fmt: skip
    text = transformers.BertConfig(
        vocab_size=1100, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    config = getattr(transformers, f"{kind}Config")(
        backbone_config=backbone, text_config=text, d_model=32, encoder_layers=1, decoder_layers=2,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, num_queries=25,
        max_text_len=32,
    )  # fmt: skip
    torch.manual_seed(0)
    getattr(transformers, f"{kind}ForObjectDetection")(config).save_pretrained(folder)
    images = transformers.GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    transformers.GroundingDinoProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def _sam3_settings(tokenizer: Any) -> dict[str, Any]:
    part = {"hidden_size": 32, "num_attention_heads": 4}
    layers = {"num_layers": 1, "intermediate_size": 37}
    backbone = {
        "model_type": "sam3_vit_model", "hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": SIDE, "patch_size": 8, "window_size": 4, "global_attn_indexes": [1],
        "pretrain_image_size": SIDE,
    }  # fmt: skip
    return {
        "vision_config": {
            "model_type": "sam3_vision_model", "backbone_config": backbone, "fpn_hidden_size": 32,
            "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        },
        "geometry_encoder_config": {**part, **layers},
        "detr_encoder_config": {**part, **layers},
        "detr_decoder_config": {**part, **layers, "num_queries": 12},
        "mask_decoder_config": part,
    }  # fmt: skip


def save_sam3(folder: Path, kind: str = "Sam3") -> Path:
    """`kind`: Sam3 or Sam3LiteText; or Sam3Video, whose folder, as facebook/sam3, holds a tracker too."""
    tokenizer = letters_tokenizer(32)
    settings = _sam3_settings(tokenizer)
    text = text_settings(tokenizer, 32)
    if kind == "Sam3LiteText":
        names = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "projection_dim")
        settings["text_config"] = {**{n: text[n] for n in names}, "num_hidden_layers": 3, "max_position_embeddings": 16}
    else:
        settings["text_config"] = {"model_type": "clip_text_model", **text}
    if kind == "Sam3Video":
        tracker = {
            "memory_attention_num_layers": 1, "memory_attention_feed_forward_hidden_size": 32,
            "memory_fuser_num_layers": 1, "memory_fuser_intermediate_dim": 32,
        }  # fmt: skip
        settings = {"detector_config": {"model_type": "sam3", **settings}, "tracker_config": tracker}
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**settings))
    with torch.no_grad():  # as they are initialised, boxes and scores are nearly equal
        for name, weights in model.named_parameters():
            if "query_embed" in name:
                weights.mul_(50)
            elif weights.dim() > 1 and "embed" not in name:
                weights.mul_(3)
    model.save_pretrained(folder)
    images = transformers.Sam3ImageProcessor(size={"height": SIDE, "width": SIDE})
    transformers.Sam3Processor(images, tokenizer).save_pretrained(folder)
    return folder
