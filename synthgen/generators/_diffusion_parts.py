"""The files that a spec puts in place of a pipeline's parts, or adds to it: found and inspected without torch."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from synthgen.backends import Model, Source
from synthgen.base.files import expand_home
from synthgen.base.wording import plain, shown
from synthgen.errors import BackendError, Problem, listed, nearest
from synthgen.generators._diffusion_config import Config
from synthgen.generators._diffusion_files import PipelineFiles
from synthgen.generators._diffusion_parts_config import Embedding, Lora
from synthgen.models import ModelIncomplete, existing, find_model, model_identity
from synthgen.models.families import settings
from synthgen.models.gguf import require_gguf
from synthgen.models.inspection import inspect_component, inspect_file
from synthgen.models.named import ModelFiles
from synthgen.models.settings import inspect_settings
from synthgen.models.signatures import bases, fields, types_taken
from synthgen.models.weights import Held, require_safetensors, shapes_in

# Parts that a class of pipelines computes without, though diffusers does not call them optional.
DROPPABLE = {"StableDiffusion3": ("text_encoder_3", "tokenizer_3")}
# Classes that do the work of another one, with the same inputs and outputs.
STAND_INS = {"AutoencoderKL": ("AutoencoderTiny",)}
SCALARS = ("bool", "int", "float", "str")  # types of arguments of a pipeline that are no parts
# Names of a textual inversion's only tensor that are no words for prompts.
NAMELESS = ("emb_params", "clip_l", "clip_g")
# How the names of a LoRA's tensors begin that are for a text encoder.
OF_TEXT_ENCODERS = ("text_encoder", "lora_te")


class Component(ModelFiles):
    """A part in place of the pipeline's own: a folder, or a single file with the weights of the part. With None, the
    part is dropped."""

    config: Config

    def __init__(self, config: Config, pipeline: PipelineFiles, name: str, value: str | None) -> None:
        self.config, self.pipeline, self.name, self.value = config, pipeline, name, value
        self.field = f".components.{name}"

    def source(self) -> Source:
        return Source(self.value or "", variant=self.config.variant, part=self.name)

    @cached_property
    def kind(self) -> str:
        """The class that is built."""
        named = {n: t for n, t in types_taken(self.pipeline.kind, "__init__", "pipelines").items() if t not in SCALARS}
        known = {**named, **self.pipeline.parts}
        if self.name not in known:
            name = f"{shown(self.name)}{nearest(self.name, known)}"
            raise BackendError(plain(f"{self.pipeline.kind} has no part {name}; it has: {listed(sorted(known))}", 600))
        kind = known[self.name]
        is_folder = self.value is not None and self.path().is_dir()
        other = settings(self.path()).get("_class_name") if is_folder else None
        return str(other) if other in STAND_INS.get(kind, ()) else kind

    def path(self) -> Path:
        path = _path(self.value or "")
        return path / self.name if (path / "model_index.json").is_file() else path

    @property
    def variant(self) -> str | None:
        """The variant of the weight files, where the folder has it."""
        variant = self.config.variant
        return variant if variant and any(self.path().glob(f"*.{variant}*.safetensors")) else None

    def inspect(self) -> Held:
        kind = self.kind
        if self.value is None:
            self._require_droppable()
            return Held()
        path = self.path()
        if path.is_file():
            return self._inspect_single_file(path)
        if not path.is_dir():
            raise BackendError(f"{path} does not exist; the folder {path.parent} is a pipeline without {self.name!r}")
        held = inspect_component(path, kind, self.variant)
        given = settings(path)
        own, model_type = given.get("_class_name"), given.get("model_type")
        if own is not None and own != kind:
            raise BackendError(f"{path} holds {shown(own)}; {self.pipeline.kind} takes {kind}")
        if own is None and model_type is not None and "Tokenizer" not in kind and not _is_of_type(kind, model_type):
            raise BackendError(f"{path} is of model_type {shown(model_type)}; {self.pipeline.kind} takes {kind}")
        return held

    def _inspect_single_file(self, path: Path) -> Held:
        own = self.pipeline.path() / self.name
        if path.suffix not in (".safetensors", ".gguf"):
            raise BackendError(f"{path} is no .safetensors or .gguf file: other formats can hold code")
        if "FromOriginalModelMixin" not in bases(self.kind, "models"):
            raise BackendError(f"diffusers reads no {self.kind} from a single file; takes a folder or a model id")
        if not (own / "config.json").is_file():
            raise BackendError(
                f"a single file has no settings, and {own / 'config.json'}, which would have them, is not there"
            )
        if path.suffix == ".gguf" and find_spec("gguf") is None:
            raise BackendError(f"{path} needs the package gguf: pip install 'synthgen[gguf]'")
        held = require_gguf(path) if path.suffix == ".gguf" else require_safetensors(path)
        inspect_settings(own, held)
        return held

    def _require_droppable(self) -> None:
        if self.name == "safety_checker":
            raise BackendError("the key for it is `safety_checker: false`")
        kind = self.pipeline.kind
        optional = [
            name
            for name in fields(kind, "pipelines").get("_optional_components") or ()
            if not name.startswith(("text_encoder", "tokenizer", "safety_checker"))
        ]
        optional += [name for start, names in DROPPABLE.items() if kind.startswith(start) for name in names]
        if self.name not in optional:
            takes = f"those that it can do without: {listed(optional)}" if optional else "none"
            raise BackendError(f"{kind} cannot do without it; of its parts, `null` drops {takes}")

    def identity(self) -> str:
        return f"{self.name}:{_identity(self.path())}"


class _AddedFile(ModelFiles):
    """A single file of weights that is added to a pipeline."""

    def __init__(self, pipeline: PipelineFiles, given: Lora | Embedding) -> None:
        self.pipeline, self.config, self.given = pipeline, pipeline.config, given

    def source(self) -> Source:
        return Source(self.given.model, files=(self.given.file,) if self.given.file else ())

    @cached_property
    def _path(self) -> Path:
        return _file_of(self.given)

    def path(self) -> Path:
        return self._path


class LoraFile(_AddedFile):
    def __init__(self, pipeline: PipelineFiles, index: int, lora: Lora) -> None:
        super().__init__(pipeline, lora)
        self.field = f".loras.{index}"
        self.lora = lora

    def inspect(self) -> Held:
        kind = self.pipeline.kind
        _, denoiser = self.pipeline.denoiser
        # Some pipelines offer what their denoiser cannot do.
        takes = any(base.endswith("LoraLoaderMixin") for base in bases(kind, "pipelines"))
        if not takes or "PeftAdapterMixin" not in bases(denoiser, "models"):
            raise BackendError(f"{kind} takes no LoRA")
        parts, loader = self.pipeline.parts, "StableDiffusionXLLoraLoaderMixin"
        if loader in bases(kind, "pipelines") and "text_encoder_2" not in parts:  # as in Kolors with PAG
            raise BackendError(f"{kind} takes no LoRA: diffusers' way needs a text_encoder_2")
        if find_spec("peft") is None:
            raise BackendError("LoRAs need the package peft: pip install 'synthgen[lora]'")
        path = self.path()
        held = require_safetensors(path)
        if not any("lora" in name.lower() for name in shapes_in(path)):
            raise BackendError(f"{path} is no LoRA: none of its tensors has `lora` in its name")
        if any(name.startswith(OF_TEXT_ENCODERS) for name in shapes_in(path)):
            _require_peft(path)
        return held

    def identity(self) -> str:
        return f"lora:{_identity(self.path())}:{self.lora.weight:g}"


class EmbeddingFile(_AddedFile):
    def __init__(self, pipeline: PipelineFiles, index: int, embedding: Embedding) -> None:
        super().__init__(pipeline, embedding)
        self.field = f".embeddings.{index}"
        self.embedding = embedding

    def inspect(self) -> Held:
        if "TextualInversionLoaderMixin" not in bases(self.pipeline.kind, "pipelines"):
            raise BackendError(f"{self.pipeline.kind} takes no textual inversion")
        path = self.path()
        held = require_safetensors(path)
        shapes = shapes_in(path)
        if set(shapes) != {"clip_l", "clip_g"} and len(shapes) != 1:
            message = f"{path} is no textual inversion: it has the tensors {listed(shapes, 5)}; takes a single one"
            raise BackendError(plain(message, 400))
        if any(len(shape) not in (1, 2) or shape[0] > 1000 for shape in shapes.values()):
            raise BackendError(f"{path} is no textual inversion: it takes one vector, or a list of up to 1,000")
        if self.embedding.token is None and set(shapes) & set(NAMELESS):
            raise BackendError(f"{path} does not say its word; set `token`")
        return held

    @cached_property
    def token(self) -> str:
        """The word for prompts."""
        return self.embedding.token or next(iter(shapes_in(self.path())))

    @cached_property
    def tokens(self) -> int:
        """How many tokens of a prompt the word takes."""
        shape = next(iter(shapes_in(self.path()).values()))
        return shape[0] if len(shape) == 2 else 1

    def identity(self) -> str:
        return f"embedding:{_identity(self.path())}:{self.token}"


class Parts:
    """Everything that a spec puts in place of a pipeline's parts, or adds to it."""

    def __init__(self, config: Config, pipeline: PipelineFiles) -> None:
        self.config, self.pipeline = config, pipeline
        self.loras = [LoraFile(pipeline, i, lora) for i, lora in enumerate(config.loras)]
        self.embeddings = [EmbeddingFile(pipeline, i, embedding) for i, embedding in enumerate(config.embeddings)]
        self.components = [Component(config, pipeline, name, value) for name, value in config.components.items()]

    def models(self) -> list[Model]:
        """Those with files; their identities say which."""
        return [*(part for part in self.components if part.value is not None), *self.loras, *self.embeddings]

    def problems(self) -> Iterable[Problem]:
        """What is wrong with them; the pipeline itself has been inspected."""
        for part in (*self.components, *self.loras):
            yield from part.problems()
        words: set[str] = set()
        for embedding in self.embeddings:
            if problems := list(embedding.problems()):
                yield from problems
                continue
            if embedding.token in words:
                yield Problem(embedding.field, f"got the word {shown(embedding.token)} twice; set another `token`")
            words.add(embedding.token)

    def words(self) -> Mapping[str, int]:
        """The words that textual inversions add, and how many tokens of a prompt each takes."""
        return {embedding.token: embedding.tokens for embedding in self.embeddings}

    @property
    def quantized(self) -> set[str]:
        """Names of the parts with quantised weights. Those that are only stored in 8 bits can be added to before."""
        of_files = {part.name for part in self.components if part.value is not None and part.path().suffix == ".gguf"}
        return of_files | {name for name, how in self.config.quantize.items() if how != "fp8_storage"}

    def companions(self) -> Mapping[str, Component]:
        """Tokenizers that come with a text encoder from another repository, because the pipeline's folder has none:
        name -> the part that it is loaded as."""
        found = {}
        takes = types_taken(self.pipeline.kind, "__init__", "pipelines")
        for part in self.components:
            name = part.name.replace("text_encoder", "tokenizer")
            is_new = name != part.name and name in takes and name not in {*self.pipeline.parts, *self.config.components}
            if is_new and part.value is not None and part.path().is_dir():
                found[name] = Component(self.config, self.pipeline, name, part.value)
        return found


