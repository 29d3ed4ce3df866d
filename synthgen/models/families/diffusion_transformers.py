"""Rows of families: diffusion transformers since 2024, from Sana, AuraFlow, Lumina, CogView, Chroma and Bria to Ovis,
PRX, Z-Image, Kandinsky 5 and HiDream. Steps and guidance are those of the classes' own examples and defaults."""

from __future__ import annotations

import math

from synthgen.models.families.family import Family, Recommendation

_OWN_SIGMAS = ("sigmas", "mu")
_FLOW_MATCHING = "FlowMatchEulerDiscreteScheduler"
# What Kandinsky 5 makes: (width, height) in px, in the order in which it looks for the nearest shape.
_KANDINSKY_5 = ((1024, 1024), (640, 1408), (1408, 640), (768, 1280), (1280, 768), (896, 1152), (1152, 896))
# Lumina 2 puts this before a prompt, with which it shares the tokens.
_LUMINA_2 = (
    "You are an assistant designed to generate superior images with the superior degree of image-text alignment based "
    "on textual prompts or user prompts. <Prompt Start> {}"
)
_OVIS = (
    "<|im_start|>user\nDescribe the image by detailing the color, quantity, text, shape, size, texture, spatial "
    "relationships of the objects and background: {}<|im_end|>\n<|im_start|>assistant\n"
)
_KANDINSKY_5_FRAME = (
    "<|im_start|>system\nYou are a prompt engineer. Describe the image by detailing the color, shape, size, texture, "
    "quantity, text, spatial relationships of the objects and background:<|im_end|>\n<|im_start|>user\n{}<|im_end|>"
)
_CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


def _nearest_shape(height: int, width: int, latent: int) -> tuple[int, int]:
    """Kandinsky 5 computes it so."""
    if (width, height) in _KANDINSKY_5:
        return height, width
    made = min(_KANDINSKY_5, key=lambda size: abs(size[0] / size[1] - width / height))
    return made[1], made[0]


def _same_area(height: int, width: int, latent: int) -> tuple[int, int]:
    """HiDream computes it so: the area of 128 x 128 latents."""
    scale, pair = math.sqrt((128 * latent) ** 2 / (width * height)), 2 * latent
    return int(height * scale // pair * pair), int(width * scale // pair * pair)


ROWS = (
    Family("SanaPipeline", binned=True, more_tokens=-1, multiple=32, recommended=(Recommendation(20, 4.5),), side=1024),
    Family(
        "SanaPAGPipeline", binned=True, more_tokens=-1, multiple=32, recommended=(Recommendation(20, 4.5),), side=1024
    ),
    Family(
        "SanaSprintPipeline",
        None,
        embedded="guidance_scale",
        embedded_if="guidance_embeds",
        more_tokens=-1,
        binned=True,
        multiple=32,
        scheduler=False,
        other_steps={"intermediate_timesteps": None},
        recommended=(Recommendation(2, 4.5),),
        side=1024,
    ),
    Family("AuraFlowPipeline", paired=True, recommended=(Recommendation(50, 3.5),), side=1024),
    Family(
        "LuminaPipeline",
        multiple=16,
        tokens=256,
        ignored=("max_sequence_length",),
        arguments={"clean_caption": False},  # else prompts depend on whether packages are installed
        singles="its negative prompt is cut to the length of the longest prompt of a call",
        recommended=(Recommendation(30, 4.0),),
        side=1024,
    ),
    Family(
        "Lumina2Pipeline",
        multiple=16,
        timesteps=_OWN_SIGMAS,
        frame=_LUMINA_2,
        recommended=(Recommendation(30, 4.0),),
        side=1024,
    ),
    Family("CogView3PlusPipeline", multiple=16, scheduler=False, recommended=(Recommendation(50, 5.0),), side=1024),
    Family(
        "CogView4Pipeline",
        multiple=16,
        timesteps=("timesteps", *_OWN_SIGMAS),
        singles="it pads prompts to the longest of a call, and its text encoder attends to the padding",
        recommended=(Recommendation(50, 5.0),),
        side=1024,
    ),
    Family("ChromaPipeline", paired=True, timesteps=_OWN_SIGMAS, recommended=(Recommendation(35, 5.0),), side=1024),
    Family(
        "BriaPipeline",
        paired=True,
        schedulers=(_FLOW_MATCHING, "DDIMScheduler", "EulerAncestralDiscreteScheduler"),
        recommended=(Recommendation(30, 5.0),),
        side=1024,
    ),
    Family(
        "OvisImagePipeline",
        paired=True,
        timesteps=("mu",),
        frame=_OVIS,
        more_tokens=28,
        recommended=(Recommendation(50, 5.0),),
        side=1024,
    ),
    Family(
        "PRXPipeline",
        least=1.0,
        patched=True,
        binned=True,
        packages=("ftfy",),
        singles="its call takes one prompt if guidance is on",
        recommended=(Recommendation(28, 5.0),),
    ),
    Family(
        "PRXPixelPipeline",
        least=1.0,
        patched=True,
        binned=True,
        packages=("ftfy",),
        singles="its call takes one prompt if guidance is on",
        tokens_key="prompt_max_tokens",
        output="np",  # its tensors are neither in [0, 1] nor resized
        recommended=(Recommendation(28, 5.0),),
        side=1024,
    ),
    Family(
        "ZImagePipeline",
        above=0,
        paired=True,
        schedulers=(_FLOW_MATCHING,),
        frame=_CHAT,
        recommended=(Recommendation(8, 0.0, "turbo"), Recommendation(50, 5.0)),
        side=1024,
    ),
    Family(
        "ZImageOmniPipeline",
        above=0,
        paired=True,
        schedulers=(_FLOW_MATCHING,),
        frame=_CHAT,
        recommended=(Recommendation(50, 5.0),),
        side=1024,
    ),
    Family(
        "Kandinsky5T2IPipeline",
        resizes=_nearest_shape,
        frame=_KANDINSKY_5_FRAME,
        more_tokens=40,
        singles="it pads prompts to the longest of a call, and attends to the padding",
        recommended=(Recommendation(50, 3.5),),
        side=1024,
    ),
    Family(
        "HiDreamImagePipeline",
        paired=True,
        from_elsewhere={"text_encoder_4": "meta-llama/Meta-Llama-3.1-8B-Instruct"},
        resizes=_same_area,
        schedulers=(_FLOW_MATCHING, "FlowMatchLCMScheduler", "UniPCMultistepScheduler"),
        recommended=(Recommendation(28, 0.0, "dev"), Recommendation(16, 0.0, "fast"), Recommendation(50, 5.0)),
        side=1024,
    ),
    Family(
        "Cosmos2TextToImagePipeline",
        refused="it makes no image without the safety checker of the package cosmos_guardrail, which fetches models by "
        "itself",
    ),
)
