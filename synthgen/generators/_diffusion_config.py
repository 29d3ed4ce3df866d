"""The options of the `diffusion` generator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, ClassVar

from pydantic import Field, field_validator

from synthgen import devices
from synthgen.backends import ModelConfig
from synthgen.errors import listed, nearest
from synthgen.generators._diffusion_parts_config import Cache, Embedding, Lora, Quantization
from synthgen.models import find_model
from synthgen.models.families.family import GUIDANCE_SCALE, NUM_INFERENCE_STEPS, Family
from synthgen.models.modular import part_classes
from synthgen.models.signatures import fields

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

DENOISERS = ("transformer", "unet")  # names of the part of a pipeline that computes every step


def denoiser_class(parts: Mapping[str, str]) -> tuple[str, str]:
    """Name and class of the part that computes every step; empty texts for a pipeline that calls it otherwise.

    Args:
        parts: name -> class of each part of the pipeline.
    """
    return next(((name, parts[name]) for name in DENOISERS if name in parts), ("", ""))


def denoiser_of(pipeline: Any) -> Any:
    """The part of a loaded pipeline that computes every step; None for a pipeline that calls it otherwise."""
    return next((part for name in DENOISERS if (part := getattr(pipeline, name, None)) is not None), None)


@dataclass(frozen=True, slots=True)
class Settings:
    """Options with the family's recommendations in place of what the spec leaves open. `guidance_scale`: None if the
    class is called without one."""

    num_inference_steps: int
    guidance_scale: float | None
    call_options: dict[str, Any]
    long_prompts: bool
    device: str


class Config(ModelConfig):
    """Options of the `diffusion` generator."""

    execution: ClassVar[frozenset[str]] = ModelConfig.execution | {"variant", "compile", "offload", "attention"}
    added: ClassVar[frozenset[str]] = ModelConfig.added | {
        "long_prompts", "components", "loras", "embeddings", "quantize", "cache", "cache_options",
    }  # fmt: skip

    variant: str | None = Field(None, description="The variant of the weight files, such as `fp16`.")
    scheduler: str | None = Field(None, description="A scheduler class of diffusers; default: the model's own.")
    scheduler_options: dict[str, Any] = Field(
        {}, description="Options of the scheduler, such as `use_karras_sigmas: true`."
    )
    num_inference_steps: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="Denoising steps: more are slower and give finer images. "
        "Default: what the model's authors recommend, or 20.",
    )
    guidance_scale: float | None = Field(
        None,
        ge=0,
        le=100,
        description="How closely the image follows the prompt; 1 is unguided. "
        "Default: what the model's authors recommend, or 3.",
    )
    call_options: dict[str, Any] = Field(
        {}, description="Further arguments of the pipeline's call, by their names in diffusers."
    )
    long_prompts: bool = Field(
        False,
        description="Encodes prompts in pieces of 75 tokens, so that nothing is cut (Stable Diffusion and SDXL).",
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

    components: dict[str, str | None] = Field(
        {},
        description="Other parts in place of the pipeline's own, by their names in diffusers, such as `vae`: a folder, "
        "a Hugging Face id, or a `.safetensors` or `.gguf` file. `null` drops a part that the pipeline can do without.",
    )
    loras: list[Lora] = Field(
        [], max_length=20, description="LoRAs, added to the pipeline's weights in this order. They change images."
    )
    embeddings: list[Embedding] = Field(
        [], max_length=100, description="Textual inversions: words that the prompts may then use."
    )
    quantize: dict[str, Quantization] = Field(
        {},
        description="Parts whose weights take less memory, such as `transformer: int8`. They are rounded, so images "
        "change.",
    )
    cache: Cache | None = Field(
        None,
        description="Skips computing in some steps and estimates its results from earlier steps. It is faster, and "
        "images change.",
    )
    cache_options: dict[str, str | int | float | bool] = Field(
        {}, description="Options of the cache, by their names in diffusers, such as `threshold: 0.1`."
    )
    attention: str | None = Field(
        None,
        description="How attention is computed, by its name in diffusers, such as `flash`. It changes the last bits of "
        "images; default: PyTorch's own way.",
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

    def fingerprint(self) -> dict[str, Any]:
        """See `synthgen.backends.Config`. Steps and guidance that a family recommends stand in the model's identity."""
        given = super().fingerprint()
        usual = {"num_inference_steps": NUM_INFERENCE_STEPS, "guidance_scale": GUIDANCE_SCALE}
        return given | {name: value for name, value in usual.items() if given[name] is None}

    def environment(self) -> dict[str, Any]:
        """Everything besides the spec that pixels depend on; see `devices.environment`."""
        made = {**super().environment(), "compiled": self._compiled(), "variant": self.variant}
        if self.attention:
            made["attention"] = self.attention
        packages = {
            "peft": bool(self.loras),
            "gguf": any((value or "").endswith(".gguf") for value in self.components.values()),
            "torchao": bool({"int8", "int4", "fp8"} & set(self.quantize.values())),
            "bitsandbytes": "nf4" in self.quantize.values(),
        }
        return made | {name: version(name) for name, is_used in packages.items() if is_used}

    def _compiled(self) -> bool | str:
        """Whether blocks are compiled; a text if diffusers does not name them, so that they are found by their class.
        Until such blocks were compiled, marks had True for these models too."""
        if not devices.compiles(self.compile, devices.torch_device(self.device)):
            return False
        folder = find_model(self.model, "diffusion", self.revision, self.variant)
        parts = part_classes(folder)
        _, denoiser = denoiser_class(parts)
        if not denoiser:
            return False
        return bool(fields(denoiser, "models").get("_repeated_blocks")) or "blocks found by their class"

    def settings(self, row: Family) -> Settings:
        """`row`: of the pipeline's class."""
        usual = row.recommendation(self.model)
        steps = usual.num_inference_steps if self.num_inference_steps is None else self.num_inference_steps
        scale = usual.guidance_scale if self.guidance_scale is None else self.guidance_scale
        return Settings(steps, scale, self.call_options, self.long_prompts, self.device)

    def recommended(self, row: Family) -> str:
        """Names the steps and the guidance that come from the row, for the identity of a model; "" if none do."""
        if row.advised(self.model) is None:
            return ""
        settings = self.settings(row)
        names = [n for n in ("num_inference_steps", "guidance_scale") if getattr(self, n) is None]
        return "".join(f" {name}={getattr(settings, name)}" for name in names)
