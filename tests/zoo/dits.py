"""Diffusion transformers since 2024: Sana, AuraFlow, Lumina, CogView, Chroma, PRX, Z-Image, Kandinsky 5 and others."""

from typing import Any

import diffusers
import torch
import transformers
from tiny import clip_tokenizer, t5_text, t5_tokenizer, vae
from transformers.models.t5gemma.modeling_t5gemma import T5GemmaEncoder

from zoo.base import Animal
from zoo.texts import byte_tokenizer, decoder_text, gemma_tokenizer


def flow(**options: Any):
    return diffusers.FlowMatchEulerDiscreteScheduler(**options)


def deep_vae(latent_channels: int = 4, **options: Any):
    """An autoencoder that divides sides by eight, for pipelines that take this factor for granted."""
    return diffusers.AutoencoderKL(
        block_out_channels=(2,) * 4, norm_num_groups=2, layers_per_block=0, latent_channels=latent_channels,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        mid_block_add_attention=False, **options,
    ).eval()  # fmt: skip


def lively(denoiser: Any, gain: float = 1.5):
    """The denoiser with weights of which a prompt reaches the pixels: those of an initialisation are small or 0."""
    for name, weight in denoiser.named_parameters():
        if name.endswith("weight") and weight.ndim > 1:
            torch.nn.init.normal_(weight, std=gain / weight[0].numel() ** 0.5)
    return denoiser.eval()


# Sana


def dc_vae(levels: int):
    """Sana's kind of autoencoder. Sides are halved between levels."""
    blocks = ("ResBlock",) * (levels - 1) + ("EfficientViTBlock",)
    widths, scales, once = (8,) * levels, ((),) * (levels - 1) + ((5,),), (1,) * levels
    return diffusers.AutoencoderDC(
        latent_channels=4, attention_head_dim=2, encoder_block_types=blocks, decoder_block_types=blocks,
        encoder_block_out_channels=widths, decoder_block_out_channels=widths, encoder_qkv_multiscales=scales,
        decoder_qkv_multiscales=scales, encoder_layers_per_block=once, decoder_layers_per_block=once,
        downsample_block_type="conv", upsample_block_type="interpolate", scaling_factor=0.41407,
    ).eval()  # fmt: skip


def sana_parts(scheduler: Any, levels: int = 2, **options: Any) -> dict[str, Any]:
    shape = {"sample_size": 32, **options}
    denoiser = diffusers.SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_layers=2, num_attention_heads=2, attention_head_dim=4,
        num_cross_attention_heads=2, cross_attention_head_dim=4, cross_attention_dim=8, caption_channels=16, **shape,
    )  # fmt: skip
    return {
        "tokenizer": gemma_tokenizer(), "text_encoder": decoder_text(transformers.Gemma2Model, num_hidden_layers=1),
        "vae": dc_vae(levels),
        "transformer": lively(denoiser), "scheduler": scheduler,
    }  # fmt: skip


def sana():
    return diffusers.SanaPipeline(**sana_parts(flow(shift=3.0)))


def sana_as_published():
    """A model for 512 px, whose latents stand for 32 px a side, with the scheduler of published folders."""
    scheduler = diffusers.DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
    )
    return diffusers.SanaPipeline(**sana_parts(scheduler, levels=6, sample_size=16))


def sana_pag():
    return diffusers.SanaPAGPipeline(**sana_parts(flow(shift=3.0)), pag_applied_layers="transformer_blocks.0")


def sana_sprint():
    return diffusers.SanaSprintPipeline(
        **sana_parts(diffusers.SCMScheduler(), guidance_embeds=True, qk_norm="rms_norm_across_heads")
    )


# Others


def aura_flow():
    denoiser = diffusers.AuraFlowTransformer2DModel(
        sample_size=16, patch_size=2, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=1, attention_head_dim=8,
        num_attention_heads=4, joint_attention_dim=32, caption_projection_dim=32, pos_embed_max_size=256,
    )  # fmt: skip
    config = transformers.UMT5Config(vocab_size=40, d_model=32, d_kv=8, d_ff=37, num_layers=1, num_heads=4)
    return diffusers.AuraFlowPipeline(
        t5_tokenizer(), transformers.UMT5EncoderModel(config).eval(), vae(), lively(denoiser), flow(shift=1.73)
    )


def lumina():
    denoiser = diffusers.LuminaNextDiT2DModel(
        sample_size=8, patch_size=2, in_channels=4, hidden_size=24, num_layers=2, num_attention_heads=3,
        num_kv_heads=1, multiple_of=16, ffn_dim_multiplier=None, norm_eps=1e-5, learn_sigma=True, qk_norm=True,
        cross_attention_dim=16, scaling_factor=1.0,
    )  # fmt: skip
    return diffusers.LuminaPipeline(
        lively(denoiser), flow(), deep_vae(), decoder_text(transformers.GemmaModel), gemma_tokenizer()
    )


