"""The rows of Stable Diffusion, FLUX.1 and the classes of their time. What they say is read in diffusers 0.42.1."""

from __future__ import annotations

from typing import Any

from synthgen.models.families.family import Family, Recommendation

_LATENT_CONSISTENCY = "time_cond_proj_dim"  # the key of a UNet that takes the scale as an input (arXiv 2310.04378)
# Schedulers whose latents have the scale that the denoiser sees: a class that neither scales the first noise nor the
# denoiser's inputs computes rightly with these only.
_DETERMINISTIC = (
    "DDIMScheduler", "DEISMultistepScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler",
    "PNDMScheduler", "UniPCMultistepScheduler",
)  # fmt: skip
_STOCHASTIC = ("DDPMScheduler", "LCMScheduler", "TCDScheduler")
# Schedulers that denoise once a step.
_FIRST_ORDER = (*_DETERMINISTIC, *_STOCHASTIC, "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler")
# Otherwise diffusers rewrites a prompt if the packages bs4 and ftfy are installed: pixels would depend on that.
_AS_GIVEN = {"clean_caption": False}
# Otherwise the images have the nearest size of a list of this class, and not the size asked for.
_AS_LARGE = {"use_resolution_binning": False}


def _unet(pipeline: str, side: int | None, **facts: Any) -> Family:
    """Steps and guidance are the toolkit's own where no others are given: most models take a wide range of both."""
    return Family(pipeline, **{"multiple": 8, "side": side, **facts})


def _distillable(pipeline: str, side: int, **facts: Any) -> Family:
    return _unet(pipeline, side, embedded="guidance_scale", embedded_if=_LATENT_CONSISTENCY, **facts)


def _pixart(pipeline: str, recommended: tuple[Recommendation, ...]) -> Family:
    """Images are made in the nearest size of a list, then resized and cropped."""
    return Family(pipeline, recommended=recommended, arguments=_AS_GIVEN, multiple=1, side=1024)


_HUNYUAN: dict[str, Any] = {"arguments": _AS_LARGE, "tokens": 256, "multiple": 16, "side": 1024}

ROWS: tuple[Family, ...] = (
    _distillable(
        "StableDiffusionPipeline", 512, long_prompts=True, recommended=(Recommendation(1, 0.0, "sd-turbo"),)
    ),
    _distillable(
        "StableDiffusionXLPipeline", 1024, long_prompts=True, recommended=(Recommendation(1, 0.0, "sdxl-turbo"),)
    ),
    _distillable("StableDiffusionPAGPipeline", 512),
    _distillable("StableDiffusionXLPAGPipeline", 1024),
    _distillable("KolorsPipeline", 1024, tokens=256, recommended=(Recommendation(50, 5.0),)),
    _distillable("KolorsPAGPipeline", 1024, tokens=256, recommended=(Recommendation(50, 5.5),)),
    Family(
        "LatentConsistencyModelPipeline", None, embedded="guidance_scale", timesteps=("original_inference_steps",),
        recommended=(Recommendation(4, 8.5),), multiple=8, side=768,
    ),
    Family(
        "StableDiffusion3Pipeline", paired=True, side=1024,
        recommended=(Recommendation(4, 0.0, "turbo"), Recommendation(28, 7.0)),
    ),
    Family("StableDiffusion3PAGPipeline", paired=True, recommended=(Recommendation(28, 5.0),), side=1024),
    Family(
        "FluxPipeline", None, embedded="guidance_scale", embedded_if="guidance_embeds", option_cfg="true_cfg_scale",
        timesteps=("sigmas",), paired=True, side=1024,
        recommended=(Recommendation(4, None, "schnell"), Recommendation(28, 3.5)),
    ),
    Family(
        "HunyuanDiTPipeline", recommended=(Recommendation(25, 5.0, "distilled"), Recommendation(50, 5.0)), **_HUNYUAN
    ),
    Family(
        "HunyuanDiTPAGPipeline", recommended=(Recommendation(50, 4.0),), **_HUNYUAN,
        unguided="the class fails then (its inputs are prepared for three passes, and it makes two)",
    ),
    _pixart("PixArtAlphaPipeline", (Recommendation(4, 0.0, "lcm"), Recommendation(20, 4.5))),
    _pixart("PixArtSigmaPipeline", (Recommendation(20, 4.5),)),
    _pixart("PixArtSigmaPAGPipeline", (Recommendation(20, 4.5),)),
    Family(
        "IFPipeline", recommended=(Recommendation(100, 7.0),), arguments=_AS_GIVEN, tokens=77, multiple=8, side=64,
        # The denoiser also predicts a variance, of which the others know nothing.
        schedulers=("DDPMScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"),
    ),
    Family(
        # It guides by text + scale · (text − no text), so that a scale of 3 here is one of 4 elsewhere.
        "Kandinsky3Pipeline", recommended=(Recommendation(25, 3.0),), tokens=128, multiple=64, side=1024,
        singles="the longest prompt of a batch decides how many tokens each image sees",
        schedulers=("DDIMScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", *_STOCHASTIC),
    ),
    Family(
        "LDMTextToImagePipeline", recommended=(Recommendation(50, 6.0),), tokens=77, multiple=8, side=256,
        singles="its scheduler draws from torch's global generator", global_seed=True,
        output="pt",  # of bfloat16 it would make no arrays
        schedulers=(*_DETERMINISTIC, *_STOCHASTIC),
    ),
    Family(
        "AmusedPipeline", recommended=(Recommendation(12, 10.0),), multiple=32, side=512, scheduler=False,
        singles="its scheduler takes one generator",
    ),
    # Deprecated by diffusers
    _unet("StableDiffusionSAGPipeline", 512, schedulers=(*_DETERMINISTIC, *_STOCHASTIC)),
    _unet("StableDiffusionModelEditingPipeline", 512),
    _unet(
        "SemanticStableDiffusionPipeline", 512, schedulers=_FIRST_ORDER,
        singles="a prompt that is too long makes a batch fail",
    ),
    _unet(
        "StableDiffusionPanoramaPipeline", None, multiple=64,  # beyond 512 px, a strip would stay as it was
        singles="the class takes images and prompts of a batch in different orders",
    ),
    Family("UnCLIPPipeline", refused="it makes images of one size only, and its steps have other names"),
    Family("AltDiffusionPipeline", refused="diffusers no longer finds the class of its text encoder"),
    Family("VQDiffusionPipeline", refused="it makes images of one size only"),
)  # fmt: skip
