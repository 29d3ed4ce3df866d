"""Modular pipelines."""

import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import tiny
import torch
import transformers
from tokenizers import pre_tokenizers

from zoo.base import Animal
from zoo.language import qwen3, qwen_tokenizer
from zoo.latent import excited, fixed, qwen_vae

SIDE = 32
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
           "<|video_pad|>")  # fmt: skip
# Every byte is a token. The template leaves out what the system says, which would be thousands of tokens, and ends with
# the user's last letter, on which a small random model's answer depends most.
VOCABULARY = {token: i for i, token in enumerate([*sorted(pre_tokenizers.ByteLevel.alphabet()), *SPECIAL])}
TEMPLATE = (
    "{% for message in messages if message['role'] != 'system' %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %}{% endfor %}"
)
VISION = {"depth": 1, "hidden_size": 8, "intermediate_size": 8, "num_heads": 1, "out_hidden_size": 8, "patch_size": 4,
          "num_position_embeddings": 16}  # fmt: skip
TOKENS = {"image_token_id": VOCABULARY["<|image_pad|>"], "video_token_id": VOCABULARY["<|video_pad|>"],
          "vision_start_token_id": VOCABULARY["<|vision_start|>"],
          "vision_end_token_id": VOCABULARY["<|vision_end|>"]}  # fmt: skip
TEXT = {"vocab_size": len(VOCABULARY), "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 8}  # fmt: skip


def tokenizer():
    return transformers.Qwen2Tokenizer(vocab=VOCABULARY, merges=[], chat_template=TEMPLATE)


def processor():
    looks = transformers.Qwen2VLImageProcessor(), tokenizer(), transformers.Qwen3VLVideoProcessor()
    return transformers.Qwen3VLProcessor(*looks, chat_template=TEMPLATE)


def text_encoder(layers: int, kind: Any):
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
    text = {**TEXT, "num_hidden_layers": layers, "max_position_embeddings": 512, "rope_parameters": rope}
    config = transformers.Qwen3VLConfig(
        text_config=text, vision_config={**VISION, "deepstack_visual_indexes": [0]}, **TOKENS
    )
    return kind(config).eval()


def prompt_upsampler():
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 0], "partial_rotary_factor": 0.5}
    text = {**TEXT, "num_hidden_layers": 2, "linear_key_head_dim": 4, "linear_value_head_dim": 4,
            "linear_num_key_heads": 1, "linear_num_value_heads": 2, "rope_parameters": rope,
            "layer_types": ["linear_attention", "full_attention"],
            "eos_token_id": VOCABULARY["<|im_end|>"]}  # fmt: skip
    config = transformers.Qwen3_5Config(text_config=text, vision_config=VISION, **TOKENS)
    return transformers.Qwen3_5ForConditionalGeneration(config).eval()


def vae():
    return diffusers.AutoencoderKLFlux2(
        block_out_channels=(4, 8), down_block_types=("DownEncoderBlock2D",) * 2, layers_per_block=1, latent_channels=2,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=2, sample_size=SIDE, mid_block_add_attention=False,
    ).eval()  # fmt: skip


def louder(model: Any, factor: float):
    """Greater weights, so that words change pixels."""
    with torch.no_grad():
        for weights in model.parameters():
            weights *= factor
    return model


def flux3(distilled: bool):
    blocks = diffusers.Flux3DistilledAutoBlocks() if distilled else diffusers.Flux3AutoBlocks()
    denoiser = diffusers.Flux3Transformer2DModel(
        in_channels=8, cond_in_channels=8, num_layers=1, num_single_layers=1, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=64, timestep_channels=8, axes_dims_rope=(2, 2, 2, 2),
        flow_map=distilled,
    )  # fmt: skip
    pipeline = blocks.init_pipeline()
    pipeline.update_components(
        prompt_upsampler=louder(prompt_upsampler(), 6), prompt_upsampler_processor=processor(), tokenizer=processor(),
        text_encoder=text_encoder(32, transformers.Qwen3VLForConditionalGeneration), vae=vae(),
        transformer=louder(denoiser.eval(), 3),
    )  # fmt: skip
    return pipeline


def ideogram4_parts() -> dict[str, Any]:
    def denoiser():
        return diffusers.Ideogram4Transformer2DModel(
            in_channels=8, num_layers=1, attention_head_dim=8, num_attention_heads=2, intermediate_size=16,
            adaln_dim=8, llm_features_dim=13 * 8, mrope_section=(2, 1, 1),
        ).eval()  # fmt: skip

    return {
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(), "vae": vae(), "tokenizer": tokenizer(),
        "text_encoder": text_encoder(36, transformers.Qwen3VLModel), "transformer": louder(denoiser(), 3),
        "unconditional_transformer": louder(denoiser(), 3),
    }  # fmt: skip


def ideogram4():
    pipeline = diffusers.Ideogram4AutoBlocks().init_pipeline()
    pipeline.update_components(**ideogram4_parts())
    return pipeline


def anima():
    denoiser = diffusers.CosmosTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=1, mlp_ratio=1.0,
        text_embed_dim=16, adaln_lora_dim=4, max_size=(4, 16, 16), patch_size=(1, 2, 2), extra_pos_embed_type=None,
    )  # fmt: skip
    conditioner = diffusers.AnimaTextConditioner(
        source_dim=16, target_dim=16, model_dim=16, num_layers=1, num_attention_heads=2, target_vocab_size=64,
    )  # fmt: skip
    pipeline = diffusers.AnimaAutoBlocks().init_pipeline()
    pipeline.update_components(
        text_encoder=qwen3(2).model, tokenizer=qwen_tokenizer(), t5_tokenizer=tiny.t5_tokenizer(), vae=qwen_vae(),
        text_conditioner=excited(conditioner), transformer=excited(denoiser), scheduler=fixed(),
    )  # fmt: skip
    return pipeline


class Modular(Animal):
    """A modular pipeline. `guidance_scale` is its guider's."""

    def save(self, folder: Path) -> Path:
        torch.manual_seed(0)
        self.make().save_pretrained(str(folder), overwrite_modular_index=True)
        return folder

    def load(self, folder: Path) -> Callable[..., Any]:
        pipeline = diffusers.ModularPipeline.from_pretrained(str(folder))
        pipeline.load_components(local_files_only=True)
        if "guider" in pipeline.component_names:
            pipeline.update_components(guider=diffusers.ClassifierFreeGuidance(guidance_scale=self.guidance_scale))

        def call(**options: Any) -> Any:
            with warnings.catch_warnings():  # the pipeline calls deprecated functions of transformers
                warnings.simplefilter("ignore", FutureWarning)
                return SimpleNamespace(images=pipeline(output="images", **options))

        return call


UPSAMPLED = {"max_new_tokens": 6}
ZOO = {
    "flux3": Modular(
        "Flux3ModularPipeline", lambda: flux3(distilled=False), call=UPSAMPLED, options={"call_options": UPSAMPLED}
    ),
    "flux3_distilled": Modular(
        "Flux3DistilledModularPipeline", lambda: flux3(distilled=True), guidance_scale=None, call=UPSAMPLED,
        options={"call_options": UPSAMPLED},
    ),
    "anima": Modular("AnimaModularPipeline", anima, call={}),
    "ideogram4_modular": Modular(
        "Ideogram4ModularPipeline", ideogram4, call={"guidance_schedule": [4.0] * 2, "max_sequence_length": 256},
        options={"call_options": {"max_sequence_length": 256}},
    ),
}  # fmt: skip
