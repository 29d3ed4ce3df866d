"""Modular pipelines of diffusers. The folder of one has a `modular_model_index.json`, and its pipeline is put together
of blocks. Each part has a folder of its own. It imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from synthgen.base.wording import plain, shown
from synthgen.errors import BackendError, listed
from synthgen.models import read_json
from synthgen.models.inspection import (
    Inspected,
    inspect_file,
    inspect_part,
    pipeline_parts,
    require_class,
    require_inside,
)
from synthgen.models.settings import inspect_arguments
from synthgen.models.weights import Held, part_variant

INDEX = "modular_model_index.json"
# The name of blocks that somebody has put together, with which diffusers takes the class's own.
UNNAMED_BLOCKS = "SequentialPipelineBlocks"


@dataclass(frozen=True, slots=True)
class Blocks:
    """What the blocks of a modular pipeline class need to make images from texts.

    Attributes:
        name: their class.
        inputs: arguments of a call -> their defaults.
        parts: names of the parts that are loaded from files.
        optional: names of parts that may be absent.
    """

    name: str
    inputs: Mapping[str, Any]
    parts: tuple[str, ...]
    optional: tuple[str, ...] = ()


_COMMON = {"prompt": None, "height": None, "width": None, "generator": None, "output_type": "pil"}
_FLUX3 = {**_COMMON, "boxes": None, "max_new_tokens": 3584, "max_sequence_length": 8192, "sigmas": None,
          "text_encoder_out_layers": (4, 8, 12, 16, 20, 24, 28, 32)}  # fmt: skip
_FLUX3_PARTS = ("prompt_upsampler", "prompt_upsampler_processor", "text_encoder", "tokenizer", "vae", "transformer")
# The blocks of each class that is taken; a test compares them with diffusers.
MODULAR = {
    "Flux3ModularPipeline": Blocks(
        "Flux3AutoBlocks", {**_FLUX3, "num_inference_steps": 50, "negative_prompt": None, "attention_kwargs": None},
        _FLUX3_PARTS,
    ),
    "Flux3DistilledModularPipeline": Blocks(
        "Flux3DistilledAutoBlocks", {**_FLUX3, "num_inference_steps": 16}, _FLUX3_PARTS
    ),
    "AnimaModularPipeline": Blocks(
        "AnimaAutoBlocks",
        {**_COMMON, "negative_prompt": None, "max_sequence_length": 512, "num_inference_steps": 50, "sigmas": None},
        ("text_encoder", "tokenizer", "t5_tokenizer", "vae", "text_conditioner", "transformer", "scheduler"),
    ),
    "Ideogram4ModularPipeline": Blocks(
        "Ideogram4AutoBlocks",
        {**_COMMON, "max_sequence_length": 2048, "num_inference_steps": 48, "mu": 0.0, "std": 1.5,
         "guidance_schedule": (7.0,) * 45 + (3.0,) * 3, "prompt_upsampling": False,
         "prompt_upsampling_temperature": 1.0},
        ("text_encoder", "tokenizer", "transformer", "scheduler", "unconditional_transformer", "vae"),
        ("prompt_enhancer_head",),
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a modular pipeline.

    Attributes:
        library, kind: its class.
        folder: where its files are.
        variant: of its weights.
        origin: the folder or repository that the index takes it from.
    """

    library: str
    kind: str
    folder: Path
    variant: str | None = None
    origin: str = ""


@dataclass(frozen=True, slots=True)
class ModularIndex:
    """The contents of a `modular_model_index.json`. `arguments`: settings of the pipeline beside its parts."""

    pipeline: str
    blocks: Blocks
    parts: Mapping[str, Part] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)


def is_modular(folder: Path) -> bool:
    """Whether a model's folder has a modular pipeline, and no other."""
    return (folder / INDEX).is_file() and not (folder / "model_index.json").is_file()


def part_classes(folder: Path) -> Mapping[str, str]:
    """Name -> class of each part of a pipeline of either kind. Raises: BackendError: see `read_index`."""
    if is_modular(folder):
        return {name: part.kind for name, part in read_index(folder).parts.items()}
    return pipeline_parts(folder)


