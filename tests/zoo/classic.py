"""Stable Diffusion, FLUX.1 and the classes of their time."""

import tiny

from zoo.base import Animal

ZOO = {
    "sd": Animal("StableDiffusionPipeline", tiny.stable_diffusion),
    "sdxl": Animal("StableDiffusionXLPipeline", tiny.stable_diffusion_xl),
    "sd3": Animal("StableDiffusion3Pipeline", lambda: tiny.stable_diffusion_3(with_t5=True)),
    "sd3_without_t5": Animal("StableDiffusion3Pipeline", lambda: tiny.stable_diffusion_3(with_t5=False)),
    "lcm": Animal("LatentConsistencyModelPipeline", tiny.latent_consistency),
    "flux": Animal("FluxPipeline", tiny.flux),
    "flux_schnell": Animal("FluxPipeline", lambda: tiny.flux(guidance_embeds=False), guidance_scale=None, call={}),
}
