"""Finds a model's files by its name: the embedded `mini`, a folder or file of the user's, a name of SAM's checkpoints,
or a Hugging Face id.

A model's folder may hold `synthgen.json`, its card: which classes, words and sizes the model knows, and how it takes a
layout.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from synthgen.base.files import expand_home
from synthgen.base.wording import plain, shown
from synthgen.errors import BackendError, SynthgenError

MAX_JSON = 10_000_000  # bytes of a model's JSON files, and of the headers of its weights
MINI = Path(__file__).parent.parent / "mini" / "weights"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Licence(_Strict):
    name: str
    url: str


class AdapterLayout(_Strict):
    """The layout reaches the model as an image, with boxes filled with their class's colour, through a T2I-Adapter
    (arXiv 2302.08453). `folder`: the adapter's folder inside the model's; `palette`: class -> its value in each channel
    that the adapter takes: RGB in [0, 1], or one channel for each class; `downscale`: the adapter's image is smaller
    than the picture by this factor, and its pixels are means."""

    form: Literal["t2i_adapter"]
    folder: str
    palette: dict[str, Annotated[tuple[float, ...], Field(min_length=1, max_length=4096)]] = Field(min_length=1)
    downscale: int = Field(1, ge=1, le=256)

    @field_validator("folder")
    @classmethod
    def _inside(cls, value: str) -> str:
        path = PurePosixPath(value)
        if path.is_absolute() or not path.parts or ".." in path.parts or not value.isprintable():
            raise ValueError(f"got {shown(value)}; takes a folder inside the model's")
        return value

    @field_validator("palette")
    @classmethod
    def _equal_lengths(cls, value: dict[str, tuple[float, ...]]) -> dict[str, tuple[float, ...]]:
        if len({len(colour) for colour in value.values()}) != 1:
            raise ValueError("`palette` gives its classes colours of different lengths")
        return value


class NativeLayout(_Strict):
    """The layout reaches the model without a picture. `boxes`: as the argument `boxes` of the pipeline's call;
    `json_caption`: in the prompt, which becomes a caption of JSON. See `synthgen.models.layouts`."""

    form: Literal["boxes", "json_caption"]


class KnownClass(_Strict):
    aspect_ratio: tuple[float, float] | None = Field(None, description="Least and greatest width over height.")


class SamShape(_Strict):
    """Arguments of `segment_anything`'s model classes; its state dicts do not contain them."""

    # The limits are a few times the values of the largest official model: without them, a card could make loading take
    # any time and memory.
    image_size: int = Field(ge=16, le=4096)
    patch_size: int = Field(ge=1, le=256)
    embed_dim: int = Field(ge=1, le=8192)
    depth: int = Field(ge=1, le=128)
    num_heads: int = Field(ge=1, le=256)
    global_attn_indexes: tuple[int, ...] = Field(max_length=128)
    window_size: int = Field(ge=0, le=256)
    prompt_embed_dim: int = Field(ge=1, le=4096)
    mlp_dim: int = Field(ge=1, le=65536)
    iou_head_hidden_dim: int = Field(ge=1, le=65536)

    @model_validator(mode="after")
    def _whole(self) -> SamShape:
        for whole, part in (("image_size", "patch_size"), ("embed_dim", "num_heads")):
            if getattr(self, whole) % getattr(self, part):
                raise ValueError(f"`{whole}` is no multiple of `{part}`")
        return self


class ModelCard(_Strict):
    """`synthgen.json` in a model's folder. A missing field means that no limit is known."""

    licence: Licence | None = None
    sizes: tuple[tuple[int, int], ...] | None = Field(None, description="(height, width) px that it was trained for.")
    classes: dict[str, KnownClass] | None = None
    vocabulary: tuple[str, ...] | None = Field(None, description="Every word its tokenizer knows.")
    layout: Annotated[AdapterLayout | NativeLayout, Field(discriminator="form")] | None = None
    sam: SamShape | None = None
    weights: str | None = Field(None, description="The weights' file, if the folder's layout does not show it.")


@dataclass(frozen=True, slots=True)
class KnownModel:
    """What is known of a published model before it is downloaded.

    Attributes:
        url, md5: where it is, and its checksum, if it is no Hugging Face repository.
        licence: as its publisher names it.
        gated: whether one must accept terms on its page before one can download it.
    """

    gigabytes: float
    url: str | None = None
    md5: str | None = None
    licence: str | None = None
    gated: bool = False

    def size(self, variant: str | None) -> float:
        """The gigabytes of a variant: weights in float16 have half of them."""
        return self.gigabytes / (2 if variant == "fp16" else 1)


