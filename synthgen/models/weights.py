"""What is in a model's folder, inspected before anything is built of it. A folder may come from anybody: no file of it
runs code, leads out of it, or asks for more time and memory than its weights justify. No torch: `check` calls this, and
loading calls it again."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from synthgen.base.wording import plain, shown
from synthgen.errors import BackendError
from synthgen.models import MAX_JSON, read_json

MAX_VOCABULARY = 200_000_000  # bytes of a tokenizer's file; that of Gemma 3, the largest so far, has 33 million
# A size beyond `LARGE` must be justified by a tensor with as many numbers. One in settings without weights has no such
# measure: the greatest that are in use are numbers of pixels, up to 17 million.
LARGE, LARGEST = 100_000, 100_000_000
# "No limit" of a tokenizer: transformers' `LARGE_INTEGER`, beyond which it ignores the number.
ENDLESS = 10**20
# Names of sizes that are built in a loop or squared, and the most that they take: a few times what is in use.
LIMITS = (
    (re.compile(r"num_train_timesteps|original_inference_steps"), 100_000),  # 1,000
    (re.compile(r"(.*_)?(layers?|blocks?|depths?)(_per_block)?"), 1_000),  # 126, of Llama 3.1 405B
    (re.compile(r"(image|crop|sample|pos_embed_max)_size"), 16_384),  # px, or cells: 1,024
)
SIDES = re.compile(r"height|width|shortest_edge|longest_edge|size|crop_size")  # px, of what prepares pictures
MAX_LIST = 10_000  # entries of a list in settings
# Those of transformers itself: whatever else it is given, it looks for among compiled kernels of the hub.
ATTENTION = ("eager", "sdpa", "flex_attention")
EXPERTS = ("eager", "batched_mm", "grouped_mm")
# Methods of quantisation whose kernels come with a package, and not from the hub.
QUANTISED = ("bitsandbytes", "bitsandbytes_4bit", "bitsandbytes_8bit", "quanto", "torchao")
# Libraries whose classes a pipeline may name: what else it names would be imported, and that is running it.
LIBRARIES = {"diffusers", "transformers", "synthgen.mini.autoencoder"}
# Of each, a tokenizer of transformers needs one; or a file of the package sentencepiece; or, of some classes, none.
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt")
OF_BYTES = ("ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer")
PATHS = {"vocab_file", "merges_file", "tokenizer_file", "spm_file"}  # what a tokenizer is read from
# Bits of a number, by its name in safetensors: the package's `Dtype`.
BITS = {"F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16,
        "U16": 16, "I8": 8, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8,
        "F8_E5M2FNUZ": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Held:
    """What weights hold: how many tensors, the numbers in the largest, and the bytes of all."""

    tensors: int = 0
    largest: int = 0
    size: int = 0

    def __add__(self, other: Held) -> Held:
        return Held(self.tensors + other.tensors, max(self.largest, other.largest), self.size + other.size)


@dataclass(frozen=True, slots=True)
class Inspected:
    """A folder that may be loaded, once nothing is missing.

    Attributes:
        missing: names of files, and of parts, that it lacks.
        held: by its weights.
    """

    missing: tuple[str, ...] = ()
    held: Held = Held()


def inspect_model(folder: Path) -> Inspected:
    """A folder of one model of transformers, with what prepares its inputs: texts and pictures.

    Raises:
        BackendError: something in it must not be loaded; in a sentence with the file and, of settings, the key.
    """
    _require_inside(folder, folder)
    if missing := missing_weights(folder):
        return Inspected(tuple(missing))
    held = _inspect_weights(folder)
    if not any(folder.glob("*.safetensors")):
        raise BackendError(f"{folder} has no .safetensors weights, and other formats can hold code")
    _inspect_settings(folder, held)
    if _missing_vocabulary(folder):
        raise BackendError(f"{folder} has no tokenizer")  # transformers would make up an empty one
    return Inspected((), held)


def inspect_pipeline(
    folder: Path, variant: str | None, without: Collection[str] = (), adapter: str | None = None
) -> Inspected:
    """A folder of a diffusers pipeline.

    Args:
        without: names of parts that will not be loaded.
        adapter: the folder of a T2I-Adapter within it.

    Raises:
        BackendError: something in it must not be loaded; in a sentence with the file and, of settings, the key.
    """
    missing: list[str] = []
    held = Held()
    parts = {name: kind for name, kind in pipeline_parts(folder).items() if name not in without}
    _require_inside(folder, folder)
    if adapter is not None:
        parts[adapter] = "T2IAdapter"
    for name, kind in parts.items():
        found = _inspect_part(folder / name, folder, name, kind, variant)
        missing += found.missing
        held += found.held
    return Inspected(tuple(missing), held)


def inspect_file(file: Path, folder: Path) -> None:
    """One file of weights in a model's folder. Raises: BackendError: it leads out of the folder."""
    _require_at(file, _places(folder))


