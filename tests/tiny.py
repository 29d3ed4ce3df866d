"""Tiny models of the real classes with random weights, which tests save in the real formats."""

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

SIDE = 32
LENGTH = 24  # tokens of a prompt: each is a letter, and two are its ends
LETTERS = string.ascii_lowercase + ","


def clip_tokenizer():
    vocab = {"<|startoftext|>": 0, "<|endoftext|>": 1}
    for letter in LETTERS:
        vocab |= {letter: len(vocab), letter + "</w>": len(vocab) + 1}
    return transformers.CLIPTokenizer(vocab=vocab, merges=[], model_max_length=LENGTH)


def t5_tokenizer():
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((letter, -3.0) for letter in LETTERS)]
    return transformers.T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=LENGTH)


def clip_text(kind: Any = transformers.CLIPTextModel):
    config = transformers.CLIPTextConfig(
        vocab_size=2 + 2 * len(LETTERS), hidden_size=32, intermediate_size=37, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=LENGTH, projection_dim=32, bos_token_id=0, eos_token_id=1,
        pad_token_id=1,
    )  # fmt: skip
    return kind(config).eval()


def t5_text():
    config = transformers.T5Config(
        vocab_size=4 + len(LETTERS), d_model=32, d_kv=8, d_ff=37, num_layers=1, num_heads=4, is_encoder_decoder=False,
        use_cache=False,
    )  # fmt: skip
    return transformers.T5EncoderModel(config).eval()


def vae(latent_channels: int = 4, **options: Any):
    return diffusers.AutoencoderKL(
        block_out_channels=(4, 8), norm_num_groups=2, latent_channels=latent_channels, sample_size=SIDE,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, **options,
    ).eval()  # fmt: skip


def unet(cross_attention_dim: int = 32, **options: Any):
    return diffusers.UNet2DConditionModel(
        block_out_channels=(8, 16), norm_num_groups=2, layers_per_block=1, sample_size=SIDE // 2, in_channels=4,
        out_channels=4, cross_attention_dim=cross_attention_dim, attention_head_dim=(2, 4),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        **options,
    ).eval()  # fmt: skip


def plain_parts(scheduler: Any = None, **options: Any) -> dict[str, Any]:
    scheduler = scheduler or diffusers.PNDMScheduler(beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1)
    return {
        "vae": vae(), "unet": unet(**options), "text_encoder": clip_text(), "tokenizer": clip_tokenizer(),
        "scheduler": scheduler, "safety_checker": None, "feature_extractor": None,
    }  # fmt: skip


def stable_diffusion():
    return diffusers.StableDiffusionPipeline(**plain_parts(), requires_safety_checker=False)


def stable_diffusion_xl():
    scheduler = diffusers.EulerDiscreteScheduler(
        beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1
    )
    denoiser = unet(
        64, addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=80,
        transformer_layers_per_block=(1, 2), use_linear_projection=True,
    )  # fmt: skip
    return diffusers.StableDiffusionXLPipeline(
        vae(), clip_text(), clip_text(transformers.CLIPTextModelWithProjection), clip_tokenizer(), clip_tokenizer(),
        denoiser, scheduler, add_watermarker=False,
    )  # fmt: skip


def stable_diffusion_3(with_t5: bool):
    denoiser = diffusers.SD3Transformer2DModel(
        sample_size=SIDE // 2, patch_size=1, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=8,
        num_attention_heads=4, joint_attention_dim=32 if with_t5 else 64, caption_projection_dim=32,
        pooled_projection_dim=64,
    )  # fmt: skip
    first, second = (clip_text(transformers.CLIPTextModelWithProjection) for _ in range(2))
    return diffusers.StableDiffusion3Pipeline(
        denoiser.eval(), diffusers.FlowMatchEulerDiscreteScheduler(), vae(shift_factor=0.06), first, clip_tokenizer(),
        second, clip_tokenizer(), t5_text() if with_t5 else None, t5_tokenizer() if with_t5 else None,
    )  # fmt: skip


def flux(guidance_embeds: bool = True):
    denoiser = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8), guidance_embeds=guidance_embeds,
    )  # fmt: skip
    return diffusers.FluxPipeline(
        diffusers.FlowMatchEulerDiscreteScheduler(), vae(1, shift_factor=0.06), clip_text(), clip_tokenizer(),
        t5_text(), t5_tokenizer(), denoiser.eval(),
    )  # fmt: skip


def latent_consistency():
    return diffusers.LatentConsistencyModelPipeline(
        **plain_parts(diffusers.LCMScheduler(), time_cond_proj_dim=8), requires_safety_checker=False
    )


MAKERS: dict[str, Callable[[], Any]] = {
    "sd": stable_diffusion,
    "sdxl": stable_diffusion_xl,
    "sd3": lambda: stable_diffusion_3(with_t5=True),
    "sd3_without_t5": lambda: stable_diffusion_3(with_t5=False),
    "flux": flux,
    "lcm": latent_consistency,
}


def spread_scores(owl: Any) -> None:
    """As an OWL-ViT or OWLv2 is initialised, every score is 0.5 or 1 and every box is flat."""
    with torch.no_grad():
        owl.class_head.logit_scale.bias.fill_(10.0)
        owl.class_head.logit_scale.weight.zero_()
        owl.class_head.logit_shift.weight.mul_(0.01)
        owl.box_head.dense2.weight.mul_(0.01)
        owl.box_head.dense2.bias.zero_()


def save_owlv2(folder: Path) -> Path:
    """A small random OWLv2 with the real processor; its tokenizer has characters and whole words."""
    letters = [*"abcdefghijklmnopqrstuvwxyz-."]
    tokens = ["!", *letters, *(f"{letter}</w>" for letter in letters)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]  # OWLv2 pools at the greatest id: the end of text
    tokenizer = transformers.CLIPTokenizer(
        vocab={t: i for i, t in enumerate(tokens)}, merges=[], pad_token="!", model_max_length=40
    )
    config = transformers.Owlv2Config(
        text_config={
            "vocab_size": len(tokens),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 40,
            "bos_token_id": len(tokens) - 2,
            "eos_token_id": len(tokens) - 1,
        },
        vision_config={
            "hidden_size": 48,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 64,
            "patch_size": 16,
        },
        projection_dim=32,
    )
    torch.manual_seed(0)
    model = transformers.Owlv2ForObjectDetection(config)
    spread_scores(model)
    model.save_pretrained(folder)
    transformers.Owlv2Processor(
        transformers.Owlv2ImageProcessor(size={"height": 64, "width": 64}), tokenizer
    ).save_pretrained(folder)
    return folder


def save_clip(folder: Path) -> None:
    """A CLIPModel of random weights with its processor; its words are those of composed scenes, others are unknown."""
    from transformers import CLIPImageProcessor, CLIPProcessor

    from synthgen.mini.training import clip, text

    shape = clip.Shape(pixels=32, patch=8, width=16, layers=2, heads=2, text=16, text_layers=1, projection=8)
    clip.build(shape)["clip"].save_pretrained(folder)
    look = CLIPImageProcessor(
        size={"height": 32, "width": 32}, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    CLIPProcessor(look, text.word_tokenizer()).save_pretrained(folder)
