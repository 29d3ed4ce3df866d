"""The weights in a model's folder: their sizes, and which of their files are missing. Only headers are read."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from synthgen.base.wording import plain, shown
from synthgen.errors import BackendError
from synthgen.models import MAX_JSON, read_json

# Bits of a number, by the name of its dtype in safetensors (`Dtype` of the package).
BITS = {"F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16,
        "U16": 16, "I8": 8, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8,
        "F8_E5M2FNUZ": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Held:
    """Sizes of weights: the number of tensors, the numbers in the largest tensor, and the bytes of all tensors."""

    tensors: int = 0
    largest: int = 0
    size: int = 0

    def __add__(self, other: Held) -> Held:
        return Held(self.tensors + other.tensors, max(self.largest, other.largest), self.size + other.size)


# The names that transformers and diffusers look for. A shard's variant is before its number; formerly it was after it.
_WEIGHTS = re.compile(r"(model|diffusion_pytorch_model)(?:\.(\w+))?(?:-\d{5}-of-(\d{5}))?(?:\.(\w+))?\.safetensors")


def missing_weights(folder: Path, variant: str | None = None) -> list[str]:
    """Names of the missing weight files in a folder of transformers or diffusers: shards that the index names or that
    the numbers in file names imply, the index, and links that lead nowhere. If `variant` is None and all weights are
    variants, the plain weights are missing. Empty for a folder without weights of such names.

    Raises:
        BackendError: an index cannot be read, or names a file that is no shard.
    """
    ending = f".{variant}" if variant else ""
    missing: list[str] = []
    others: dict[str, set[str]] = {}
    ours: set[str] = set()
    shards: dict[str, set[str]] = {}
    for file in folder.glob("*.safetensors"):
        if not (parts := _WEIGHTS.fullmatch(file.name)):
            continue
        base, file_variant, count = parts[1], parts[2] or parts[4], parts[3]
        if file_variant != variant:
            others.setdefault(base, set()).add(file_variant or "")
            continue
        ours.add(base)
        if count:
            before, after = file.name.partition(f"-of-{count}")[::2]
            shards.setdefault(base, set()).update(
                f"{before[:-5]}{i:05}-of-{count}{after}" for i in range(1, int(count) + 1)
            )
        elif not file.is_file():
            missing.append(file.name)
    for base in ("model", "diffusion_pytorch_model"):
        index = folder / f"{base}.safetensors.index{ending}.json"
        whole = (folder / f"{base}{ending}.safetensors").is_file()
        named: set[str] = set()
        # If there are both, transformers reads the single file and diffusers reads the shards.
        if index.is_file() and not (whole and base == "model"):
            named = shards_of(index)
        elif base in shards and not whole:
            named = {*shards[base], index.name}
        elif base in others and not ours and not variant:
            missing.append(f"{base}.safetensors (of variants there is {', '.join(sorted(others[base]))})")
        missing += sorted(name for name in named if not (folder / name).is_file())
    return missing


def part_variant(part: Path, variant: str | None) -> str | None:
    """The variant of a pipeline's part that diffusers loads: a part without files of the wanted variant is loaded from
    its plain files (`_identify_model_variants` of diffusers 0.42).

    Raises:
        BackendError: diffusers fails on the name of a file beside them.
    """
    if variant is None:
        return None
    names = sorted(file.name for file in part.iterdir())
    if undotted := [name for name in names if "." not in name]:
        raise BackendError(
            f"{part / undotted[0]} has no dot in its name, and diffusers loads no variant beside such a file; remove "
            "it, or the option `variant`"
        )
    return variant if any(name.split(".")[1].startswith(variant) for name in names) else None


def shards_of(index: Path) -> set[str]:
    """The files that an index names.

    Raises:
        BackendError: the index cannot be read, or names anything but safetensors files beside it.
    """
    try:
        named = {str(name) for name in read_json(index)["weight_map"].values()}
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise BackendError(f"{index} cannot be read: {plain(str(error), 200)}") from error
    for name in sorted(named):
        if not name.endswith(".safetensors") or name != Path(name).name or not name.isprintable():
            raise BackendError(
                f"{index} names {shown(name)} in its weight_map; takes .safetensors files beside it: other formats can "
                "hold code"
            )
    return named


def held_by(folder: Path, variant: str | None = None) -> Held:
    """The sizes of the weights that will be loaded: all, or those of a variant.

    Raises:
        BackendError: a file is damaged, or an index names anything but safetensors files beside it.
    """
    for index in sorted(folder.glob("*.safetensors.*json")):
        if index.is_file():
            shards_of(index)
    ending = f".{variant}" if variant else ""
    held = Held()
    for file in sorted({*folder.glob(f"*{ending}.safetensors"), *folder.glob(f"*{ending}-*.safetensors")}):
        held += require_safetensors(file)
    return held


def shapes_in(file: Path) -> dict[str, tuple[int, ...]]:
    """The tensors in a file that `require_safetensors` takes: name -> shape."""
    with open(file, "rb") as opened:
        header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    return {name: tuple(part["shape"]) for name, part in header.items() if name != "__metadata__"}


def require_safetensors(file: Path) -> Held:
    """The sizes of the weights in a file, from its header.

    Raises:
        BackendError: the file is no safetensors file, or is cut short.
    """
    try:
        with open(file, "rb") as opened:
            size = os.fstat(opened.fileno()).st_size
            length = int.from_bytes(opened.read(8), "little")
            if size < 8 or length > size - 8 or length > MAX_JSON:
                raise ValueError(f"of its {size:,} bytes, {length:,} should be its header")
            header = json.loads(opened.read(length))
        tensors = {name: part for name, part in header.items() if name != "__metadata__"}
        ends, numbers = [0], [0]
        for begin, end in sorted(part["data_offsets"] for part in tensors.values()):
            if begin != ends[-1] or end < begin:
                raise ValueError("its tensors overlap, or leave gaps")
            ends.append(end)
        for part in tensors.values():
            begin, end = part["data_offsets"]
            numbers.append(prod(part["shape"]))
            if min(part["shape"], default=0) < 0 or BITS[part["dtype"]] * numbers[-1] != 8 * (end - begin):
                raise ValueError(f"a tensor of shape {shown(part['shape'])} has {end - begin:,} bytes")
        if ends[-1] != size - 8 - length:
            raise ValueError(f"its tensors should have {ends[-1]:,} bytes, and there are {size - 8 - length:,}")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        reason = str(error) if type(error) is ValueError else type(error).__name__
        raise BackendError(f"{file} is no whole safetensors file: {plain(reason, 200)}") from error
    return Held(len(tensors), max(numbers), ends[-1])


def stored_number(folder: Path, name: str) -> float | None:
    """The number in a tensor of one element in a folder's weights; None if there is no such tensor.

    Raises:
        BackendError: a file is damaged.
    """
    for file in sorted(folder.glob("*.safetensors")):
        require_safetensors(file)
        with open(file, "rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            part = json.loads(opened.read(length)).get(name)
            if part is None or prod(part["shape"]) != 1:
                continue
            opened.seek(8 + length + part["data_offsets"][0])
            data = opened.read(BITS[part["dtype"]] // 8)
        if part["dtype"] == "BF16":  # the upper half of a float32
            return float(np.frombuffer(b"\0\0" + data, "<f4")[0])
        if part["dtype"] in ("F16", "F32", "F64"):
            return float(np.frombuffer(data, f"<f{len(data)}")[0])
    return None
