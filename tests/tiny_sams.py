"""Segmenters of transformers' real classes, of random weights and a few thousand parameters, in the real format."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import (
    Sam2HieraDetConfig,
    Sam2ImageProcessor,
    Sam2Processor,
    Sam2VideoConfig,
    Sam2VideoModel,
    Sam2VisionConfig,
    Sam3ImageProcessor,
    Sam3TrackerConfig,
    Sam3TrackerModel,
    Sam3TrackerProcessor,
    Sam3VideoConfig,
    Sam3VideoModel,
    SamConfig,
    SamHQConfig,
    SamHQModel,
    SamHQProcessor,
    SamImageProcessor,
    SamModel,
    SamProcessor,
)

SIDE = 64  # px of the models' square; their patches have 16 px
DECODER = {"hidden_size": 32, "mlp_dim": 16, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
PROMPTS = {"hidden_size": 32, "image_size": SIDE, "patch_size": 16}


def _old(kind: type, config: type, processor: type, folder: Path) -> Any:
    vision = {"hidden_size": 32, "output_channels": 32, "num_hidden_layers": 3, "num_attention_heads": 2,
              "image_size": SIDE, "patch_size": 16, "mlp_dim": 16, "window_size": 2, "global_attn_indexes": [1],
              "num_pos_feats": 16}  # fmt: skip
    prompts = {**PROMPTS, "image_embedding_size": SIDE // 16}
    decoder = {**DECODER, **({"vit_dim": 32} if kind is SamHQModel else {})}
    model = kind(config(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder))
    look = SamImageProcessor(size={"longest_edge": SIDE}, pad_size={"height": SIDE, "width": SIDE})
    processor(look).save_pretrained(folder)
    return model


def sam(folder: Path) -> Any:
    return _old(SamModel, SamConfig, SamProcessor, folder)


def sam_hq(folder: Path) -> Any:
    return _old(SamHQModel, SamHQConfig, SamHQProcessor, folder)


def _sam2_parts() -> dict[str, Any]:
    backbone = Sam2HieraDetConfig(
        hidden_size=8, num_attention_heads=1, blocks_per_stage=[1, 1, 2, 1], embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 2, 2], window_size_per_stage=[4, 4, 4, 4], global_attention_blocks=[3],
        image_size=[SIDE, SIDE], window_positional_embedding_background_size=[4, 4],
    )  # fmt: skip
    vision = Sam2VisionConfig(
        backbone_config=backbone, backbone_channel_list=[64, 32, 16, 8], fpn_hidden_size=32,
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
    )  # fmt: skip
    return {"vision_config": vision, "prompt_encoder_config": PROMPTS, "mask_decoder_config": DECODER}


def _square(kind: type, folder: Path) -> None:
    kind(Sam2ImageProcessor(size={"height": SIDE, "width": SIDE})).save_pretrained(folder)


def sam2(folder: Path) -> Any:
    from transformers import Sam2Config, Sam2Model

    _square(Sam2Processor, folder)
    return Sam2Model(Sam2Config(**_sam2_parts()))


def sam2_video(folder: Path) -> Any:
    """As facebook/sam2.1-hiera-large has it: the weights of the model for videos."""
    _square(Sam2Processor, folder)
    config = Sam2VideoConfig(
        **_sam2_parts(), image_size=SIDE, memory_attention_hidden_size=32, memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=16, memory_encoder_hidden_size=32, memory_encoder_output_channels=8,
        mask_downsampler_embed_dim=32, memory_fuser_embed_dim=32, memory_fuser_num_layers=1,
        memory_fuser_intermediate_dim=16, memory_attention_rope_feat_sizes=[4, 4],
    )  # fmt: skip
    return Sam2VideoModel(config)


def _sam3_vision() -> dict[str, Any]:
    backbone = {"model_type": "sam3_vit_model", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
                "num_attention_heads": 2, "image_size": SIDE, "patch_size": 16, "window_size": 2,
                "global_attn_indexes": [1], "pretrain_image_size": 32}  # fmt: skip
    sizes = [[16, 16], [8, 8], [4, 4]]
    return {"model_type": "sam3_vision_model", "backbone_config": backbone, "fpn_hidden_size": 32,
            "backbone_feature_sizes": sizes}  # fmt: skip


def _sam3_look() -> Any:
    return Sam3ImageProcessor(size={"height": SIDE, "width": SIDE}, mask_size={"height": 16, "width": 16})


def sam3_tracker(folder: Path) -> Any:
    Sam3TrackerProcessor(_sam3_look()).save_pretrained(folder)
    config = Sam3TrackerConfig(vision_config=_sam3_vision(), prompt_encoder_config=PROMPTS, mask_decoder_config=DECODER)
    return Sam3TrackerModel(config)


def sam3_video(folder: Path) -> Any:
    """As facebook/sam3 has it: the detector of concepts and the tracker in one folder."""
    tracker = {
        "model_type": "sam3_tracker_video", "vision_config": _sam3_vision(), "prompt_encoder_config": PROMPTS,
        "mask_decoder_config": DECODER, "image_size": SIDE, "memory_attention_hidden_size": 32,
        "memory_attention_num_layers": 1, "memory_attention_feed_forward_hidden_size": 16,
        "memory_encoder_hidden_size": 32, "memory_encoder_output_channels": 8, "mask_downsampler_embed_dim": 32,
        "memory_fuser_embed_dim": 32, "memory_fuser_num_layers": 1, "memory_fuser_intermediate_dim": 16,
    }  # fmt: skip
    small = {"hidden_size": 32, "num_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    text = {"model_type": "clip_text_model", "vocab_size": 99, "hidden_size": 16, "intermediate_size": 16,
            "projection_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "max_position_embeddings": 32}  # fmt: skip
    detector = {
        "model_type": "sam3", "vision_config": _sam3_vision(), "text_config": text, "geometry_encoder_config": small,
        "detr_encoder_config": small, "detr_decoder_config": {**small, "num_queries": 5},
        "mask_decoder_config": {"hidden_size": 32, "num_attention_heads": 2},
    }  # fmt: skip
    Sam3TrackerProcessor(_sam3_look()).save_pretrained(folder)
    return Sam3VideoModel(Sam3VideoConfig(detector_config=detector, tracker_config=tracker))


def _edgetam_parts() -> dict[str, Any]:
    timm = {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3], "embed_dim": [8, 16, 24, 32],
            "depth": [1, 1, 1, 1]}  # fmt: skip
    vision = {
        "model_type": "edgetam_vision_model", "backbone_channel_list": [32, 24, 16, 8], "fpn_hidden_size": 32,
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        "backbone_config": {"model_type": "timm_wrapper", "architecture": "repvit_m1", "model_args": timm,
                            "num_classes": 2, "label_names": ["a", "b"]},
    }  # fmt: skip
    return {"vision_config": vision, "prompt_encoder_config": PROMPTS, "mask_decoder_config": DECODER}


def edgetam(folder: Path) -> Any:
    from transformers import EdgeTamConfig, EdgeTamModel

    _square(Sam2Processor, folder)
    return EdgeTamModel(EdgeTamConfig(**_edgetam_parts()))


def edgetam_video(folder: Path) -> Any:
    """As yonigozlan/EdgeTAM-hf has it."""
    from transformers import EdgeTamVideoConfig, EdgeTamVideoModel

    _square(Sam2Processor, folder)
    config = EdgeTamVideoConfig(
        **_edgetam_parts(), image_size=SIDE, memory_attention_hidden_size=32, memory_attention_num_layers=1,
        memory_attention_mlp_hidden_size=16, memory_encoder_hidden_size=32, memory_encoder_output_channels=8,
        mask_downsampler_embed_dim=32, memory_fuser_embed_dim=32, memory_fuser_num_layers=1,
        memory_fuser_intermediate_dim=16, memory_attention_rope_feat_sizes=[4, 4],
        memory_attention_rope_k_sizes=[4, 4], perceiver_resampler_hidden_size=8, perceiver_resampler_num_layers=1,
    )  # fmt: skip
    return EdgeTamVideoModel(config)


def save(name: str, folder: Path) -> Path:
    """One of the functions above, in a folder of its name: its processor, its settings and its weights, random but as
    large as trained ones, so that masks have shapes."""
    folder = folder / name
    folder.mkdir()
    torch.manual_seed(7)
    model = globals()[name](folder).eval()
    with torch.no_grad():
        for key, part in model.named_parameters():
            part.copy_(torch.randn(part.shape) * (0.45 if "timm" in key else 0.3))  # with 0.3, every picture is alike
    model.save_pretrained(folder)
    if name == "sam3_video":
        # `save_pretrained` gives a new Sam3VideoModel keys that no published checkpoint has: "tracker_model." twice.
        save_file(model.state_dict(), folder / "model.safetensors", {"format": "pt"})
    return folder
