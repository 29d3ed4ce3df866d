"""The options of backends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from synthgen import devices
from synthgen.base.pattern import Pattern

DEVICE = Pattern(r"^(auto|cpu|mps|cuda(:\d+)?)$", "auto, cpu, mps, cuda, or cuda: with a number, such as cuda:0")


class Config(BaseModel):
    """A backend's options. `use` names the backend. `fingerprint` holds the options that decide results; it leaves out:

    - those named in `execution`: they say where and how the work is done. `Stage.identity` names the weights.
    - those named in `judged`: they are compared with numbers that are stored.
    - those named in `added`, at their defaults: run folders that are older than the option have no value for it.

    Attributes:
        sections: option -> kind of backend, for options that are lists of backends with options of their own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())
    execution: ClassVar[frozenset[str]] = frozenset()
    judged: ClassVar[frozenset[str]] = frozenset()
    added: ClassVar[frozenset[str]] = frozenset()
    sections: ClassVar[Mapping[str, str]] = {}

    use: str = Field(description="The backend: a built-in name, or the dotted name of a module of yours.")

    def fingerprint(self) -> dict[str, Any]:
        """The options that decide what this backend makes of its inputs."""
        found = self.model_dump(mode="json", exclude=set(self.execution | self.judged | self.untouched()))
        return {**found, **{name: [one.fingerprint() for one in getattr(self, name)] for name in type(self).sections}}

    def untouched(self) -> set[str]:
        """Those of `added` that have their defaults."""
        fields = type(self).model_fields
        return {name for name in self.added if getattr(self, name) == fields[name].get_default()}


class ModelConfig(Config):
    """Options of a backend that loads a model."""

    execution: ClassVar[frozenset[str]] = frozenset({"model", "revision", "device", "torch_dtype", "batch_size"})

    model: str = Field("mini", description="`mini` (embedded), a folder or file, or a Hugging Face model id.")
    revision: str | None = Field(None, description="Branch, tag or commit of a Hugging Face model.")
    device: Annotated[str, DEVICE] = Field("auto", description="`auto`: CUDA, else MPS, else CPU.")
    torch_dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="`auto`: bfloat16 if the chip computes in it, else float32 on CPU and float16 elsewhere."
    )
    batch_size: int = Field(8, ge=1, le=1024, description="Images that go through the model at once.")

    def environment(self) -> dict[str, Any]:
        """What the last bits of results depend on, besides `fingerprint` and weights: see `devices.environment`."""
        return devices.environment(self.device, self.torch_dtype, self.batch_size)


def nested_configs(config: Config) -> dict[str, Config]:
    """The options of the backends in `sections`, by their place, such as `of.0`."""
    return {f"{name}.{i}": one for name in type(config).sections for i, one in enumerate(getattr(config, name))}


def environment_of(config: Config) -> dict[str, Any]:
    """What the last bits of a backend's results depend on, besides its fingerprint and weights; empty if it has no
    model, of its own or in `sections`."""
    if isinstance(config, ModelConfig):
        return config.environment()
    return {place: found for place, one in nested_configs(config).items() if (found := environment_of(one))}


class FilterConfig(Config):
    """Options of every filter."""

    judged: ClassVar[frozenset[str]] = frozenset({"on_fail"})

    on_fail: Literal["reject", "ignore", "drop"] = Field(
        "reject",
        description="reject the image; or, for measures of instances: ignore it (kept with `iscrowd` 1), or drop it.",
    )


class ThresholdConfig(FilterConfig):
    """A number is kept while `min` <= number <= `max`."""

    judged: ClassVar[frozenset[str]] = frozenset({"on_fail", "min", "max"})

    min: float | None = Field(None, description="Least value kept.")
    max: float | None = Field(None, description="Greatest value kept.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"`min` (={self.min:g}) must not be above `max` (={self.max:g})")
        return self