def pipeline_parts(folder: Path) -> dict[str, str]:
    """Name -> class of a pipeline's parts, each a folder.

    Raises:
        BackendError: its index names code, or is none.
    """
    file = folder / "model_index.json"
    inspect_file(file, folder)
    try:
        index = read_json(file)
        kind = index["_class_name"]
    except (OSError, ValueError, KeyError) as error:
        raise BackendError(
            f"{str(folder)!r} is no diffusers pipeline folder: it has no readable {file.name}"
        ) from error
    # A class of the pipeline's own is given as [file, class].
    if not isinstance(kind, str) or not kind.isidentifier():
        raise BackendError(f"{file} names the pipeline {shown(kind)}; takes a class of diffusers")
    if kind.endswith("CombinedPipeline"):  # what else they are made of, their README names
        raise BackendError(
            f"{file} names the pipeline {shown(kind)}, which loads models of other folders; takes others"
        )
    library = importlib.util.find_spec("diffusers")
    places = (library and library.submodule_search_locations) or ()
    takes = "takes [library, class], of diffusers or transformers"
    found = {}
    for name, value in index.items():
        if name.startswith("_") or not isinstance(value, list) or value == [None, None]:
            continue
        is_pair = len(value) == 2 and all(isinstance(v, str) and v for v in value)
        if not (name.isidentifier() and is_pair and value[1].isidentifier()):
            raise BackendError(f"{file} says {plain(name)}: {shown(value)}; {takes}")
        # diffusers' own pipelines have parts of theirs, such as `stable_diffusion`'s safety checker.
        of_a_pipeline = value[0].isidentifier() and any((Path(at) / "pipelines" / value[0]).is_dir() for at in places)
        if value[0] not in LIBRARIES and not of_a_pipeline:
            raise BackendError(
                f"{file} takes {plain(name)} from {shown(value[0])}, and code of a model's own is never run; {takes}"
            )
        if value[1].endswith("Pipeline"):
            raise BackendError(f"{file} says {plain(name)}: {shown(value)}, a pipeline within a pipeline; {takes}")
        if re.match(r"Auto[A-Z]", value[1]):  # such a class would take code that the folder names
            raise BackendError(f"{file} says {plain(name)}: {shown(value)}; takes the class that it stands for")
        if value[1].lower().startswith(("onnx", "ort", "flax", "flashpack")):
            raise BackendError(
                f"{file} says {plain(name)}: {shown(value)}; takes classes whose weights are safetensors"
            )
        if (folder / name / f"{value[0]}.py").exists():
            raise BackendError(f"{folder / name} holds code, {value[0]}.py, and code of a model's own is never run")
        found[name] = value[1]
    return found