def read_index(folder: Path, variant: str | None = None) -> ModularIndex:
    """Reads the index of a modular pipeline's folder.

    Raises:
        BackendError: it cannot be read, or names code, or a pipeline that is not taken.
    """
    file = folder / INDEX
    inspect_file(file, folder)
    try:
        index = read_json(file)
    except (OSError, ValueError) as error:
        raise BackendError(f"{file} cannot be read: {plain(str(error), 200)}") from error
    pipeline, blocks_name = index.get("_class_name"), index.get("_blocks_class_name")
    blocks = MODULAR.get(pipeline) if isinstance(pipeline, str) else None
    if blocks is None or not isinstance(pipeline, str):
        raise BackendError(f"{file} names the pipeline {shown(pipeline)}; of modular ones takes {listed(MODULAR)}")
    if blocks_name not in (None, blocks.name, UNNAMED_BLOCKS):
        raise BackendError(f"{file} names the blocks {shown(blocks_name)}; takes {blocks.name}, those of {pipeline}")
    given = {name: value for name, value in index.items() if not name.startswith("_") and value is not None}
    arguments = {name: value for name, value in given.items() if not _is_part(value)}
    inspect_arguments(file, arguments)
    parts = {name: _part(file, folder, name, value) for name, value in given.items() if name not in arguments}
    return ModularIndex(pipeline, blocks, parts, arguments)


def _is_part(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and isinstance(value[2], dict)


def _part(file: Path, folder: Path, name: str, value: list[Any]) -> Part:
    """A part as the index gives it: [library, class, {"type_hint": [library, class], "subfolder": …, …}]."""
    settings = value[2]
    kind = settings.get("type_hint") or value[:2]
    require_class(file, folder, name, kind, takes_auto=True)
    place, variant = settings.get("subfolder") or name, settings.get("variant")
    path = PurePosixPath(place) if isinstance(place, str) and place.isprintable() else PurePosixPath("/")
    if path.is_absolute() or ".." in path.parts or path == PurePosixPath():
        raise BackendError(f"{file}: {plain(name)}: subfolder: got {shown(place)}; takes a folder inside the model's")
    if not (variant is None or isinstance(variant, str)):
        raise BackendError(f"{file}: {plain(name)}: variant: got {shown(variant)}; takes a name")
    return Part(kind[0], kind[1], folder / path, variant, str(settings.get("pretrained_model_name_or_path") or ""))


def inspect_modular(folder: Path, variant: str | None) -> Inspected:
    """Inspects a folder of a modular pipeline. Only parts inside it can be loaded, whatever the index says.

    Raises:
        BackendError: something in it must not be loaded, or is in another folder or repository. The message names the
            file and, for a setting, its key.
    """
    index = read_index(folder)
    require_inside(folder, folder)
    missing: list[str] = []
    held = Held()
    for name in (*index.blocks.parts, *(index.parts.keys() - {*index.blocks.parts})):
        part = index.parts.get(name)
        if part is None or not part.folder.is_dir():
            if name not in index.blocks.optional:
                _require_own(folder, name, part)
                missing.append(name)
            continue
        for parent in part.folder.relative_to(folder).parents:
            require_inside(folder / parent, folder)
        wanted = part_variant(part.folder, variant or part.variant)
        inspected = inspect_part(part.folder, folder, name, part.kind, wanted)
        missing += inspected.missing
        held += inspected.held
    return Inspected(tuple(missing), held)


def _require_own(folder: Path, name: str, part: Part | None) -> None:
    """Raises: BackendError: the index takes a part that is not in the folder from elsewhere."""
    if part is not None and part.origin not in ("", str(folder)):
        raise BackendError(
            f"{folder / INDEX} takes {plain(name)} from {shown(part.origin)}, and parts are loaded from the model's "
            f"own folder only; put its files into {part.folder}, or save the whole pipeline in one folder by "
            "diffusers' `save_pretrained`"
        )
