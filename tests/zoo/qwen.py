"""The large models that a language model of the Qwen family conditions.

The sizes that decide which pictures a pipeline can make are those of the real models: how much the autoencoder
compresses, and the size of a patch.
"""

from typing import Any

import diffusers
import transformers

from zoo.base import Animal
from zoo.language import qwen2_5_vl, qwen3_vl, qwen_processor, qwen_tokenizer
from zoo.latent import excited, fixed, flux2_vae, kl_vae, qwen_vae, shifting, unscaled


def qwen_image():
    denoiser = diffusers.QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    return diffusers.QwenImagePipeline(shifting(), qwen_vae(), qwen2_5_vl(), qwen_tokenizer(), excited(denoiser))


def qwen_image_21():
    denoiser = diffusers.QwenImage21Transformer2DModel(
        in_channels=8, out_channels=8, num_layers=1, attention_head_dim=16, num_attention_heads=2, context_in_dim=16,
        mlp_ratio=2, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    vae = diffusers.AutoencoderKLQwenImage21(
        base_dim=4, decoder_base_dim=4, z_dim=8, dim_mult=[1] * 5, num_res_blocks=1, **unscaled(8)
    )
    return diffusers.QwenImage21Pipeline(shifting(), excited(vae), qwen3_vl(), qwen_processor(), excited(denoiser))


def krea2(**options: Any):
    denoiser = diffusers.Krea2Transformer2DModel(
        in_channels=16, num_layers=1, attention_head_dim=16, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=16, timestep_embed_dim=16, text_hidden_dim=16, num_text_layers=2, text_num_attention_heads=2,
        text_num_key_value_heads=2, text_intermediate_size=16, num_layerwise_text_blocks=1, num_refiner_text_blocks=1,
        axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    return diffusers.Krea2Pipeline(
        shifting(), qwen_vae(), qwen3_vl(transformers.Qwen3VLModel), qwen_tokenizer(), excited(denoiser),
        text_encoder_select_layers=[1, 2], **options,
    )  # fmt: skip


def ideogram4():
    def denoiser():
        model = diffusers.Ideogram4Transformer2DModel(
            in_channels=16, num_layers=1, attention_head_dim=8, num_attention_heads=2, intermediate_size=16,
            adaln_dim=16, llm_features_dim=13 * 8, rope_theta=10_000, mrope_section=(2, 1, 1),
        )  # fmt: skip
        return excited(model)

    encoder = qwen3_vl(transformers.Qwen3VLModel, layers=36, hidden=8)  # the pipeline reads 13 of its 36 layers
    return diffusers.Ideogram4Pipeline(fixed(), flux2_vae(), encoder, qwen_tokenizer(), denoiser(), denoiser())


def nucleus_moe():
    denoiser = diffusers.NucleusMoEImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, axes_dims_rope=(4, 6, 6), dense_moe_strategy="all_moe", num_experts=4,
        moe_intermediate_dim=16, capacity_factors=[2.0, 2.0],
    )  # fmt: skip
    return diffusers.NucleusMoEImagePipeline(
        excited(denoiser), shifting(), qwen_vae(), qwen3_vl(layers=8), qwen_processor()
    )


def longcat():
    denoiser = diffusers.LongCatImageTransformer2DModel(
        in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    return diffusers.LongCatImagePipeline(
        shifting(), kl_vae(16, shift_factor=0.06), qwen2_5_vl(), qwen_tokenizer(),
        qwen_processor(transformers.Qwen2VLProcessor), excited(denoiser),
    )  # fmt: skip


def hunyuan_image(distilled: bool):
    denoiser = diffusers.HunyuanImageTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=1, num_single_layers=1,
        num_refiner_layers=1, guidance_embeds=distilled, use_meanflow=distilled, text_embed_dim=16,
        text_embed_2_dim=None if distilled else 16, rope_axes_dim=(4, 4),
    )  # fmt: skip
    vae = diffusers.AutoencoderKLHunyuanImage(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(32,) * 6, layers_per_block=1,
        spatial_compression_ratio=32, sample_size=32, scaling_factor=0.75,
    )  # fmt: skip
    guiders = [  # the second one, for prompts with quoted texts, counts otherwise from the first step on
        None if distilled else diffusers.AdaptiveProjectedMixGuidance(5.0, adaptive_projected_guidance_start_step=start)
        for start in (5, 0)
    ]
    glyphs = transformers.T5Config(
        vocab_size=400, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, is_encoder_decoder=False,
        use_cache=False,
    )  # fmt: skip
    return diffusers.HunyuanImagePipeline(
        fixed(), excited(vae), qwen2_5_vl(layers=3), qwen_tokenizer(), excited(transformers.T5EncoderModel(glyphs)),
        transformers.ByT5Tokenizer(), excited(denoiser), *guiders,
    )  # fmt: skip


def bria_fibo_2():
    denoiser = diffusers.BriaFibo2Transformer2DModel(
        in_channels=4, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, cap_feat_dim=24, injection_layer_ids=(1,),
        perceiver_num_layers=1, min_num_gist_tokens=4, max_num_gist_tokens=8, gist_step=4, gist_min_text_len=4,
        gist_max_text_len=16, axes_dims=(4, 6, 6), axes_lens=(512, 16, 16),
    )  # fmt: skip
    encoder = qwen3_vl(layers=36, hidden=8)  # the pipeline reads its layers up to the 36th
    return diffusers.BriaFibo2Pipeline(excited(denoiser), shifting(), flux2_vae(), encoder, qwen_processor())


def dreamlite(kind: Any):
    denoiser = diffusers.DreamLiteUNetModel(
        sample_size=4, block_out_channels=(16, 16), cross_attention_dim=16, attention_head_dim=8, layers_per_block=1,
        norm_num_groups=4, transformer_layers_per_block=1,
        down_block_types=("DreamLiteCrossAttnNoSelfAttnDownBlock2D", "DreamLiteCrossAttnDownBlock2D"),
        up_block_types=("DreamLiteCrossAttnUpBlock2D", "DreamLiteUpBlock2D"),
    )  # fmt: skip
    vae = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4, num_encoder_blocks=(1,) * 4,
        num_decoder_blocks=(1,) * 4,
    )  # fmt: skip
    return kind(qwen3_vl(), qwen_tokenizer(), qwen_processor(), excited(vae), excited(denoiser), shifting())