def _inspect_part(part: Path, folder: Path, name: str, kind: str, variant: str | None) -> Inspected:
    """A part of a pipeline. `kind`: its class."""
    if not part.is_dir():
        return Inspected((name,))
    _require_inside(part, folder)
    if (part / "model_index.json").exists():
        raise BackendError(f"{part / 'model_index.json'} makes a pipeline of a part; takes a part's own files")
    if "Tokenizer" in kind:
        _inspect_settings(part, None)
        return Inspected(tuple(f"{name} ({lack})" for lack in _missing_vocabulary(part, kind)))
    if kind.endswith(("Scheduler", "Processor", "ImageProcessorFast", "FeatureExtractor")):
        # A processor of texts may count all pixels of a picture as its edge; and no picture is given to one.
        _inspect_settings(part, None, pictures=name.startswith("feature_extractor"))
        return Inspected()
    if absent := missing_weights(part, variant):
        return Inspected(tuple(f"{name}/{file}" for file in absent))
    held = _inspect_weights(part, variant)
    _inspect_settings(part, held)
    ending = f".{variant}" if variant else ""
    missing = [f"{name}/config.json"] * (not (part / "config.json").is_file())
    return Inspected((*missing, *[f"{name} (weights{ending} in safetensors)"] * (not held.tensors)), held)


# Where files lie


def _places(folder: Path) -> list[Path]:
    """Where the files of a model's folder may lie: there or, as links of a snapshot in the hub's cache do, among the
    blobs of its repository."""
    snapshots = folder.parent
    return [folder.resolve(), *[snapshots.parent.resolve() / "blobs"] * (snapshots.name == "snapshots")]


def _require_at(file: Path, places: Collection[Path]) -> None:
    if file.exists() and not any(file.resolve().is_relative_to(place) for place in places):
        raise BackendError(f"{file} leads out of its model's folder, to {plain(str(file.resolve()), 200)}")


def _require_inside(part: Path, folder: Path) -> None:
    """Raises: BackendError: a link in `part`, a folder in a model's folder, leads out; or what is no file is there: to
    open a pipe can take for ever. Links that lead nowhere are missing files, and no more."""
    places = _places(folder)
    for file in [part, *sorted(part.iterdir())]:
        _require_at(file, places)
        if file.exists() and not (file.is_file() or file.is_dir()):
            raise BackendError(f"{file} is no file; takes files and folders")


# Weights

# The names that transformers and diffusers look for; a shard's variant stands before its number or, formerly, after it.
_WEIGHTS = re.compile(r"(model|diffusion_pytorch_model)(?:\.(\w+))?(?:-\d{5}-of-(\d{5}))?(?:\.(\w+))?\.safetensors")


def missing_weights(folder: Path, variant: str | None = None) -> list[str]:
    """Names of files that the weights in a folder of transformers or diffusers lack: shards that their index names or
    that their own numbers count, the index, and what links lead nowhere. Or the
    weights, where none is asked for and all are of variants. Empty for a folder without weights of such names.

    Raises:
        BackendError: an index cannot be read, or names what is no shard.
    """
    ending = f".{variant}" if variant else ""
    missing: list[str] = []
    others: dict[str, set[str]] = {}
    ours: set[str] = set()
    shards: dict[str, set[str]] = {}
    for file in folder.glob("*.safetensors"):
        if not (parts := _WEIGHTS.fullmatch(file.name)):
            continue
        base, its, count = parts[1], parts[2] or parts[4], parts[3]
        if its != variant:
            others.setdefault(base, set()).add(its or "")
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
        # With both, transformers reads the single file and diffusers reads the shards.
        if index.is_file() and not (whole and base == "model"):
            named = _shards_of(index)
        elif base in shards and not whole:
            named = {*shards[base], index.name}
        elif base in others and not ours and not variant:
            missing.append(f"{base}.safetensors (of variants there is {', '.join(sorted(others[base]))})")
        missing += sorted(name for name in named if not (folder / name).is_file())
    return missing


def _shards_of(index: Path) -> set[str]:
    """The files that an index names.

    Raises:
        BackendError: it cannot be read, or names what is no file of safetensors beside it.
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


def _inspect_weights(folder: Path, variant: str | None = None) -> Held:
    """The weights that will be loaded: all, or those of a variant.

    Raises:
        BackendError: one is damaged, or an index names what is no file of safetensors beside it.
    """
    for index in sorted(folder.glob("*.safetensors.*json")):
        if index.is_file():
            _shards_of(index)
    ending = f".{variant}" if variant else ""
    held = Held()
    for file in sorted({*folder.glob(f"*{ending}.safetensors"), *folder.glob(f"*{ending}-*.safetensors")}):
        held += require_safetensors(file)
    return held


def require_safetensors(file: Path) -> Held:
    """Looks at the header only.

    Raises:
        BackendError: the file is none in safetensors, or is cut short.
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


