"""Loads modular pipelines of diffusers, and makes them callable as its other pipelines are."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthgen.errors import BackendError, Problem
from synthgen.generators._diffusion_config import Config
from synthgen.models.modular import read_index
from synthgen.models.weights import part_variant

if TYPE_CHECKING:
    import torch
    from diffusers import ModularPipeline, ModularPipelineBlocks

# Options of the generator that work with modular pipelines. Others must be left at their defaults.
TAKEN = {"use", "model", "revision", "variant", "device", "torch_dtype", "batch_size", "num_inference_steps",
         "guidance_scale", "call_options", "compile", "offload", "safety_checker"}  # fmt: skip


class Modular:
    """A loaded modular pipeline. Its parts are attributes, as those of other pipelines are.

    Args:
        blocks: those that the pipeline runs; its own attribute is a copy of them.
        inputs: names of the arguments that the blocks take.

    Attributes:
        takes: names of the arguments of a call.
    """

    def __init__(self, pipeline: ModularPipeline, blocks: ModularPipelineBlocks, inputs: Iterable[str]) -> None:
        self.pipeline, self.blocks = pipeline, blocks
        self.takes = {*inputs, "guidance_scale"}

    def __getattr__(self, name: str) -> Any:
        if name == "pipeline":  # not set yet, as while the object is copied
            raise AttributeError(name)
        return getattr(self.pipeline, name)

    def __call__(self, *, guidance_scale: float | None = None, **arguments: Any) -> tuple[Any]:
        """Images, in the form that the argument `output_type` says.

        Args:
            guidance_scale: of classifier-free guidance. A guider takes it, or the argument `guidance_schedule`, which
                has one for each step; None: what the authors recommend.
        """
        guider = getattr(self.pipeline, "guider", None)
        if "guidance_schedule" in self.takes:
            steps = arguments["num_inference_steps"]
            constant = None if guidance_scale is None else (guidance_scale,) * steps
            arguments = {"guidance_schedule": constant or ideogram_schedule(steps), **arguments}
        elif guidance_scale is not None and guider is not None and guider.guidance_scale != guidance_scale:
            spec = self.pipeline.get_component_spec("guider")
            self.pipeline.update_components(guider=spec.create(guidance_scale=guidance_scale))
        return (self.pipeline(output="images", **arguments),)

    def set_progress_bar_config(self, **options: Any) -> None:
        """Passes the options to every block; the pipeline's own method reaches only the outermost ones."""
        blocks: list[Any] = [self.blocks]
        while blocks:
            block = blocks.pop()
            blocks += block.sub_blocks.values()
            if hasattr(block, "progress_bar"):
                block.set_progress_bar_config(**options)

    def enable_model_cpu_offload(self, device: torch.device) -> None:
        raise BackendError(
            f"generator.offload: the weights do not fit on {device}, and modular pipelines of diffusers stay there as "
            "a whole; use a device with more memory"
        )


def ideogram_schedule(steps: int) -> tuple[float, ...]:
    """Guidance by the step, as in the three presets of Ideogram 4, of 48, 20 and 12 steps
    (https://github.com/ideogram-oss/ideogram4, `sampler_configs.py`): 7, and 3 in the last sixteenth, rounded up."""
    last = ceil(steps / 16)
    return (7.0,) * (steps - last) + (3.0,) * last


def read_modular(folder: Path, variant: str | None, dtype: torch.dtype) -> Modular:
    """The pipeline of an inspected folder, on the CPU. All its parts are loaded from the folder: other places that its
    index names are not asked."""
    import diffusers

    index = read_index(folder)
    loaded = {name: part for name, part in index.parts.items() if part.folder.is_dir()}
    entries = {
        name: [part.library, part.kind, {"type_hint": [part.library, part.kind],
                                         "pretrained_model_name_or_path": str(part.folder), "subfolder": ""}]
        for name, part in loaded.items()
    }  # fmt: skip
    kind = getattr(diffusers, index.pipeline)
    blocks = getattr(diffusers, index.blocks.name)()
    pipeline = kind(blocks=blocks, modular_config_dict={**index.arguments, **entries})
    components = {}
    for name in [name for name in loaded if name in pipeline.component_names]:
        spec, part = pipeline.get_component_spec(name), loaded[name]
        options: dict[str, Any] = {"local_files_only": True}
        if any(part.folder.glob("*.safetensors")):
            wanted = part_variant(part.folder, variant or part.variant)
            options |= {"dtype": dtype, "use_safetensors": True} | ({"variant": wanted} if wanted else {})
        components[name] = spec.load(**options)
    pipeline.register_components(**components)
    return Modular(pipeline, blocks, index.blocks.inputs)


def problems(config: Config, steps: int) -> Iterable[Problem]:
    """Options of a spec that do nothing with a modular pipeline, or that contradict each other.

    Args:
        steps: the number of denoising steps.
    """
    schedule = config.call_options.get("guidance_schedule")
    if schedule is not None and config.guidance_scale is not None:
        yield Problem(".guidance_scale", "has no effect beside call_options.guidance_schedule; leave one of them out")
    if schedule is not None and not (isinstance(schedule, list) and len(schedule) == steps):
        yield Problem(".call_options", f"guidance_schedule: takes a list of {steps} scales, one for each step")
    for name, info in type(config).model_fields.items():
        if name not in TAKEN and getattr(config, name) != info.get_default(call_default_factory=True):
            yield Problem(f".{name}", "modular pipelines of diffusers take no such option; leave it out")
    if config.offload not in ("auto", "none"):
        yield Problem(".offload", f"got {config.offload}; modular pipelines of diffusers take none")
