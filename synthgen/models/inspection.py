"""Inspects a model's folder before a model is built from it. A folder may come from anybody: no file in it may run
code, lead out of the folder, or need more time and memory than its weights justify. `check` calls this, so it imports
no torch; loading calls it again."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from synthgen.base.wording import plain, shown
from synthgen.errors import BackendError, listed
from synthgen.models import ModelIncomplete, read_json
from synthgen.models.settings import inspect_arguments, inspect_settings
from synthgen.models.weights import Held, held_by, missing_weights, part_variant

# Libraries whose classes a pipeline may name: any other module that it names would be imported, which runs its code.
LIBRARIES = {"diffusers", "transformers", "synthgen.mini.autoencoder"}
# A tokenizer of transformers needs one of these files, or a file of a package that `VOCABULARIES_OF` names.
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt")
VOCABULARIES_OF = {"tiktoken.model": "tiktoken", "tekken.json": "mistral_common"}
# Tokenizers of bytes or characters, which need no vocabulary.
OF_BYTES = ("ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer")
# Classes that stand for the class that a folder's settings name.
AUTO = (["transformers", "AutoProcessor"], ["transformers", "AutoTokenizer"])
# Kinds of classes that have no weights. In transformers 5, a tokenizer without a class of its own is a `…Backend`, and
# a processor of pictures that uses Pillow and not torchvision is a `…Pil`. A guider of diffusers is a `…Guidance`.
TOKENIZERS = re.compile(r".*Tokenizer(Fast)?|.*Backend")
WEIGHTLESS = re.compile(r".*(Scheduler|Processor|ProcessorFast|ProcessorPil|FeatureExtractor|Guidance)")


def inspect_model(
    folder: Path, model_types: Collection[str], takes: str, *, tokenizer: bool = True
) -> tuple[str, Held]:
    """Inspects a folder with one model of transformers and the tokenizer or processor of its inputs.

    Args:
        model_types: the accepted values of `model_type` in its settings.
        takes: the end of a message, which says what the option takes.
        tokenizer: whether the model takes texts.

    Returns:
        Its `model_type`, and the sizes of its weights.

    Raises:
        BackendError: it is another model, files are missing, or something in it must not be loaded. The message names
            the file and, for a setting, its key.
    """
    inspect_file(folder / "config.json", folder)
    try:
        model_type = str(read_json(folder / "config.json")["model_type"])
    except (OSError, ValueError, KeyError) as error:
        raise BackendError(f"{folder} has no config.json with a `model_type`; {takes}") from error
    if model_type not in model_types:
        raise BackendError(f"{folder} is of model_type {shown(model_type)}; {takes}")
    require_inside(folder, folder)
    if missing := missing_weights(folder):
        raise ModelIncomplete(plain(f"{folder} is not whole; missing: {listed(missing)}", 500))
    held = held_by(folder)
    if not any(folder.glob("*.safetensors")):
        raise BackendError(f"{folder} has no .safetensors weights, and other formats can hold code")
    inspect_settings(folder, held)
    if tokenizer and _missing_vocabulary(folder):
        raise BackendError(f"{folder} has no tokenizer")  # without this check, transformers would create an empty one
    return model_type, held


@dataclass(frozen=True, slots=True)
class Inspected:
    """The result of inspecting a pipeline's folder. It can be loaded if nothing is missing.

    Attributes:
        missing: names of the files and parts that the folder lacks.
        held: the sizes of its weights.
    """

    missing: tuple[str, ...] = ()
    held: Held = field(default_factory=Held)


def inspect_pipeline(
    folder: Path, variant: str | None, without: Collection[str] = (), adapter: str | None = None
) -> Inspected:
    """Inspects a folder of a diffusers pipeline.

    Args:
        without: names of parts that will not be loaded.
        adapter: the folder of a T2I-Adapter inside it.

    Raises:
        BackendError: something in it must not be loaded. The message names the file and, for a setting, its key.
    """
    missing: list[str] = []
    held = Held()
    parts = {name: kind for name, kind in pipeline_parts(folder).items() if name not in without}
    require_inside(folder, folder)
    if adapter is not None:
        parts[adapter] = "T2IAdapter"
    variants = {name: part_variant(folder / name, variant) for name in parts if (folder / name).is_dir()}
    if not any(variants.values()):  # diffusers refuses a variant that no part has
        variants = dict.fromkeys(parts, variant)
    for name, kind in parts.items():
        part = inspect_part(folder / name, folder, name, kind, variants.get(name))
        missing += part.missing
        held += part.held
    return Inspected(tuple(missing), held)


def inspect_component(folder: Path, kind: str, variant: str | None = None) -> Held:
    """Inspects a folder with one part of a pipeline, outside a pipeline's folder.

    Args:
        kind: the class that will be built of it.

    Returns:
        The sizes of its weights.

    Raises:
        BackendError: files are missing, or something in it must not be loaded.
    """
    require_inside(folder, folder)
    inspected = inspect_part(folder, folder, folder.name, kind, variant)
    if inspected.missing:
        raise BackendError(plain(f"{folder} is not whole; missing: {listed(inspected.missing)}", 500))
    return inspected.held


def inspect_file(file: Path, folder: Path) -> None:
    """Inspects one file in a model's folder. Raises: BackendError: it is a link that leads out of the folder."""
    _require_at(file, _places(folder))