def lumina_2():
    denoiser = diffusers.Lumina2Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, hidden_size=24, num_layers=2, num_refiner_layers=1,
        num_attention_heads=3, num_kv_heads=1, multiple_of=2, axes_dim_rope=(4, 2, 2), axes_lens=(512, 64, 64),
        cap_feat_dim=16,
    )  # fmt: skip
    return diffusers.Lumina2Pipeline(
        lively(denoiser), flow(shift=6.0), deep_vae(shift_factor=0.1159), decoder_text(transformers.Gemma2Model),
        gemma_tokenizer(),
    )  # fmt: skip


def cogview_3_plus():
    denoiser = diffusers.CogView3PlusTransformer2DModel(
        patch_size=2, in_channels=4, num_layers=1, attention_head_dim=4, num_attention_heads=4, out_channels=4,
        text_embed_dim=32, time_embed_dim=8, condition_dim=4, pos_embed_max_size=16, sample_size=16,
    )  # fmt: skip
    scheduler = diffusers.CogVideoXDDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction")
    return diffusers.CogView3PlusPipeline(t5_tokenizer(), t5_text(), vae(), lively(denoiser), scheduler)


def cogview_4():
    denoiser = diffusers.CogView4Transformer2DModel(
        patch_size=2, in_channels=4, num_layers=2, attention_head_dim=4, num_attention_heads=4, out_channels=4,
        text_embed_dim=16, time_embed_dim=8, condition_dim=4, sample_size=16,
    )  # fmt: skip
    tokenizer = byte_tokenizer(transformers.PreTrainedTokenizerFast, begin=("[gMASK]", "<sop>"), padding_side="left")
    scheduler = flow(
        base_shift=0.25, max_shift=0.75, base_image_seq_len=256, use_dynamic_shifting=True, time_shift_type="linear"
    )
    return diffusers.CogView4Pipeline(
        tokenizer, decoder_text(transformers.GlmModel), vae(), lively(denoiser), scheduler
    )


def chroma():
    denoiser = diffusers.ChromaTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, axes_dims_rope=(4, 4, 8), approximator_num_channels=64, approximator_hidden_dim=32,
        approximator_layers=1,
    )  # fmt: skip
    return diffusers.ChromaPipeline(flow(), vae(shift_factor=0.06), t5_text(), t5_tokenizer(), lively(denoiser))


def bria():
    denoiser = diffusers.BriaTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=32, axes_dims_rope=[0, 4, 4],
    )  # fmt: skip
    return diffusers.BriaPipeline(
        lively(denoiser), flow(use_dynamic_shifting=True), vae(shift_factor=0.0), t5_text(), t5_tokenizer()
    )


def ovis():
    denoiser = diffusers.OvisImageTransformer2DModel(
        patch_size=1, in_channels=16, out_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=16, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    return diffusers.OvisImagePipeline(
        flow(use_dynamic_shifting=True), vae(shift_factor=0.1159), decoder_text(), byte_tokenizer(), lively(denoiser)
    )


def prx():
    denoiser = diffusers.PRXTransformer2DModel(
        patch_size=1, in_channels=4, context_in_dim=16, hidden_size=16, mlp_ratio=2.0, num_heads=2, depth=1,
        axes_dim=[4, 4],
    )  # fmt: skip
    module = {
        "vocab_size": 300, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8,
    }  # fmt: skip
    config = transformers.T5GemmaConfig(encoder=module, decoder=module, is_encoder_decoder=False, vocab_size=300)
    encoder = T5GemmaEncoder(config.encoder).eval()
    encoder.config = config  # as in published folders: diffusers takes its `encoder`
    return diffusers.PRXPipeline(
        lively(denoiser),
        flow(shift=3.0),
        encoder,
        gemma_tokenizer(model_max_length=64),
        vae(shift_factor=0.1159),
        default_sample_size=512,
    )


def prx_pixel():
    denoiser = diffusers.PRXTransformer2DModel(
        patch_size=4, in_channels=3, context_in_dim=16, hidden_size=16, mlp_ratio=2.0, num_heads=2, depth=1,
        axes_dim=[4, 4], bottleneck_size=8, resolution_embeds=True,
    )  # fmt: skip
    return diffusers.PRXPixelPipeline(
        lively(denoiser), flow(shift=3.0), decoder_text(), byte_tokenizer(), prompt_max_tokens=64
    )


def z_image_denoiser(**options: Any):
    denoiser = diffusers.ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=16,
        axes_dims=[8, 4, 4], axes_lens=[256, 32, 32], **options,
    )  # fmt: skip
    return lively(denoiser)


def z_image():
    return diffusers.ZImagePipeline(
        flow(shift=3.0), vae(shift_factor=0.1159), decoder_text(), byte_tokenizer(), z_image_denoiser()
    )