_SAM = "https://dl.fbaipublicfiles.com/segment_anything/"

# The names of SAM's checkpoints are those in the README of facebookresearch/segment-anything. The sizes are those of
# the files that are fetched. The licences, and which are gated, are those on their pages; CLIP's is in its repository.
KNOWN = {
    "vit_b": KnownModel(0.4, _SAM + "sam_vit_b_01ec64.pth", "01ec64d29a2fca3f0661936605ae66f8", "Apache-2.0"),
    "vit_l": KnownModel(1.2, _SAM + "sam_vit_l_0b3195.pth", "0b3195507c641ddb6910d2bb5adee89c", "Apache-2.0"),
    "vit_h": KnownModel(2.6, _SAM + "sam_vit_h_4b8939.pth", "4b8939a88964f0f4ff5f5b2642c598a6", "Apache-2.0"),
    "stable-diffusion-v1-5/stable-diffusion-v1-5": KnownModel(5.5, licence="creativeml-openrail-m"),
    "stabilityai/stable-diffusion-xl-base-1.0": KnownModel(13.9, licence="openrail++"),
    "stabilityai/stable-diffusion-3.5-medium": KnownModel(16.3, licence="stabilityai-ai-community", gated=True),
    "black-forest-labs/FLUX.1-schnell": KnownModel(34, licence="apache-2.0", gated=True),
    "google/owlv2-base-patch16-ensemble": KnownModel(0.6, licence="apache-2.0"),
    "google/owlv2-large-patch14-ensemble": KnownModel(1.8, licence="apache-2.0"),
    "IDEA-Research/grounding-dino-tiny": KnownModel(0.7, licence="apache-2.0"),
    "IDEA-Research/grounding-dino-base": KnownModel(0.9, licence="apache-2.0"),
    "openai/clip-vit-base-patch32": KnownModel(0.6, licence="MIT"),
    "openai/clip-vit-large-patch14": KnownModel(1.7, licence="MIT"),
}


class ModelMissing(SynthgenError):
    """A model is not on this machine. The message says how to fetch it."""


class ModelIncomplete(BackendError):
    """Some of a model's files are not on this machine."""


def cache_folder() -> Path:
    """Where checkpoints that are no Hugging Face repositories are stored: `$SYNTHGEN_HOME`, else the user's cache."""
    home = os.environ.get("SYNTHGEN_HOME")
    return expand_home(home) if home else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "synthgen"


def find_model(
    model: str,
    kind: Literal["diffusion", "sam", "detector", "clip", "part"],
    revision: str | None = None,
    variant: str | None = None,
    files: Sequence[str] = (),
) -> Path:
    """The folder or file of a model that is on this machine. It never fetches anything.

    Args:
        kind: `part` is a part of a pipeline, or a file to be added to one.
        files: the files that are read, if those are not all that a download would fetch; for the message.

    Raises:
        ModelMissing: the model is not on this machine, or no model can have this name, revision or variant. The message
            is one sentence, with the size if it is known and the command that fetches it.
    """
    if model == "mini":
        folder = MINI / kind
        if not folder.is_dir():
            raise ModelMissing(f"there is no embedded {kind} model; name a folder or a Hugging Face id")
        return folder
    if local := existing(model):
        return local
    for key, named in (("revision", revision), ("variant", variant)):
        # Both become part of file names in the hub's cache.
        if named is not None and not is_revision(named):
            raise ModelMissing(f"{shown(model)} has no {key} {shown(named)}; it takes a branch, a tag or a commit")
    path = Path(model)
    known = KNOWN.get(model)
    size = f" ({known.size(variant):.3g} GB)" if known else ""
    fetch = f"fetch it with: {fetch_command(model, revision, variant, files)}"
    if known and known.url:
        path = cache_folder() / "models" / Path(known.url).name
        if path.is_file():
            return path
        raise ModelMissing(f"{model!r} is not on this machine{size}; {fetch}")
    weights = {".pth", ".pt", ".safetensors", ".gguf"}
    is_name = model.count("/") == 1 and model.isprintable() and len(model) <= 200
    if model.startswith((".", "/", "~", "-")) or not is_name or path.suffix in weights:
        raise ModelMissing(
            f"{plain(repr(model), 300)} does not exist; it takes `mini`, a folder or file, or a model id such as "
            "'owner/name'"
        )
    if snapshot := snapshot_of(model, revision or "main", kind):
        return snapshot
    raise ModelMissing(f"{model!r} is not on this machine{size}; {fetch}")


