"""Stable Diffusion, FLUX.1 and the classes of their time."""

import inspect
import io
import shutil
import tempfile
import warnings
import weakref
from pathlib import Path
from typing import Any

import diffusers
import sentencepiece
import tiny
import torch
import transformers
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel

from zoo.base import Animal

with warnings.catch_warnings():  # about torch.jit.script, which diffusers uses there
    warnings.simplefilter("ignore", FutureWarning)
    from diffusers.pipelines.kolors import ChatGLMModel, ChatGLMTokenizer
    from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig

SIDE = 32


def bert_tokenizer():
    letters = [form for letter in tiny.LETTERS for form in (letter, f"##{letter}")]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    return transformers.BertTokenizer(vocab={token: i for i, token in enumerate(tokens)}, model_max_length=77)


def bert_text():
    config = transformers.BertConfig(
        vocab_size=5 + 2 * len(tiny.LETTERS), hidden_size=32, intermediate_size=37, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=80,
    )  # fmt: skip
    return transformers.BertModel(config).eval()


def vae_of_8():
    """A VAE of 8 px a latent, which some pipelines take for granted."""
    return diffusers.AutoencoderKL(
        block_out_channels=(4, 4, 4, 8), norm_num_groups=2, latent_channels=4, sample_size=SIDE,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    ).eval()  # fmt: skip


def of(kind: Any, base: Any, **options: Any) -> Any:
    """A pipeline of another class, with the parts of this one."""
    given = {**base.components, "requires_safety_checker": False, "add_watermarker": False, **options}
    takes = inspect.signature(kind.__init__).parameters
    return kind(**{name: value for name, value in given.items() if name in takes})


def stable_diffusion_3_pag():
    base = tiny.stable_diffusion_3(with_t5=True)
    denoiser = diffusers.SD3Transformer2DModel.from_config(base.transformer.config, num_layers=2)
    return of(diffusers.StableDiffusion3PAGPipeline, base, transformer=denoiser.eval())


def deepfloyd_if():
    denoiser = diffusers.UNet2DConditionModel(
        sample_size=SIDE, layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=2, in_channels=3,
        out_channels=6, down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"), cross_attention_dim=32,
        encoder_hid_dim=32, attention_head_dim=8, addition_embed_type="text", addition_embed_type_num_heads=2,
        cross_attention_norm="group_norm", resnet_time_scale_shift="scale_shift", act_fn="gelu",
    )  # fmt: skip
    scheduler = diffusers.DDPMScheduler(
        beta_schedule="squaredcos_cap_v2", thresholding=True, dynamic_thresholding_ratio=0.95, sample_max_value=1.5,
        variance_type="learned_range",
    )  # fmt: skip
    return diffusers.IFPipeline(
        tiny.t5_tokenizer(), tiny.t5_text(), denoiser.eval(), scheduler, None, None, None, requires_safety_checker=False
    )


def kandinsky_3():
    denoiser = diffusers.Kandinsky3UNet(
        in_channels=4, time_embedding_dim=8, groups=2, attention_head_dim=4, layers_per_block=2,
        block_out_channels=(8, 16), cross_attention_dim=8, encoder_hid_dim=32,
    )  # fmt: skip
    with torch.no_grad():  # as it is initialised, it heeds neither the time nor the pooled text
        for module in denoiser.modules():
            if hasattr(module, "context_mlp"):
                module.context_mlp[1].weight.normal_(std=0.3)
    movq = diffusers.VQModel(
        block_out_channels=(4, 4, 4, 8), down_block_types=("DownEncoderBlock2D",) * 4, latent_channels=4,
        up_block_types=("UpDecoderBlock2D",) * 4, num_vq_embeddings=12, vq_embed_dim=4, norm_num_groups=2,
    )  # fmt: skip
    scheduler = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=True, thresholding=False)
    return diffusers.Kandinsky3Pipeline(tiny.t5_tokenizer(), tiny.t5_text(), denoiser.eval(), scheduler, movq.eval())


