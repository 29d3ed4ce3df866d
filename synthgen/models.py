"""Model names become files: the embedded `mini`, a folder or file of the user's, SAM's known names, or a hub id.

A model's folder may carry `synthgen.json`, its card: what it knows and how it wants to be asked.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

MINI = Path(__file__).parent / "mini" / "weights"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Licence(_Strict):
    name: str
    url: str


class AdapterLayout(_Strict):
    """A layout is given to the model as an image, boxes filled with their class's colour, through a T2I-Adapter
    (arXiv 2302.08453). `folder`: of the adapter, inside the model's; `palette`: class -> its value in each channel that
    the adapter takes: RGB in [0, 1], or a channel a class; `downscale`: the adapter's image is smaller than the picture
    by this factor, of whole cells their mean."""

    form: Literal["t2i_adapter"]
    folder: str
    palette: dict[str, tuple[float, ...]] = Field(min_length=1)
    downscale: int = Field(1, ge=1)

    @field_validator("palette")
    @classmethod
    def _equal_lengths(cls, value: dict[str, tuple[float, ...]]) -> dict[str, tuple[float, ...]]:
        if len({len(colour) for colour in value.values()}) != 1:
            raise ValueError("`palette` gives its classes colours of different lengths")
        return value


class KnownClass(_Strict):
    aspect_ratio: tuple[float, float] | None = Field(None, description="Least and greatest width over height.")


class SamShape(_Strict):
    """Arguments of `segment_anything`'s model classes; its state dicts do not say them."""

    image_size: int
    patch_size: int
    embed_dim: int
    depth: int
    num_heads: int
    global_attn_indexes: tuple[int, ...]
    window_size: int
    prompt_embed_dim: int
    mlp_dim: int
    iou_head_hidden_dim: int


class ModelCard(_Strict):
    """`synthgen.json` in a model's folder. A missing field means: anything goes, as far as is known."""

    licence: Licence | None = None
    sizes: tuple[tuple[int, int], ...] | None = Field(None, description="(height, width) px that it was trained for.")
    classes: dict[str, KnownClass] | None = None
    vocabulary: tuple[str, ...] | None = Field(None, description="Every word its tokenizer knows.")
    layout: AdapterLayout | None = None
    sam: SamShape | None = None
    weights: str | None = Field(None, description="The weights' file, where the folder's layout does not say it.")


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model whose size we know before it is here. `url` for those that are no Hugging Face repositories."""

    gigabytes: float
    url: str | None = None
    md5: str | None = None


_SAM = "https://dl.fbaipublicfiles.com/segment_anything/"

# Names of SAM's checkpoints: README of facebookresearch/segment-anything. Sizes: of the files that are fetched.
KNOWN = {
    "vit_b": KnownModel(0.4, _SAM + "sam_vit_b_01ec64.pth", "01ec64d29a2fca3f0661936605ae66f8"),
    "vit_l": KnownModel(1.2, _SAM + "sam_vit_l_0b3195.pth", "0b3195507c641ddb6910d2bb5adee89c"),
    "vit_h": KnownModel(2.6, _SAM + "sam_vit_h_4b8939.pth", "4b8939a88964f0f4ff5f5b2642c598a6"),
    "stable-diffusion-v1-5/stable-diffusion-v1-5": KnownModel(4.3),
    "stabilityai/stable-diffusion-xl-base-1.0": KnownModel(13.9),
    "stabilityai/stable-diffusion-3.5-medium": KnownModel(18),
    "black-forest-labs/FLUX.1-schnell": KnownModel(34),
    "google/owlv2-base-patch16-ensemble": KnownModel(0.6),
    "google/owlv2-large-patch14-ensemble": KnownModel(1.8),
    "IDEA-Research/grounding-dino-tiny": KnownModel(0.7),
    "IDEA-Research/grounding-dino-base": KnownModel(0.9),
    "openai/clip-vit-base-patch32": KnownModel(0.6),
    "openai/clip-vit-large-patch14": KnownModel(1.7),
}


class ModelMissing(LookupError):
    """A model that is not on this machine. The message says how to get it."""


def cache_folder() -> Path:
    """Where checkpoints that are no Hugging Face repositories are kept: `$SYNTHGEN_HOME`, else in the user's cache."""
    home = os.environ.get("SYNTHGEN_HOME")
    return Path(home) if home else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "synthgen"


def find_model(
    model: str,
    kind: Literal["diffusion", "sam", "detector", "clip"],
    revision: str | None = None,
    variant: str | None = None,
) -> Path:
    """The folder or file of a model that is on this machine. Nothing is ever fetched.

    Raises:
        ModelMissing: it is not here; in one sentence, with its size where known and the command that fetches it.
    """
    if model == "mini":
        folder = MINI / kind
        if not folder.is_dir():
            raise ModelMissing(f"there is no embedded {kind} model; name a folder or a Hugging Face id")
        return folder
    path = Path(model).expanduser()
    if path.exists():
        return path.resolve()
    known = KNOWN.get(model)
    size = f" ({known.gigabytes / (2 if variant == 'fp16' else 1):.3g} GB)" if known else ""
    fetch = f"fetch it with: synthgen models --download {model}"
    fetch += f" --revision {revision}" * bool(revision) + f" --variant {variant}" * bool(variant)
    if known and known.url:
        path = cache_folder() / "models" / Path(known.url).name
        if path.is_file():
            return path
        raise ModelMissing(f"{model!r} is not on this machine{size}; {fetch}")
    if model.startswith((".", "/", "~")) or model.count("/") != 1 or path.suffix in {".pth", ".pt", ".safetensors"}:
        raise ModelMissing(
            f"{model!r} does not exist; it takes `mini`, a folder or file, or a model id such as 'owner/name'"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError) as error:
        raise ModelMissing(f"{model!r} is not on this machine{size}; {fetch}") from error


@lru_cache
def read_card(path: Path) -> ModelCard:
    """The card in a model's folder; an empty one for a single file or a folder without.

    Raises:
        ModelMissing: the card is there and not valid.
    """
    file = path / "synthgen.json"
    if not file.is_file():
        return ModelCard()
    try:
        return ModelCard.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise ModelMissing(f"{file} is no valid model card: {error.errors()[0]['msg']}") from error


@lru_cache
def model_identity(path: Path) -> str:
    """Names a model's exact files: the commit of a Hugging Face snapshot, else a sha256 over names and contents."""
    if path.parent.name == "snapshots":
        return path.name
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        if file.suffix in {".safetensors", ".pth", ".pt", ".bin", ".json", ".txt", ".model"}:
            with open(file, "rb") as opened:
                part = hashlib.file_digest(opened, "sha256").hexdigest()
            digest.update(f"{file.relative_to(path) if path.is_dir() else file.name}\0{part}\n".encode())
    return digest.hexdigest()
