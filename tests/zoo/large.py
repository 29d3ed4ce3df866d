"""The large models that other language models condition: FLUX.2, FLUX.1 Kontext, ERNIE-Image, GLM-Image, FIBO,
OmniGen."""

from typing import Any

import diffusers
import tiny
import transformers

from zoo import language
from zoo.base import Animal
from zoo.latent import excited, fixed, flux2_vae, kl_vae, shifting, unscaled, wan_vae


def flux2_denoiser(guidance_embeds: bool):
    denoiser = diffusers.Flux2Transformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16 * 3, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=guidance_embeds,
    )  # fmt: skip
    return excited(denoiser)


def flux2():
    encoder = language.mistral3(transformers.Mistral3ForConditionalGeneration, layers=30)  # layers 10, 20, 30 are read
    return diffusers.Flux2Pipeline(
        shifting(), flux2_vae(), encoder, language.pixtral_processor(), flux2_denoiser(guidance_embeds=True)
    )


def flux2_klein(kind: Any = diffusers.Flux2KleinPipeline, **options: Any):
    return kind(
        shifting(), flux2_vae(), language.qwen3(layers=27), language.qwen_tokenizer(),  # layers 9, 18, 27 are read
        flux2_denoiser(guidance_embeds=False), **options,
    )  # fmt: skip


def flux_kontext():
    denoiser = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8), guidance_embeds=True,
    )  # fmt: skip
    return diffusers.FluxKontextPipeline(
        shifting(), kl_vae(shift_factor=0.06), tiny.clip_text(), tiny.clip_tokenizer(), excited(tiny.t5_text()),
        tiny.t5_tokenizer(), excited(denoiser),
    )  # fmt: skip


def ernie_image():
    denoiser = diffusers.ErnieImageTransformer2DModel(
        hidden_size=32, num_attention_heads=2, num_layers=1, ffn_hidden_size=32, in_channels=16, out_channels=16,
        text_in_dim=16, rope_axes_dim=(4, 6, 6),
    )  # fmt: skip
    tokenizer = language.mistral_tokenizer(model_max_length=512)
    return diffusers.ErnieImagePipeline(
        excited(denoiser), flux2_vae(), language.mistral3(transformers.Mistral3Model, layers=2), tokenizer, fixed(),
        language.ministral3(), language.mistral_tokenizer(model_max_length=8),  # these write another prompt
    )  # fmt: skip


def glm_image():
    denoiser = diffusers.GlmImageTransformer2DModel(
        in_channels=4, out_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2, text_embed_dim=16,
        time_embed_dim=16, condition_dim=8, prior_vq_quantizer_codebook_size=language.GLM_IMAGE_TOKENS,
    )  # fmt: skip
    glyphs = transformers.T5Config(
        vocab_size=400, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, is_encoder_decoder=False,
        use_cache=False,
    )  # fmt: skip
    return diffusers.GlmImagePipeline(
        transformers.ByT5Tokenizer(), language.glm_processor(), excited(transformers.T5EncoderModel(glyphs)),
        language.glm_image(), kl_vae(**unscaled(4)), excited(denoiser), shifting(),
    )  # fmt: skip


def bria_fibo():
    denoiser = diffusers.BriaFiboTransformer2DModel(
        in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=8, axes_dims_rope=[0, 4, 4], text_encoder_dim=4,
    )  # fmt: skip
    vae = wan_vae(out_channels=12, patch_size=2, scale_factor_spatial=16)
    return diffusers.BriaFiboPipeline(
        excited(denoiser), shifting(), vae, language.smol_lm3(), language.mistral_tokenizer()
    )


def omnigen():
    tokenizer = language.mistral_tokenizer()
    denoiser = diffusers.OmniGenTransformer2DModel(
        in_channels=4, hidden_size=16, num_attention_heads=2, num_key_value_heads=2, intermediate_size=16, num_layers=1,
        pad_token_id=0, vocab_size=len(tokenizer), max_position_embeddings=4096, pos_embed_max_size=32,
        time_step_dim=16,
        rope_scaling={"long_factor": [1.0] * 4, "short_factor": [1.0] * 4, "type": "su"},
    )  # fmt: skip
    return diffusers.OmniGenPipeline(excited(denoiser), fixed(), kl_vae(), tokenizer)


SHORT = {"max_sequence_length": 128}  # the models would read 512 tokens of each prompt
ZOO = {
    "flux2": Animal(
        "Flux2Pipeline", flux2, call={"guidance_scale": 4.0, **SHORT}, options={"call_options": SHORT}
    ),
    "flux2_klein_base": Animal(
        "Flux2KleinPipeline", flux2_klein, call={"guidance_scale": 4.0, **SHORT}, options={"call_options": SHORT}
    ),
    "flux2_klein": Animal(
        "Flux2KleinPipeline", lambda: flux2_klein(is_distilled=True), guidance_scale=None, call=SHORT,
        options={"call_options": SHORT},
    ),
    "flux2_klein_kv": Animal(
        "Flux2KleinKVPipeline", lambda: flux2_klein(diffusers.Flux2KleinKVPipeline), guidance_scale=None, call=SHORT,
        options={"call_options": SHORT},
    ),
    "flux_kontext": Animal("FluxKontextPipeline", flux_kontext, call={"guidance_scale": 4.0, "max_area": 32 * 32}),
    "ernie_image": Animal("ErnieImagePipeline", ernie_image, call={"guidance_scale": 4.0, "use_pe": False}),
    "glm_image": Animal(
        "GlmImagePipeline", glm_image, side=64, prompts=('a sign, it says "cup"', "a blue cup", "two green cars")
    ),
    "bria_fibo": Animal("BriaFiboPipeline", bria_fibo),
    "omnigen": Animal("OmniGenPipeline", omnigen),
}  # fmt: skip