def latent_diffusion():
    text = LDMBertModel(
        LDMBertConfig(
            vocab_size=5 + 2 * len(tiny.LETTERS), encoder_layers=1, encoder_ffn_dim=32, encoder_attention_heads=2,
            head_dim=8, d_model=32,
        )
    ).eval()  # fmt: skip
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False
    )
    return diffusers.LDMTextToImagePipeline(vae_of_8(), text, bert_tokenizer(), tiny.unet(), scheduler)


def amused():
    codes, channels = 32, 8
    denoiser = diffusers.UVit2DModel(
        hidden_size=16, use_bias=False, hidden_dropout=0.0, cond_embed_dim=32, micro_cond_encode_dim=2,
        micro_cond_embed_dim=10, encoder_hidden_size=32, vocab_size=codes + 1, codebook_size=codes, in_channels=16,
        block_out_channels=16, num_res_blocks=1, downsample=True, upsample=True, block_num_heads=2,
        num_hidden_layers=1, num_attention_heads=2, attention_dropout=0.0, intermediate_size=16,
    )  # fmt: skip
    movq = diffusers.VQModel(
        block_out_channels=(4, 8), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=channels,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=2, num_vq_embeddings=codes, sample_size=SIDE,
        mid_block_add_attention=False, lookup_from_codebook=True, layers_per_block=1,
    )  # fmt: skip
    return diffusers.AmusedPipeline(
        movq.eval(), tiny.clip_tokenizer(), tiny.clip_text(transformers.CLIPTextModelWithProjection), denoiser.eval(),
        diffusers.AmusedScheduler(mask_token_id=codes),
    )  # fmt: skip


def hunyuan_dit(kind: Any = None):
    denoiser = diffusers.HunyuanDiT2DModel(
        sample_size=16, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=3, in_channels=4,
        cross_attention_dim=32, cross_attention_dim_t5=32, pooled_projection_dim=4, hidden_size=24,
        activation_fn="gelu-approximate",
    )  # fmt: skip
    scheduler = diffusers.DDPMScheduler(
        beta_start=0.00085, beta_end=0.018, beta_schedule="scaled_linear", prediction_type="v_prediction",
        steps_offset=1, clip_sample=False,
    )  # fmt: skip
    return (kind or diffusers.HunyuanDiTPipeline)(
        vae=vae_of_8(), text_encoder=bert_text(), tokenizer=bert_tokenizer(), transformer=denoiser.eval(),
        scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        text_encoder_2=tiny.t5_text(), tokenizer_2=tiny.t5_tokenizer(),
    )  # fmt: skip


def pixart(kind: Any):
    denoiser = diffusers.PixArtTransformer2DModel(
        sample_size=32, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=3, caption_channels=32,
        in_channels=4, cross_attention_dim=24, out_channels=8,
    )  # fmt: skip
    return kind(
        tokenizer=tiny.t5_tokenizer(), text_encoder=tiny.t5_text(), vae=vae_of_8(), transformer=denoiser.eval(),
        scheduler=diffusers.DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02),
    )  # fmt: skip


