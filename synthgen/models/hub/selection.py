"""Which files of a model's repository are read, so that no others are fetched."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

from synthgen.backends import Source
from synthgen.base.wording import plain, shown
from synthgen.errors import listed, nearest

# The settings and vocabularies that transformers and diffusers look for. Other files of these kinds, such as a README's
# pictures or the states of a training, are read by nobody.
SETTINGS = ("*config.json", "tokenizer*", "vocab*", "merges*", "special_tokens_map.json", "added_tokens.json",
            "*.model", "*.tiktoken", "chat_template*", "*.jinja")  # fmt: skip
OF_WEIGHTS = ("config.json", "generation_config.json")  # what is read beside weights in a part of a pipeline
INDEXES = ("model_index.json", "modular_model_index.json")
CARD = "synthgen.json"
README = "README.md"  # its header says what the licence is
# Weights in other formats: pickles, which can run code, and those of other frameworks.
OTHER_WEIGHTS = (".bin", ".ckpt", ".pt", ".pth", ".msgpack", ".h5", ".onnx", ".pb")

Read = Callable[[str], Mapping[str, Any]]  # the mapping in a JSON file of the repository


def needed_files(names: Collection[str], read: Read, source: Source) -> list[str]:
    """The files of a repository that are read when a model is loaded.

    Args:
        names: all files of the repository.
        read: fetches and reads one of them; raises ValueError if that cannot be read.

    Raises:
        ValueError: the repository holds no such model. The message says what it holds.
    """
    if source.files:
        for name in source.files:
            if name not in names:
                raise ValueError(f"it has no file {shown(name)}{nearest(name, names)}; it has {listed(sorted(names))}")
        return sorted({*source.files, *{README} & set(names)})
    card = read(CARD) if CARD in names else {}
    if index := next((name for name in INDEXES if name in names), None):
        chosen = {index, *_of_pipeline(names, read, source, read(index), card)}
    elif isinstance(weights := card.get("weights"), str) and weights in names:
        chosen = {weights}
    elif _matching("", names, ["config.json", "tokenizer_config.json"]):
        found = _weights("", names, source.variant, read)
        if not found and "config.json" in names and (others := _instead(names)):
            raise ValueError(f"it has no .safetensors weights{others}")
        _require_variant(source, found)
        chosen = {*found, *_matching("", names, SETTINGS)}
    elif len(single := _matching("", names, ["*.safetensors"])) == 1:  # such as a LoRA
        chosen = set(single)
    else:
        has = listed(sorted(names), 12)
        raise ValueError(
            f"it holds neither a pipeline of diffusers nor a model of transformers; it has {has}; name the files with "
            "--file"
        )
    return sorted(chosen | ({CARD, README} & set(names)))


def _of_pipeline(
    names: Collection[str], read: Read, source: Source, index: Mapping[str, Any], card: Mapping[str, Any]
) -> Iterator[str]:
    """The files of the parts that a pipeline's index names, and of the adapter that a model's card names."""
    folders = {str(PurePosixPath(name).parent) for name in names}
    parts = {name: kind for name, kind in index.items() if isinstance(kind, list) and any(kind)}
    layout = card.get("layout")
    if isinstance(layout, dict) and isinstance(layout.get("folder"), str):
        parts[layout["folder"]] = []
    weights: list[str] = []
    for name, kind in parts.items():
        if name in source.without or name != (source.part or name):
            continue
        # A modular pipeline's index gives a folder, and takes parts from other repositories too.
        settings = kind[2] if kind[2:] and isinstance(kind[2], dict) else {}
        folder = str(settings.get("subfolder") or name)
        if folder not in folders:
            if not kind[2:] and all(isinstance(word, str) for word in kind):
                raise ValueError(f"its part {shown(name)} is not in the repository")
            continue
        found = []
        if name not in source.settings_only:
            found = _weights(folder, names, source.variant or settings.get("variant"), read)
        inside = _matching(folder, names, ["*"])
        if not found and f"{folder}/config.json" in names and (others := _instead(inside)):
            raise ValueError(f"its part {shown(name)} has no .safetensors weights{others}")
        weights += found
        yield from found
        yield from _matching(folder, names, OF_WEIGHTS if found or name in source.settings_only else SETTINGS)
    _require_variant(source, weights)


def _require_variant(source: Source, weights: Collection[str]) -> None:
    """Raises: ValueError: none of the weights is of the variant that is asked for."""
    variant = source.variant
    if variant and not source.part and not any(f".{variant}." in name or f".{variant}-" in name for name in weights):
        raise ValueError(f"it has no weights of the variant {shown(variant)}")


def _matching(folder: str, names: Collection[str], patterns: Collection[str]) -> list[str]:
    """The files directly in a folder whose names match a pattern."""
    paths = [PurePosixPath(name) for name in names]
    inside = [path for path in paths if str(path.parent) == (folder or ".")]
    return [str(path) for path in inside if any(fnmatchcase(path.name, pattern) for pattern in patterns)]


def _weights(folder: str, names: Collection[str], variant: str | None, read: Read) -> list[str]:
    """The weights of one model: a single file, or an index with its shards. Those of the variant if there are, else the
    plain ones, as in diffusers (`variant_compatible_siblings`)."""
    before = f"{folder}/" if folder else ""
    for ending in [f".{variant}"] * bool(variant) + [""]:
        for base in ("model", "diffusion_pytorch_model"):
            single = f"{before}{base}{ending}.safetensors"
            index = f"{before}{base}.safetensors.index{ending}.json"
            # If there are both, transformers reads the single file and diffusers reads the shards.
            if index in names and not (single in names and base == "model"):
                return [index, *_shards(index, before, names, read)]
            if single in names:
                return [single]
    return []


def _shards(index: str, before: str, names: Collection[str], read: Read) -> list[str]:
    weight_map = read(index).get("weight_map")
    shards = sorted({f"{before}{name}" for name in weight_map.values()}) if isinstance(weight_map, dict) else []
    if missing := [name for name in shards if name not in names]:
        raise ValueError(f"its {index} names shards that it does not have: {plain(listed(missing), 300)}")
    return shards


def _instead(names: Collection[str]) -> str:
    """The end of a message: which other weights there are."""
    others = sorted({PurePosixPath(name).suffix for name in names if name.endswith(OTHER_WEIGHTS)})
    return f", only {listed(others)}, which can hold code or are of other frameworks" if others else ""