def pipeline_parts(folder: Path) -> dict[str, str]:
    """Name -> class of each part of a pipeline; a part is a folder.

    Raises:
        BackendError: the pipeline's index names code, or cannot be read.
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
    # A class that the pipeline's folder itself defines is given as [file, class].
    if not isinstance(kind, str) or not kind.isidentifier():
        raise BackendError(f"{file} names the pipeline {shown(kind)}; takes a class of diffusers")
    if kind.endswith("CombinedPipeline"):  # their README names the other models that they load
        raise BackendError(
            f"{file} names the pipeline {shown(kind)}, which loads models of other folders; takes others"
        )
    arguments = {
        name: value for name, value in index.items() if not (name.startswith("_") or _is_part(folder, name, value))
    }
    inspect_arguments(file, arguments)
    parts = {}
    for name, value in index.items():
        if name.startswith("_") or name in arguments or value == [None, None]:
            continue
        require_class(file, folder, name, value)
        parts[name] = value[1]
    return parts


def require_class(file: Path, folder: Path, name: str, value: Any, *, takes_auto: bool = False) -> None:
    """Inspects the class of a pipeline's part, [library, class], as its index gives it.

    Args:
        file: the index.
        name: of the part.
        takes_auto: whether classes of transformers are taken that load the processor or tokenizer of a folder,
            whichever it is.

    Raises:
        BackendError: it is no class of diffusers or transformers, or it loads more than its own files.
    """
    library = importlib.util.find_spec("diffusers")
    installed = (library and library.submodule_search_locations) or ()
    takes = "takes [library, class], of diffusers or transformers"
    is_pair = isinstance(value, list) and len(value) == 2 and all(isinstance(v, str) and v for v in value)
    if not (name.isidentifier() and is_pair and value[1].isidentifier()):
        raise BackendError(f"{file} says {plain(name)}: {shown(value)}; {takes}")
    # Pipelines of diffusers may have parts of their own, such as the safety checker of `stable_diffusion`.
    of_a_pipeline = value[0].isidentifier() and any(
        (Path(diffusers) / "pipelines" / value[0]).is_dir() for diffusers in installed
    )
    if value[0] not in LIBRARIES and not of_a_pipeline:
        raise BackendError(
            f"{file} takes {plain(name)} from {shown(value[0])}, and code of a model's own is never run; {takes}"
        )
    if value[1].endswith("Pipeline"):
        raise BackendError(f"{file} says {plain(name)}: {shown(value)}, a pipeline within a pipeline; {takes}")
    if re.match(r"Auto[A-Z]", value[1]) and not (takes_auto and value in AUTO):  # it would load code of the folder
        raise BackendError(f"{file} says {plain(name)}: {shown(value)}; takes the class that it stands for")
    if value[1].lower().startswith(("onnx", "ort", "flax", "flashpack")):
        raise BackendError(f"{file} says {plain(name)}: {shown(value)}; takes classes whose weights are safetensors")
    if (folder / name / f"{value[0]}.py").exists():
        raise BackendError(f"{folder / name} holds code, {value[0]}.py, and code of a model's own is never run")


def _is_part(folder: Path, name: str, value: Any) -> bool:
    """Whether an entry of a pipeline's index names a part. Others are arguments of the pipeline's class: numbers,
    texts, truth values, and lists of numbers that no folder bears the name of."""
    if not isinstance(value, list):
        return False
    is_folder = name.isidentifier() and len(name) < 100 and (folder / name).is_dir()
    return is_folder or not all(isinstance(item, bool | int | float) for item in value)


def inspect_part(part: Path, folder: Path, name: str, kind: str, variant: str | None) -> Inspected:
    """Inspects a part of a pipeline. `kind`: the part's class."""
    if not part.is_dir():
        return Inspected((name,))
    require_inside(part, folder)
    if (part / "model_index.json").exists():
        raise BackendError(f"{part / 'model_index.json'} makes a pipeline of a part; takes a part's own files")
    if re.match(r"Auto[A-Z]", kind) and (file := _file_with_code(part)):
        raise BackendError(f"{file} has an `auto_map`, and code of a model's own is never run; takes settings without")
    is_tokenizer = TOKENIZERS.fullmatch(kind)
    if is_tokenizer or WEIGHTLESS.fullmatch(kind):
        # A processor of texts may give the number of all pixels as a picture's edge; it never gets a picture.
        inspect_settings(part, None, pictures=name.startswith("feature_extractor"))
        # A processor of texts and pictures has its tokenizer's files beside its own.
        needs_vocabulary = is_tokenizer or (part / "tokenizer_config.json").exists()
        return Inspected(tuple(f"{name} ({lack})" for lack in _missing_vocabulary(part, kind) if needs_vocabulary))
    if absent := missing_weights(part, variant):
        return Inspected(tuple(f"{name}/{file}" for file in absent))
    held = held_by(part, variant)
    inspect_settings(part, held)
    ending = f".{variant}" if variant else ""
    missing = [f"{name}/config.json"] * (not (part / "config.json").is_file())
    return Inspected((*missing, *[f"{name} (weights{ending} in safetensors)"] * (not held.tensors)), held)


