"""What a spec puts into a pipeline beside its own parts, and how it has the pipeline computed: the options for it."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from synthgen.base.wording import shown

Cache = Literal["taylorseer", "first_block"]
Quantization = Literal["int8", "int4", "fp8", "nf4", "fp8_storage"]


class _File(BaseModel):
    """A file of weights.

    Attributes:
        model: where it is.
        file: which one it is there.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    model: str = Field(min_length=1, description="A `.safetensors` file, a folder, or a Hugging Face model id.")
    file: str | None = Field(
        None, description="The `.safetensors` file in the folder; needed only if the folder has several."
    )

    @field_validator("file")
    @classmethod
    def _inside(cls, value: str | None) -> str | None:
        path = PurePosixPath(value or "x")
        if path.is_absolute() or ".." in path.parts or not (value or "x").isprintable():
            raise ValueError(f"got {shown(value)}; takes the path of a file inside the folder")
        return value


class Lora(_File):
    """A LoRA: a small file of weights that changes what a pipeline draws."""

    weight: float = Field(1.0, ge=-10, le=10, description="How strongly it acts: it is multiplied by this.")


class Embedding(_File):
    """A textual inversion: a file with the meaning of a word that prompts may use."""

    token: str | None = Field(
        None, min_length=1, max_length=100, description="The word; default: the one that the file names."
    )

    @field_validator("token")
    @classmethod
    def _one_word(cls, value: str | None) -> str | None:
        if value is not None and (not value.isprintable() or any(c.isspace() for c in value)):
            raise ValueError(f"got {shown(value)}; takes one word, such as <cat-toy>")
        return value