def z_image_omni():
    vision = transformers.Siglip2VisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_patches=16, patch_size=4
    )
    return diffusers.ZImageOmniPipeline(
        flow(shift=3.0), vae(shift_factor=0.1159), decoder_text(), byte_tokenizer(),
        z_image_denoiser(siglip_feat_dim=16), transformers.Siglip2VisionModel(vision).eval(),
        transformers.Siglip2ImageProcessor(patch_size=4),
    )  # fmt: skip


def kandinsky_5():
    marks = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    tokenizer = byte_tokenizer(marks=marks)
    processor = transformers.Qwen2VLProcessor(
        transformers.Qwen2VLImageProcessor(), tokenizer, transformers.Qwen2VLVideoProcessor()
    )
    text = {
        "vocab_size": 300, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": 0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]},
    }  # fmt: skip
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    start, end, image, video = (tokenizer.convert_tokens_to_ids(mark) for mark in marks)
    config = transformers.Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, vision_start_token_id=start, vision_end_token_id=end,
        image_token_id=image, video_token_id=video,
    )  # fmt: skip
    denoiser = diffusers.Kandinsky5Transformer3DModel(
        in_visual_dim=4, in_text_dim=16, in_text_dim2=32, time_dim=16, out_visual_dim=4, model_dim=16, ff_dim=16,
        num_text_blocks=1, num_visual_blocks=1, axes_dims=(4, 6, 6),
    )  # fmt: skip
    return diffusers.Kandinsky5T2IPipeline(
        lively(denoiser), deep_vae(), transformers.Qwen2_5_VLForConditionalGeneration(config).eval(), processor,
        long_clip_text(transformers.CLIPTextModel), clip_tokenizer(), flow(shift=3.0),
    )  # fmt: skip


def long_clip_text(kind: Any = transformers.CLIPTextModelWithProjection):
    """For pipelines that pad to 77 or 128 tokens whatever the tokenizer says."""
    config = transformers.CLIPTextConfig(
        vocab_size=60, hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=248, projection_dim=32, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    return kind(config).eval()


def hidream():
    denoiser = diffusers.HiDreamImageTransformer2DModel(
        patch_size=8, in_channels=4, out_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=8,
        num_attention_heads=4, caption_channels=[32, 16], text_emb_dim=64, num_routed_experts=4,
        num_activated_experts=2, axes_dims_rope=(4, 2, 2), max_resolution=(128, 128), llama_layers=[0, 1],
    )  # fmt: skip
    autoencoder = diffusers.AutoencoderKL(
        block_out_channels=(8,),
        norm_num_groups=2,
        latent_channels=4,
        sample_size=128,
        shift_factor=0.1159,
        mid_block_add_attention=False,
    ).eval()
    llama = byte_tokenizer(transformers.PreTrainedTokenizerFast)
    return diffusers.HiDreamImagePipeline(
        flow(), autoencoder, long_clip_text(), clip_tokenizer(), long_clip_text(), clip_tokenizer(), t5_text(),
        t5_tokenizer(), decoder_text(transformers.LlamaForCausalLM), llama, lively(denoiser),
    )  # fmt: skip


# Sana and PRX make a size of their own otherwise, and resize the picture; Sana puts long instructions before a prompt.
UNBINNED = {"use_resolution_binning": False}
SHORT = {"max_sequence_length": 64}
SANA = {**UNBINNED, **SHORT, "complex_human_instruction": ["User Prompt: "]}


def told(name: str, make: Any, options: dict[str, Any], side: int = 32) -> Animal:
    """A model that is called with further arguments."""
    return Animal(name, make, side, call={"guidance_scale": 4.0, **options}, options={"call_options": options})


ZOO = {
    "sana": told("SanaPipeline", sana, SANA),
    "sana_as_published": Animal("SanaPipeline", sana_as_published, 72),
    "sana_pag": told("SanaPAGPipeline", sana_pag, SANA),
    "sana_sprint": told("SanaSprintPipeline", sana_sprint, SANA),
    "aura_flow": told("AuraFlowPipeline", aura_flow, SHORT),
    "lumina": Animal("LuminaPipeline", lumina, 64),
    "lumina_2": Animal("Lumina2Pipeline", lumina_2, 64),
    "cogview_3_plus": Animal("CogView3PlusPipeline", cogview_3_plus),
    "cogview_4": Animal("CogView4Pipeline", cogview_4),
    "chroma": told("ChromaPipeline", chroma, SHORT),
    "bria": Animal("BriaPipeline", bria),
    "ovis": told("OvisImagePipeline", ovis, {"max_sequence_length": 192}),
    "prx": told("PRXPipeline", prx, UNBINNED),
    "prx_pixel": told("PRXPixelPipeline", prx_pixel, UNBINNED),
    "z_image": told("ZImagePipeline", z_image, {"max_sequence_length": 128}),
    "z_image_omni": told("ZImageOmniPipeline", z_image_omni, {"max_sequence_length": 128}),
    "kandinsky_5": Animal("Kandinsky5T2IPipeline", kandinsky_5, 1024),
    "hidream": Animal("HiDreamImagePipeline", hidream, 128),
}