def _path(model: str, files: Sequence[str] = ()) -> Path:
    """The file or folder of this name. A file in the hub's cache is a link to a file without an ending, so links are
    not followed."""
    if (found := existing(model)) and found.is_file():
        return Path(os.path.abspath(expand_home(model)))  # noqa: PTH100
    return find_model(model, "part", files=files)


def _file_of(given: Lora | Embedding) -> Path:
    """Raises: ModelMissing, BackendError: there is no such file, or several may be meant."""
    path = _path(given.model, [given.file] if given.file else [])
    if path.is_file():
        if given.file is not None:
            raise BackendError(f"{path} is a file, and `file` names one in a folder; leave `file` out")
        file = path
    elif given.file is not None:
        file = path / given.file
        inspect_file(file, path)
    else:
        found = sorted(path.glob("*.safetensors"))
        if len(found) != 1:
            names = f"has several .safetensors files; set `file`: {listed((f.name for f in found), 10)}"
            raise BackendError(plain(f"{path} {names if found else 'has no .safetensors file'}", 500))
        file = found[0]
        inspect_file(file, path)
    if not file.is_file():
        raise ModelIncomplete(f"{file} does not exist")
    if file.suffix != ".safetensors":
        raise BackendError(f"{file} is no .safetensors file: other formats can hold code")
    return file


