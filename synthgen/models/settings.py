"""Inspects the settings in a model's folder: none may run code, fetch or read files from elsewhere, or need more time
and memory than the weights justify."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from synthgen.base.wording import plain, shown
from synthgen.errors import BackendError
from synthgen.models import read_json
from synthgen.models.weights import Held

MAX_VOCABULARY = 200_000_000  # bytes of a tokenizer's file; the largest so far, that of Gemma 3, has 33 million
# A size above `LARGE` must be justified by a tensor with as many numbers. In settings without weights no tensor can
# justify it, and `LARGEST` is the limit: the greatest sizes in use are numbers of pixels, up to 17 million.
LARGE, LARGEST = 100_000, 100_000_000
# A tokenizer's "no limit": transformers ignores a number above its `LARGE_INTEGER`.
ENDLESS = 10**20
# Names of sizes that are built in a loop or squared, and their limits, which are a few times the sizes in use (in the
# comments).
LIMITS = (
    (re.compile(r"num_train_timesteps|original_inference_steps"), 100_000),  # 1,000
    (re.compile(r"(.*_)?(layers?|blocks?|depths?)(_per_block)?"), 1_000),  # 126, of Llama 3.1 405B
    (re.compile(r"(image|crop|sample|pos_embed_max)_size"), 16_384),  # px, or cells: 1,024
)
NO_SIZE = re.compile(r"(.*_)?theta|.*_token_(id|index)")  # the base of rotary positions; positions in a vocabulary
SIDES = re.compile(r"height|width|shortest_edge|longest_edge|size|crop_size")  # px, in a picture processor's settings
MAX_LIST = 10_000  # entries of a list in settings
# The implementations in transformers itself; it looks for any other among the compiled kernels on the hub.
ATTENTION = ("eager", "sdpa", "flex_attention")
EXPERTS = ("eager", "batched_mm", "grouped_mm")
# Methods of quantisation whose kernels come with a package and not from the hub.
QUANTISED = ("bitsandbytes", "bitsandbytes_4bit", "bitsandbytes_8bit", "quanto", "torchao")
PATHS = {"vocab_file", "merges_file", "tokenizer_file", "spm_file"}  # keys with a tokenizer's files


def _settings(file: Path) -> dict[str, Any]:
    try:
        return read_json(file)
    except (OSError, ValueError) as error:
        raise BackendError(f"{file} cannot be read: {plain(str(error))}") from error


def inspect_settings(folder: Path, held: Held | None, *, pictures: bool = True) -> None:
    """Inspects the settings in a folder.

    Args:
        held: the sizes of its weights, if it has any.
        pictures: whether the folder's processor prepares pictures.

    Raises:
        BackendError: a setting cannot be read, is larger than any model needs, or names files elsewhere.
    """
    for name in ("adapter_config.json", "audio_tokenizer_config.json"):
        if (folder / name).exists():
            raise BackendError(f"{folder / name} names a model of another folder; takes a folder without it")
    for file in sorted(folder.iterdir()):
        if file.suffix in {".json", ".txt", ".model", ".jinja"} and file.is_file():
            size = file.stat().st_size
            if size > MAX_VOCABULARY:
                raise BackendError(f"{file} has {size:,} bytes; takes at most {MAX_VOCABULARY:,}")
    for file in sorted(folder.glob("*config.json")):
        settings = _settings(file)
        is_model, is_tokenizer = file.name == "config.json", file.name == "tokenizer_config.json"
        sides = pictures and not (is_model or is_tokenizer)
        for key, value in _entries(settings):
            if isinstance(value, int | float) and not isinstance(value, bool):
                if not (is_tokenizer and value >= ENDLESS):
                    _require_number(file, key, value, held if is_model else None, sides=sides)
            else:
                _require_harmless(file, key, value)


def inspect_arguments(file: Path, arguments: Mapping[str, Any]) -> None:
    """Inspects the arguments of a pipeline's class that its index gives beside its parts.

    Raises:
        BackendError: an argument is larger than any model needs, or names files elsewhere.
    """
    for key, value in _entries(arguments):
        if isinstance(value, int | float) and not isinstance(value, bool):
            _require_number(file, key, value, None, sides=False)
        else:
            _require_harmless(file, key, value)


def _entries(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """(key, value) of all settings, nested ones too; an entry of a list has the key of its list."""
    rest: list[tuple[str, Any]] = [("", settings)]
    while rest:
        key, value = rest.pop()
        if key:
            yield key, value
        if isinstance(value, dict):
            rest += [(str(k), v) for k, v in value.items()]
        elif isinstance(value, list):
            rest += [(key, v) for v in value]


def _require_number(file: Path, key: str, value: float, held: Held | None, *, sides: bool) -> None:
    """`sides`: whether the settings give sizes of pictures. Raises: BackendError: a size is above its limit."""
    most, why = LARGEST, ""
    if held is not None and not NO_SIZE.fullmatch(key):
        most = max(LARGE, held.largest)
        why = f": its weights have no tensor of more than {held.largest:,} numbers"
    for pattern, limit in LIMITS:
        if pattern.fullmatch(key):
            most, why = min(most, limit), ""
    if sides and SIDES.fullmatch(key):
        most = min(most, LIMITS[-1][1])
    is_size = isinstance(value, int) or most < LARGE  # a number with a decimal point is no size
    if is_size and not abs(value) <= most:
        raise BackendError(f"{file}: {plain(key)}: got {shown(value)}; takes at most {most:,}{why}")


def _require_harmless(file: Path, key: str, value: Any) -> None:
    """Raises: BackendError: a setting would fetch a file, run code, or read a file from elsewhere."""
    takes = ""
    bare = key.strip("_").removesuffix("_internal")
    if isinstance(value, list) and len(value) > MAX_LIST:
        raise BackendError(f"{file}: {plain(key)}: got a list of {len(value):,}; takes at most {MAX_LIST:,} entries")
    for name, known in (("attn_implementation", ATTENTION), ("experts_implementation", EXPERTS)):
        # If a model consists of several models, a mapping gives the implementation of each.
        chosen = list(value.values()) if isinstance(value, dict) else [value]
        if bare == name and not all(v is None or v in known for v in chosen):
            takes = f"{', '.join(known)}: kernels from the hub are code, and never fetched"
    if key == "quant_method" and value not in QUANTISED:
        takes = f"{', '.join(QUANTISED)}: others fetch kernels, which are code"
    elif key == "transformers_weights" and value is not None:
        is_shard = isinstance(value, str) and value == Path(value).name and value.endswith(".safetensors")
        takes = "" if is_shard else "a .safetensors file beside it: other formats can hold code"
    elif key.startswith("audio_tokenizer") or (key == "use_pretrained_backbone" and value):
        takes = "none: it would load a model of another folder"
    elif key in ("backbone", "architecture") and isinstance(value, str) and re.search(r"[/:\\]", value):
        takes = "a bare name: others would load a model of another folder"
    elif key == "checkpoint_path" and value:  # timm would read it, and it may hold code
        takes = "none: the weights are the folder's own"
    elif key in PATHS and isinstance(value, str) and value != Path(value).name and _exists(file.parent / value):
        takes = "files beside it"
    if takes:
        raise BackendError(f"{file}: {plain(key)}: got {shown(value)}; takes {takes}")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # the name is too long, or contains a NUL
        return False