def fetch_command(
    model: str, revision: str | None = None, variant: str | None = None, files: Sequence[str] = ()
) -> str:
    """The command that fetches a model, or some files of it."""
    options = f" --revision {revision}" * bool(revision) + f" --variant {variant}" * bool(variant)
    options += "".join(f" --file {shlex.quote(file)}" for file in files)
    return f"synthgen models --download {shlex.quote(model)}{options}"


def is_revision(name: str) -> bool:
    """Whether a branch, a tag, a commit or a variant can have this name."""
    return bool(re.fullmatch(r"[\w./+-]{1,200}", name)) and ".." not in name and name[0] not in "./-"


def is_hub_id(model: str) -> bool:
    """Whether the Hugging Face hub could have a model of this name."""
    return bool(re.fullmatch(r"[\w.-]{1,96}/[\w.-]{1,96}", model)) and model[0] not in ".-"


def repository_folder(model: str) -> Path:
    """A repository's folder in the cache of the hub's client."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{model.replace('/', '--')}"


def snapshot_of(model: str, revision: str, kind: str) -> Path | None:
    """A model's folder in the hub's cache; None if there is none, or if it lacks the file that names the model's class.

    This does not use `snapshot_download`: since huggingface_hub 2.0 that refuses a folder that lacks any file of the
    repository, and neither synthgen nor transformers nor diffusers fetch all files.
    """
    cache = repository_folder(model)
    try:
        commit = (cache / "refs" / revision).read_text().strip()
    except (OSError, ValueError):
        commit = revision  # a commit has a file there only if it was fetched by a shorter name
    if not re.fullmatch(r"\w+", commit):
        return None
    folder = cache / "snapshots" / commit
    if not folder.is_dir() and re.fullmatch(r"[0-9a-f]{7,39}", commit):
        matches = list(folder.parent.glob(f"{commit}*"))
        folder = matches[0] if len(matches) == 1 else folder
    if kind in ("sam", "part"):
        is_model = folder.is_dir() and any(file.is_file() for file in folder.iterdir())
    else:
        is_model = any(
            (folder / name).is_file() for name in ("model_index.json", "modular_model_index.json", "config.json")
        )
    return folder if is_model else None


def existing(model: str) -> Path | None:
    """The file or folder of this name; None if there is none. A name that no file can have counts as none: it is too
    long, contains a NUL, or is a circular link."""
    try:
        path = expand_home(model)
        return path.resolve() if model and path.exists() else None
    except (OSError, ValueError, RuntimeError):
        return None


def read_json(file: Path) -> dict[str, Any]:
    """The mapping in a small JSON file.

    Raises:
        OSError, ValueError: the file cannot be read, or holds no mapping.
    """
    with open(file, "rb") as opened:
        data = opened.read(MAX_JSON + 1)
    if len(data) > MAX_JSON:
        raise ValueError(f"it has more than {MAX_JSON:,} bytes")
    try:
        content = json.loads(data)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError("it is no mapping")
    return content


@lru_cache
def read_card(path: Path) -> ModelCard:
    """The card in a model's folder; an empty card for a single file, or for a folder without a card.

    Raises:
        ModelMissing: the card is not valid.
    """
    file = path / "synthgen.json"
    if not file.is_file():
        return ModelCard()
    try:
        if file.stat().st_size > MAX_JSON:
            raise ModelMissing(f"{file} is no valid model card: it has more than {MAX_JSON:,} bytes")
        return ModelCard.model_validate_json(file.read_bytes())
    except OSError as error:
        raise ModelMissing(f"{file} is no valid model card: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        keys = [
            str(key) for i, key in enumerate(first["loc"]) if (i, first["loc"][0]) != (1, "layout")
        ]  # pydantic's tag
        where = f"{plain('.'.join(keys))}: " if keys else ""
        raise ModelMissing(f"{file} is no valid model card: {where}{plain(first['msg'], 300)}") from error


@lru_cache
def model_identity(path: Path) -> str:
    """Identifies a model's exact files: the commit of a Hugging Face snapshot, or a sha256 over names and contents."""
    if path.parent.name == "snapshots":
        return path.name
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        if file == path or file.suffix in {".safetensors", ".pth", ".pt", ".bin", ".json", ".txt", ".model"}:
            with open(file, "rb") as opened:
                part = hashlib.file_digest(opened, "sha256").hexdigest()
            digest.update(f"{file.relative_to(path) if path.is_dir() else file.name}\0{part}\n".encode())
    return digest.hexdigest()
