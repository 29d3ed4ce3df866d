"""The rows of large models that a language model conditions. `table.py` joins them with the others."""

from __future__ import annotations

from synthgen.models.families.family import Family, Recommendation

EULER = ("FlowMatchEulerDiscreteScheduler",)  # others fail with the kind of numbers that some calls set
SHIFTED = ("sigmas", "mu")  # what a call sets if the schedule of noise depends on the image's size

ROWS = (
    # Qwen-Image. Its call guides only with a negative prompt, " " for none; `guidance_scale` is for models that were
    # distilled with their guidance, and its denoiser fails with these.
    Family(
        "QwenImagePipeline",
        "true_cfg_scale",
        empty_negative=" ",
        recommended=(Recommendation(50, 4.0),),
        side=1328,
        paired=True,
        timesteps=SHIFTED,
        refused_if=("guidance_embeds", "its denoiser's own code cannot run models that were distilled with guidance"),
    ),
    Family(
        "QwenImage21Pipeline",
        "true_cfg_scale",
        empty_negative=" ",
        recommended=(Recommendation(40, None),),
        side=1024,
        multiple=32,
        timesteps=SHIFTED,
        own_steps="sample_sigmas",
        singles="the padding of shorter prompts in a batch moves the places of their images' tokens",
    ),
    Family("QwenImageLayeredPipeline", None, refused="it needs an image, which it takes apart"),
    # FLUX.2, and FLUX.1 Kontext, which makes images of 1024 x 1024 px in all unless it is told their area
    Family(
        "Flux2Pipeline",
        None,
        embedded="guidance_scale",
        embedded_if="guidance_embeds",
        recommended=(Recommendation(50, 4.0),),
        side=1024,
        paired=True,
        timesteps=SHIFTED,
    ),
    Family(
        "Flux2KleinPipeline",
        distilled_if="is_distilled",
        recommended=(Recommendation(50, 4.0, "base"), Recommendation(4, None)),
        side=1024,
        paired=True,
        timesteps=SHIFTED,
    ),
    Family(
        "Flux2KleinKVPipeline",
        None,
        recommended=(Recommendation(4, None),),
        side=1024,
        paired=True,
        timesteps=SHIFTED,
    ),
    Family(
        "FluxKontextPipeline",
        None,
        embedded="guidance_scale",
        embedded_if="guidance_embeds",
        option_cfg="true_cfg_scale",
        recommended=(Recommendation(28, 3.5),),
        side=1024,
        paired=True,
        timesteps=SHIFTED,
        area="max_area",
    ),
    # Krea 2 computes conditional + scale * (conditional - unconditional), so that 0 is unguided, and not 1.
    Family(
        "Krea2Pipeline",
        above=0,
        recommended=(Recommendation(8, 0.0, "turbo"), Recommendation(28, 4.5)),
        side=1024,
        paired=True,
        timesteps=SHIFTED,
    ),
    # Ideogram 4 has a second denoiser for what is unconditional. Its default is a scale for each of 48 steps.
    Family(
        "Ideogram4Pipeline",
        with_scale={"guidance_schedule": None},
        schedule_steps=48,
        recommended=(Recommendation(48, None),),
        side=2048,
        paired=True,
        schedulers=EULER,
    ),
    # ERNIE-Image and LongCat-Image would let a language model write other prompts.
    Family(
        "ErnieImagePipeline",
        recommended=(Recommendation(8, 1.0, "turbo"), Recommendation(50, 4.0)),
        side=1024,
        paired=True,
        schedulers=EULER,
        arguments={"use_pe": False},
    ),
    Family(
        "LongCatImagePipeline",
        empty_negative="",
        recommended=(Recommendation(50, 4.5),),
        side=1024,
        paired=True,
        timesteps=SHIFTED,
        tokens=512,
        arguments={"enable_prompt_rewrite": False},
    ),
    # GLM-Image samples the tokens of a picture first, for a whole batch with the first image's seed.
    Family(
        "GlmImagePipeline",
        recommended=(Recommendation(50, 1.5),),
        side=1024,
        multiple=32,
        schedulers=EULER,
        singles="a batch samples the tokens of all its images with the seed of the first",
    ),
    Family(
        "NucleusMoEImagePipeline",
        recommended=(Recommendation(50, 4.0),),
        side=1024,
        paired=True,
        timesteps=SHIFTED,
        tokens=1024,
    ),
    # HunyuanImage 2.1 is guided by parts of its own, whose scale counts in the first steps only; the distilled model
    # takes the scale as an input.
    Family(
        "HunyuanImagePipeline",
        None,
        embedded="distilled_guidance_scale",
        embedded_if="guidance_embeds",
        guiders=("guider", "ocr_guider"),
        recommended=(Recommendation(8, 3.25, "distilled"), Recommendation(50, 3.5)),
        side=2048,
        timesteps=("sigmas",),
        tokens=1000,
        singles="a quoted text in one prompt of a batch chooses the guidance of all its images",
    ),
    # FIBO reads captions in JSON, and takes other texts.
    Family(
        "BriaFiboPipeline",
        recommended=(Recommendation(30, 5.0),),
        side=1024,
        multiple=16,
        timesteps=SHIFTED,
    ),
    Family(
        "BriaFibo2Pipeline",
        recommended=(Recommendation(30, 5.0),),
        side=1024,
        paired=True,
        timesteps=SHIFTED,
        tokens=4096,
    ),
    Family(
        "DreamLitePipeline",
        recommended=(Recommendation(30, 3.5),),
        side=1024,
        multiple=8,
        timesteps=SHIFTED,
        singles="its call takes one prompt",
    ),
    Family(
        "DreamLiteMobilePipeline",
        None,
        recommended=(Recommendation(4, None),),
        side=1024,
        multiple=8,
        timesteps=SHIFTED,
        singles="its call takes one prompt",
    ),
    Family(
        "OmniGenPipeline",
        recommended=(Recommendation(50, 2.5),),
        side=1024,
        paired=True,
        timesteps=("sigmas",),
        singles="the places of the first prompt's tokens serve for all prompts of a batch",
    ),
)
