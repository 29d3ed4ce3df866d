"""The options of the `diffusion` generator."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, field_validator

from synthgen import devices
from synthgen.backends import ModelConfig
from synthgen.errors import listed, nearest

# Class names in diffusers that need no further package; a test compares them with the library.
SCHEDULERS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "PNDMScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
)
# Arguments that this generator sets itself, for every image.
OURS = {"prompt", "negative_prompt", "height", "width", "num_inference_steps", "guidance_scale", "generator", "image",
        "output_type", "return_dict", "num_images_per_prompt"}  # fmt: skip


class Config(ModelConfig):
    execution: ClassVar[frozenset[str]] = ModelConfig.execution | {"variant", "compile", "offload"}

    variant: str | None = Field(None, description="The variant of the weight files, such as `fp16`.")
    scheduler: str | None = Field(None, description="A scheduler class of diffusers; default: the model's own.")
    scheduler_options: dict[str, Any] = Field(
        {}, description="Options of the scheduler, such as `use_karras_sigmas: true`."
    )
    num_inference_steps: int = Field(
        20, ge=1, le=1000, description="Denoising steps: more are slower and give finer images."
    )
    guidance_scale: float = Field(
        3.0, ge=0, le=100, description="How closely the image follows the prompt; 1 is unguided."
    )
    call_options: dict[str, Any] = Field(
        {}, description="Further arguments of the pipeline's call, by their names in diffusers."
    )
    compile: devices.Compile = Field(
        "auto", description="Compiles the model's repeated blocks. `auto`: on CUDA if Triton is installed."
    )
    offload: devices.Offload = Field(
        "auto",
        description="`model`: a part is on the device only while it computes. `auto`: so if the whole does not fit.",
    )
    safety_checker: bool = Field(
        True,
        description="Keeps the model's safety checker, if any. It replaces images that it flags with black ones.",
    )

    @field_validator("scheduler")
    @classmethod
    def _known_scheduler(cls, value: str | None) -> str | None:
        if value is not None and value not in SCHEDULERS:
            raise ValueError(f"no such scheduler{nearest(value, SCHEDULERS)}; there are: {listed(SCHEDULERS)}")
        return value

    @field_validator("call_options")
    @classmethod
    def _not_ours(cls, value: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(OURS & value.keys()):
            raise ValueError(f"{listed(taken)} cannot stand here: keys of the spec or of the generator say it")
        return value

    def environment(self) -> dict[str, Any]:
        """Everything besides the spec that pixels depend on; see `devices.environment`."""
        compiled = devices.compiles(self.compile, devices.torch_device(self.device))
        return {**super().environment(), "compiled": compiled}