# Settings


def _settings(file: Path) -> dict[str, Any]:
    try:
        return read_json(file)
    except (OSError, ValueError) as error:
        raise BackendError(f"{file} cannot be read: {plain(str(error))}") from error


def _inspect_settings(folder: Path, held: Held | None, *, pictures: bool = True) -> None:
    """The settings in a folder. `held`: by its weights, where it has any. `pictures`: whether it prepares pictures.

    Raises:
        BackendError: one cannot be read, asks for what no model needs, or names what lies elsewhere.
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


def _entries(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """(key, value) of everything within; entries of lists under the key of their list."""
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
    """Raises: BackendError: a size is beyond what it takes. `sides`: the settings are of pictures' sizes."""
    most, why = LARGEST, ""
    if held is not None:
        most = max(LARGE, held.largest)
        why = f": its weights have no tensor of more than {held.largest:,} numbers"
    for pattern, limit in LIMITS:
        if pattern.fullmatch(key):
            most, why = min(most, limit), ""
    if sides and SIDES.fullmatch(key):
        most = min(most, LIMITS[-1][1])
    is_size = isinstance(value, int) or most < LARGE  # a number with a point counts nothing
    if is_size and not abs(value) <= most:
        raise BackendError(f"{file}: {plain(key)}: got {shown(value)}; takes at most {most:,}{why}")


def _require_harmless(file: Path, key: str, value: Any) -> None:
    """Raises: BackendError: a setting would fetch or run something, or read it from elsewhere."""
    takes = ""
    bare = key.strip("_").removesuffix("_internal")
    if isinstance(value, list) and len(value) > MAX_LIST:
        raise BackendError(f"{file}: {plain(key)}: got a list of {len(value):,}; takes at most {MAX_LIST:,} entries")
    for name, known in (("attn_implementation", ATTENTION), ("experts_implementation", EXPERTS)):
        # Of a model of several models, a mapping says it for each.
        said = list(value.values()) if isinstance(value, dict) else [value]
        if bare == name and not all(v is None or v in known for v in said):
            takes = f"{', '.join(known)}: kernels from the hub are code, and never fetched"
    if key == "quant_method" and value not in QUANTISED:
        takes = f"{', '.join(QUANTISED)}: others fetch kernels, which are code"
    elif key == "transformers_weights" and value is not None:
        is_shard = isinstance(value, str) and value == Path(value).name and value.endswith(".safetensors")
        takes = "" if is_shard else "a .safetensors file beside it: other formats can hold code"
    elif key.startswith("audio_tokenizer") or (key == "use_pretrained_backbone" and value):
        takes = "none: it would load a model of another folder"
    elif key == "backbone" and isinstance(value, str) and re.search(r"[/:\\]", value):
        takes = "a bare name: others would load a model of another folder"
    elif key in PATHS and isinstance(value, str) and value != Path(value).name and _exists(file.parent / value):
        takes = "files beside it"
    if takes:
        raise BackendError(f"{file}: {plain(key)}: got {shown(value)}; takes {takes}")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, or a NUL
        return False


# Tokenizers


def _missing_vocabulary(folder: Path, kind: str = "") -> list[str]:
    """What a tokenizer's folder lacks. `kind`: its class, where the pipeline's index says it.

    Raises:
        BackendError: its vocabulary is there, and the package that reads it is not installed.
    """
    if kind in OF_BYTES or any((folder / name).is_file() for name in VOCABULARIES):
        return []
    files = sorted(file.name for file in folder.glob("*.model") if file.is_file())
    if not files:
        return ["its vocabulary"]
    package = "tiktoken" if files == ["tiktoken.model"] else "sentencepiece"
    if importlib.util.find_spec(package) is None:
        raise BackendError(
            f"{folder} has its tokenizer's vocabulary in {plain(files[0])} only, and the package {package} that reads "
            f"it is not installed: pip install {package}; or put the tokenizer.json there that its repository may have"
        )
    return []