TRUE_CFG = {"true_cfg_scale": 4.0, "negative_prompt": [" "] * 3}
ZOO = {
    "qwen_image": Animal("QwenImagePipeline", qwen_image, call=TRUE_CFG),
    "qwen_image_21": Animal("QwenImage21Pipeline", qwen_image_21, call={**TRUE_CFG, "negative_prompt": " "}),
    "krea2": Animal("Krea2Pipeline", krea2),
    "krea2_turbo": Animal("Krea2Pipeline", lambda: krea2(is_distilled=True)),
    "ideogram4": Animal(
        "Ideogram4Pipeline", ideogram4,
        call={"guidance_scale": 4.0, "guidance_schedule": None, "max_sequence_length": 256},
        options={"call_options": {"max_sequence_length": 256}},
    ),
    "nucleus_moe": Animal("NucleusMoEImagePipeline", nucleus_moe),
    "longcat": Animal(
        "LongCatImagePipeline", longcat,
        call={"guidance_scale": 4.0, "negative_prompt": [""] * 3, "enable_prompt_rewrite": False},
    ),
    "hunyuan_image": Animal(
        "HunyuanImagePipeline", lambda: hunyuan_image(distilled=False), side=64, guidance_scale=5.0, call={}
    ),
    "hunyuan_image_distilled": Animal(
        "HunyuanImagePipeline", lambda: hunyuan_image(distilled=True), side=64, call={"distilled_guidance_scale": 4.0}
    ),
    "bria_fibo_2": Animal("BriaFibo2Pipeline", bria_fibo_2),
    "dreamlite": Animal("DreamLitePipeline", lambda: dreamlite(diffusers.DreamLitePipeline)),
    "dreamlite_mobile": Animal(
        "DreamLiteMobilePipeline", lambda: dreamlite(diffusers.DreamLiteMobilePipeline), guidance_scale=None, call={}
    ),
}  # fmt: skip