def chatglm_tokenizer():
    """Of letters; its file is made by sentencepiece."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([tiny.LETTERS, "a cup"]), model_writer=written, model_type="char",
        vocab_size=4 + len(tiny.LETTERS), minloglevel=2,
    )  # fmt: skip
    file = Path(tempfile.mkdtemp()) / "tokenizer.model"
    file.write_bytes(written.getvalue())
    tokenizer = ChatGLMTokenizer(str(file))
    weakref.finalize(tokenizer, shutil.rmtree, file.parent)  # saving copies the file
    return tokenizer


def chatglm_text():
    config = ChatGLMConfig(
        num_layers=2, padded_vocab_size=64, hidden_size=32, ffn_hidden_size=37, kv_channels=8, num_attention_heads=4,
        seq_length=256, add_qkv_bias=True, multi_query_attention=True, multi_query_group_num=1, original_rope=True,
        torch_dtype="float32",
    )  # fmt: skip
    text = ChatGLMModel(config, empty_init=False)
    with torch.no_grad():  # the class initialises nothing
        for name, weight in text.named_parameters():
            weight.fill_(1.0) if "norm" in name else weight.normal_(std=0.2)
    return text.eval()


def kolors(kind: Any):
    denoiser = tiny.unet(
        16, encoder_hid_dim=32, encoder_hid_dim_type="text_proj", addition_embed_type="text_time",
        addition_time_embed_dim=8, projection_class_embeddings_input_dim=80, use_linear_projection=True,
    )  # fmt: skip
    scheduler = diffusers.EulerDiscreteScheduler(
        beta_schedule="scaled_linear", beta_end=0.014, num_train_timesteps=1100, timestep_spacing="leading",
        steps_offset=1,
    )  # fmt: skip
    return kind(tiny.vae(), chatglm_text(), chatglm_tokenizer(), denoiser, scheduler)


HUNYUAN = {"guidance_scale": 4.0, "use_resolution_binning": False}

ZOO = {
    "sd": Animal("StableDiffusionPipeline", tiny.stable_diffusion),
    "sdxl": Animal("StableDiffusionXLPipeline", tiny.stable_diffusion_xl),
    "sd3": Animal("StableDiffusion3Pipeline", lambda: tiny.stable_diffusion_3(with_t5=True)),
    "sd3_without_t5": Animal("StableDiffusion3Pipeline", lambda: tiny.stable_diffusion_3(with_t5=False)),
    "lcm": Animal("LatentConsistencyModelPipeline", tiny.latent_consistency),
    "flux": Animal("FluxPipeline", tiny.flux),
    "flux_schnell": Animal("FluxPipeline", lambda: tiny.flux(guidance_embeds=False), guidance_scale=None, call={}),
    "sd_pag": Animal(
        "StableDiffusionPAGPipeline", lambda: of(diffusers.StableDiffusionPAGPipeline, tiny.stable_diffusion())
    ),
    "sdxl_pag": Animal(
        "StableDiffusionXLPAGPipeline",
        lambda: of(diffusers.StableDiffusionXLPAGPipeline, tiny.stable_diffusion_xl()),
    ),
    "sd3_pag": Animal("StableDiffusion3PAGPipeline", stable_diffusion_3_pag),
    "if": Animal("IFPipeline", deepfloyd_if),
    "kandinsky3": Animal("Kandinsky3Pipeline", kandinsky_3, side=64),
    "ldm": Animal("LDMTextToImagePipeline", latent_diffusion),
    "amused": Animal("AmusedPipeline", amused),
    "hunyuan_dit": Animal("HunyuanDiTPipeline", hunyuan_dit, call=HUNYUAN),
    "hunyuan_dit_pag": Animal(
        "HunyuanDiTPAGPipeline", lambda: hunyuan_dit(diffusers.HunyuanDiTPAGPipeline), call=HUNYUAN
    ),
    "kolors": Animal("KolorsPipeline", lambda: kolors(diffusers.KolorsPipeline)),
    "kolors_pag": Animal("KolorsPAGPipeline", lambda: kolors(diffusers.KolorsPAGPipeline)),
    "sd_sag": Animal(
        "StableDiffusionSAGPipeline", lambda: of(diffusers.StableDiffusionSAGPipeline, tiny.stable_diffusion())
    ),
    "semantic_sd": Animal(
        "SemanticStableDiffusionPipeline",
        lambda: of(diffusers.SemanticStableDiffusionPipeline, tiny.stable_diffusion()),
    ),
    "sd_panorama": Animal(
        "StableDiffusionPanoramaPipeline",
        lambda: of(diffusers.StableDiffusionPanoramaPipeline, tiny.stable_diffusion()),
        side=64,
    ),
    "sd_model_editing": Animal(
        "StableDiffusionModelEditingPipeline",
        lambda: of(
            diffusers.StableDiffusionModelEditingPipeline, tiny.stable_diffusion(), scheduler=diffusers.DDIMScheduler()
        ),
    ),
    "pixart_alpha": Animal("PixArtAlphaPipeline", lambda: pixart(diffusers.PixArtAlphaPipeline)),
    "pixart_sigma": Animal("PixArtSigmaPipeline", lambda: pixart(diffusers.PixArtSigmaPipeline)),
    "pixart_sigma_pag": Animal("PixArtSigmaPAGPipeline", lambda: pixart(diffusers.PixArtSigmaPAGPipeline)),
}
