"""The rows of families, by the class. tests/generators/test_families.py runs a tiny model of each."""

from __future__ import annotations

from collections.abc import Mapping

from synthgen.models.families import large
from synthgen.models.families.family import Family, Recommendation

_LATENT_CONSISTENCY = "time_cond_proj_dim"  # the key of a UNet that takes the scale as an input (arXiv 2310.04378)

_ROWS = (
    # UNets. Steps and guidance are the toolkit's own, since these take a wide range of both.
    Family(
        "StableDiffusionPipeline",
        embedded="guidance_scale",
        embedded_if=_LATENT_CONSISTENCY,
        multiple=8,
        long_prompts=True,
        side=512,
    ),
    Family(
        "StableDiffusionXLPipeline",
        embedded="guidance_scale",
        embedded_if=_LATENT_CONSISTENCY,
        multiple=8,
        long_prompts=True,
        side=1024,
    ),
    Family(
        "LatentConsistencyModelPipeline",
        None,
        embedded="guidance_scale",
        timesteps=("original_inference_steps",),
        recommended=(Recommendation(4, 8.5),),
        multiple=8,
        side=768,
    ),
    # Transformers
    Family("StableDiffusion3Pipeline", paired=True, recommended=(Recommendation(28, 7.0),), side=1024),
    Family(
        "FluxPipeline",
        None,
        embedded="guidance_scale",
        embedded_if="guidance_embeds",
        option_cfg="true_cfg_scale",
        timesteps=("sigmas",),
        paired=True,
        recommended=(Recommendation(4, None, "schnell"), Recommendation(28, 3.5)),
        side=1024,
    ),
    Family(
        "ZImagePipeline",
        above=0,
        timesteps=("sigmas",),
        paired=True,
        recommended=(Recommendation(8, 0.0, "turbo"), Recommendation(50, 5.0)),
        side=1024,
    ),
    # Modular pipelines. Their scales go to a guider, or to every step of a schedule: `generators/_modular.py`.
    Family(
        "Flux3ModularPipeline",
        paired=True,
        scheduler=False,
        recommended=(Recommendation(50, 4.0),),
        side=1024,
        singles="its prompt upsampler takes one prompt",
    ),
    Family(
        "Flux3DistilledModularPipeline",
        None,
        paired=True,
        scheduler=False,
        recommended=(Recommendation(16, None),),
        side=1024,
        singles="its prompt upsampler takes one prompt",
    ),
    Family(
        "Ideogram4ModularPipeline",
        paired=True,
        scheduler=False,
        recommended=(Recommendation(48, None),),
        side=2048,
    ),
)
FAMILIES: Mapping[str, Family] = {row.pipeline: row for row in (*_ROWS, *large.ROWS)}
