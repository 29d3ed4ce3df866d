"""A model's folder, inspected before anything is built of it. A folder may come from anybody: no file of it runs code,
leads out of it, or asks for more time and memory than its weights justify. No torch: `check` calls this, and loading
calls it again."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from synthgen.base.wording import plain, shown
from synthgen.errors import BackendError, listed
from synthgen.models import read_json
from synthgen.models.settings import inspect_settings
from synthgen.models.weights import Held, held_by, missing_weights

# Libraries whose classes a pipeline may name: what else it names would be imported, and that is running it.
LIBRARIES = {"diffusers", "transformers", "synthgen.mini.autoencoder"}
# Of each, a tokenizer of transformers needs one; or a file of the package sentencepiece; or, of some classes, none.
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt")
OF_BYTES = ("ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer")


def inspect_model(folder: Path, model_types: Collection[str], takes: str) -> tuple[str, Held]:
    """A folder of one model of transformers, with what prepares its inputs: texts and pictures.

    Args:
        model_types: the values of `model_type` in its settings that are wanted.
        takes: what to give instead, for messages.

    Returns:
        Its `model_type`, and what its weights hold.

    Raises:
        BackendError: it is another model, files are missing, or something in it must not be loaded; in a sentence with
            the file and, of settings, the key.
    """
    inspect_file(folder / "config.json", folder)
    try:
        model_type = str(read_json(folder / "config.json")["model_type"])
    except (OSError, ValueError, KeyError) as error:
        raise BackendError(f"{folder} has no config.json with a `model_type`; {takes}") from error
    if model_type not in model_types:
        raise BackendError(f"{folder} is of model_type {shown(model_type)}; {takes}")
    _require_inside(folder, folder)
    if missing := missing_weights(folder):
        raise BackendError(plain(f"{folder} is not whole; missing: {listed(missing)}", 500))
    held = held_by(folder)
    if not any(folder.glob("*.safetensors")):
        raise BackendError(f"{folder} has no .safetensors weights, and other formats can hold code")
    inspect_settings(folder, held)
    if _missing_vocabulary(folder):
        raise BackendError(f"{folder} has no tokenizer")  # transformers would make up an empty one
    return model_type, held


@dataclass(frozen=True, slots=True)
class Inspected:
    """A pipeline's folder, which may be loaded if nothing is missing.

    Attributes:
        missing: names of files, and of parts, that it lacks.
        held: what its weights hold.
    """

    missing: tuple[str, ...] = ()
    held: Held = field(default_factory=Held)


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
        inspect_settings(part, None)
        return Inspected(tuple(f"{name} ({lack})" for lack in _missing_vocabulary(part, kind)))
    if kind.endswith(("Scheduler", "Processor", "ImageProcessorFast", "FeatureExtractor")):
        # A processor of texts may count all pixels of a picture as its edge; and no picture is given to one.
        inspect_settings(part, None, pictures=name.startswith("feature_extractor"))
        return Inspected()
    if absent := missing_weights(part, variant):
        return Inspected(tuple(f"{name}/{file}" for file in absent))
    held = held_by(part, variant)
    inspect_settings(part, held)
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