def _require_peft(path: Path) -> None:
    """Raises: BackendError: transformers, which adds LoRAs to text encoders, needs a newer peft."""
    library = find_spec("transformers")
    folders = (library and library.submodule_search_locations) or ()
    files = [Path(folder) / "integrations" / "peft.py" for folder in folders]
    found = (re.search(r'^MIN_PEFT_VERSION = "([\d.]+)"', file.read_text("utf-8"), re.M) for file in files)
    least = [match[1] for match in found if match]
    installed = version("peft")
    if least and _numbers(installed) < _numbers(least[0]):
        raise BackendError(
            f"{path} changes text encoders too, and for them transformers needs peft {least[0]} or newer; {installed} "
            f"is installed: pip install -U peft"
        )


def _numbers(of_version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", of_version)[:3]]


def _is_of_type(kind: str, model_type: object) -> bool:
    """Whether a class of transformers is for models of a type: its name begins with the type's."""
    return kind.replace("_", "").lower().startswith(str(model_type).replace("_", "").lower())


def _identity(path: Path) -> str:
    """The commit and the path in it, for a file or folder in a snapshot of the hub; otherwise see `model_identity`."""
    for folder in path.parents:
        if folder.parent.name == "snapshots":
            return f"{folder.name}/{path.relative_to(folder).as_posix()}"
    return model_identity(path)
