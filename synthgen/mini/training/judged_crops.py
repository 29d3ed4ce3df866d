"""The generated crops that a person has looked at, and those that nobody can name."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from synthgen.errors import RunError

JUDGED = Path(__file__).with_name("judged_crops.json")


class Exclusion(BaseModel):
    """A crop that nobody can name, and the reason."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: int
    thing: int
    name: str
    reason: str


class JudgedCrops(BaseModel):
    """The generated crops that a person has looked at: all things of the first `images` prompts. Those that nobody can
    name are `excluded`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    unet_sha256: str
    images: int
    excluded: tuple[Exclusion, ...]


def judged_crops(diffusion: Path) -> JudgedCrops:
    """The committed list, for the diffusion model in this folder.

    Raises:
        RunError: the list was made for other weights; nobody has looked at the crops of these.
    """
    judged = JudgedCrops.model_validate_json(JUDGED.read_bytes())
    weights = (diffusion / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    if hashlib.sha256(weights).hexdigest() != judged.unet_sha256:
        raise RunError(f"{JUDGED.name} judges the crops of other weights; look at these models' crops and list anew")
    return judged