def _file_with_code(part: Path) -> Path | None:
    """A file of settings that names code of the folder's own, which a class `Auto…` would ask for."""
    for file in sorted(part.glob("*config.json")):
        try:
            if "auto_map" in read_json(file):
                return file
        except (OSError, ValueError):
            continue  # `inspect_settings` says so
    return None


# Where files lie


def _places(folder: Path) -> list[Path]:
    """The folders in which the files of a model's folder may lie: the folder itself and, for a snapshot in the hub's
    cache or a part in one, the blobs of its repository, to which its links lead. Since version 2 the hub's client may
    share blobs between repositories: then those of the repository are links into the `blobs` of the cache."""
    snapshots = [path.parent for path in (folder, *folder.parents) if path.parent.name == "snapshots"]
    repositories = [path.parent.resolve() for path in snapshots]
    if repositories and repositories[0].name.startswith("models--"):
        return [folder.resolve(), repositories[0] / "blobs", repositories[0].parent / "blobs"]
    return [folder.resolve(), *[folder.parent.parent.resolve() / "blobs"] * (folder.parent in snapshots)]


def _require_at(file: Path, places: Collection[Path]) -> None:
    if file.exists() and not any(file.resolve().is_relative_to(place) for place in places):
        raise BackendError(f"{file} leads out of its model's folder, to {plain(str(file.resolve()), 200)}")


def require_inside(part: Path, folder: Path) -> None:
    """Inspects `part`, the model's folder or a folder in it. Links that lead nowhere only count as missing files.

    Raises:
        BackendError: a link leads out of the model's folder, or an entry is neither a file nor a folder (opening a pipe
            can block for ever).
    """
    places = _places(folder)
    for file in [part, *sorted(part.iterdir())]:
        _require_at(file, places)
        if file.exists() and not (file.is_file() or file.is_dir()):
            raise BackendError(f"{file} is no file; takes files and folders")


# Tokenizers


def _missing_vocabulary(folder: Path, kind: str = "") -> list[str]:
    """What a tokenizer's folder lacks. `kind`: its class, if the pipeline's index names it.

    Raises:
        BackendError: the package that reads the tokenizer's vocabulary is not installed.
    """
    if any((folder / name).is_file() for name in VOCABULARIES):
        return []
    for name, package in VOCABULARIES_OF.items():
        if (folder / name).is_file() and importlib.util.find_spec(package) is None:
            raise BackendError(
                f"{folder} has its tokenizer's vocabulary in {name} only, and the package {package} that reads it is "
                f"not installed: pip install {package}; or put the tokenizer.json there that its repository may have"
            )
        if (folder / name).is_file():
            return []
    if any(file.is_file() for file in folder.glob("*.model")):  # of the package sentencepiece
        return []
    return [] if {kind, _tokenizer_class(folder)} & {*OF_BYTES} else ["its vocabulary"]


def _tokenizer_class(folder: Path) -> str:
    """The class in a tokenizer's settings; "" if they name none. Their contents have been inspected."""
    try:
        return str(read_json(folder / "tokenizer_config.json").get("tokenizer_class"))
    except (OSError, ValueError):
        return ""
