"""What a stage's backend is, and how a spec's `use: name` becomes one.

A backend is one module with two names, `Config` (its options) and `Backend` (its work): `use: sam` of the
segmenter is `synthgen/segmenters/sam.py`; a dotted name, `use: acme.labels`, is the user's own module. Modules
import cheaply; a model's packages are imported, and its weights loaded, at first use. Constructing a backend
costs nothing, so `check` constructs them all.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import IO, Any, ClassVar, Generic, Literal, Protocol, Self, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from synthgen import devices
from synthgen.errors import BackendError, Problem, listed, nearest
from synthgen.types import Category, DatasetInfo, Grounding, Instances, Job, PromptForm, Record, Sample


class Config(BaseModel):
    """A backend's options. `use` names the backend. Those named in `execution` say where and how it is computed (the
    weights are named by `Stage.identity`), those in `judged` are compared with numbers already stored: neither is
    part of `fingerprint`. Those named in `added` are younger than run folders in people's hands: at their defaults they
    change nothing, and no fingerprint has them."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())
    execution: ClassVar[frozenset[str]] = frozenset()
    judged: ClassVar[frozenset[str]] = frozenset()
    added: ClassVar[frozenset[str]] = frozenset()

    use: str = Field(description="The backend: a built-in name, or the dotted name of a module of yours.")

    def fingerprint(self) -> dict[str, Any]:
        """The options that decide what this backend makes of its inputs."""
        return self.model_dump(mode="json", exclude=set(self.execution | self.judged | self.untouched()))

    def untouched(self) -> set[str]:
        """Those of `added` that have their defaults."""
        fields = type(self).model_fields
        return {name for name in self.added if getattr(self, name) == fields[name].get_default()}


class ModelConfig(Config):
    """Options of a backend that loads a model."""

    execution: ClassVar[frozenset[str]] = frozenset({"model", "revision", "device", "torch_dtype", "batch_size"})

    model: str = Field("mini", description="`mini` (embedded), a folder or file, or a Hugging Face model id.")
    revision: str | None = Field(None, description="Branch, tag or commit of a Hugging Face model.")
    device: str = Field(
        "auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="`auto`: CUDA, else MPS, else CPU."
    )
    torch_dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="`auto`: bfloat16 if the chip computes in it, else float32 on CPU and float16 elsewhere."
    )
    batch_size: int = Field(8, ge=1, le=1024, description="Images that go through the model at once.")

    def environment(self) -> dict[str, Any]:
        """What the last bits of results depend on, besides `fingerprint` and weights: see `devices.environment`."""
        return devices.environment(self.device, self.torch_dtype, self.batch_size)


@dataclass(frozen=True, slots=True)
class Request:
    """What a spec will ask of its backends, for `check`: size in px, whether jobs carry layouts, the words of every
    prompt that can come about, those prompts in pieces, and the negative prompt."""

    height: int
    width: int
    has_layout: bool
    words: frozenset[str]
    prompts: tuple[PromptForm, ...] = ()
    negative_prompt: str = ""


class Model(ABC):
    """A model that a backend uses, as the spec names it: nothing of it is loaded yet."""

    @abstractmethod
    def problems(self) -> Iterable[Problem]:
        """Why it would not load, as far as that can be known without torch. Fields: see `Stage.check`."""

    @abstractmethod
    def identity(self) -> str:
        """Names the exact weights: a commit, a checksum, or a package's version.

        Raises:
            ModelMissing: they are not on this machine.
        """

    def licences(self) -> Iterable[tuple[str, str]]:
        """(name, url) of its licences, as far as they are known."""
        return ()


C = TypeVar("C", bound=Config)


class Stage(ABC, Generic[C]):
    """What all backends have in common."""

    def __init__(self, config: C, categories: Sequence[Category]) -> None:
        self.config = config
        self.categories = tuple(categories)

    def models(self) -> Sequence[Model]:
        """The models that this backend loads. `check`, `identity` and `licences` go by them."""
        return ()

    def check(self, request: Request) -> Iterable[Problem]:
        """Everything that would fail later and can be known now, without torch. A field that starts with a dot is
        an option of this backend (`.model`); any other is a key of the spec."""
        for model in self.models():
            yield from model.problems()

    def advice(self, request: Request) -> Iterable[Problem]:
        """What works, and hardly as it was meant: `check` says it, and goes on."""
        return ()

    def identity(self) -> str:
        """Names the exact weights of all its models; "" if it has none."""
        return " ".join(model.identity() for model in self.models())

    def licences(self) -> Iterable[tuple[str, str]]:
        """(name, url) of the licences of its models."""
        return [licence for model in self.models() for licence in model.licences()]


class Generator(Stage[C]):
    """Jobs become images."""

    def aspect_ratios(self) -> Mapping[str, tuple[float, float]]:
        """Class name -> (least, most) width over height that the model draws well, where it says so."""
        return {}

    @abstractmethod
    def generate(self, jobs: Sequence[Job]) -> NDArray[np.uint8]:
        """One batch of jobs of one size -> uint8 (B, H, W, 3), RGB. An image's noise comes from `job.seed` alone."""


class Grounder(Stage[C]):
    """Says which object is where."""

    @abstractmethod
    def ground(self, jobs: Sequence[Job], images: Sequence[NDArray[np.uint8]]) -> list[Grounding]:
        """Images uint8 (H, W, 3), RGB -> one `Grounding` each."""


class Segmenter(Stage[C]):
    """Boxes become masks."""

    @abstractmethod
    def segment(self, images: Sequence[NDArray[np.uint8]], groundings: Sequence[Grounding]) -> list[Instances]:
        """One mask for every grounded box, in the same order; the grounding's scores are carried over."""


class FilterConfig(Config):
    """Options of every filter."""

    judged: ClassVar[frozenset[str]] = frozenset({"on_fail"})

    on_fail: Literal["reject", "ignore", "drop"] = Field(
        "reject",
        description="reject the image; or, for measures of instances: ignore it (kept with `iscrowd` 1), or drop it.",
    )


class ThresholdConfig(FilterConfig):
    """A number is kept while `min` <= number <= `max`."""

    judged: ClassVar[frozenset[str]] = frozenset({"on_fail", "min", "max"})

    min: float | None = Field(None, description="Least value kept.")
    max: float | None = Field(None, description="Greatest value kept.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"`min` (={self.min:g}) must not be above `max` (={self.max:g})")
        return self


F = TypeVar("F", bound=FilterConfig)


class Filter(Stage[F]):
    """Measures images or instances: one raw number each, stored; thresholds are applied to stored numbers.

    Attributes:
        scope: what a number is about.
        dtype: of the stored numbers.
        vector: of an image, whether its number is a vector (D,), of one D in a dataset.
        whole_dataset: False: `fails` is called with the numbers of any part of the dataset. True: it is called
            once, with the numbers of every image that passes all else, in order of id.
    """

    scope: ClassVar[Literal["image", "instance"]]
    dtype: ClassVar[type[np.generic]] = np.float32
    vector: ClassVar[bool] = False
    whole_dataset: ClassVar[bool] = False

    @abstractmethod
    def measure(self, sample: Sample) -> NDArray[Any]:
        """-> numbers of `dtype`: shape (N,) for the sample's N instances, or () for the image, or (D,) for `vector`."""

    def measure_many(self, samples: Sequence[Sample]) -> Sequence[NDArray[Any]]:
        """-> what `measure` returns for each sample. A filter whose model takes a batch in less time than its images
        one by one defines it. It then gets up to `batch_size` samples of a shard, in their order. The numbers may
        differ from those of `measure` by rounding."""
        return [self.measure(sample) for sample in samples]

    @property
    def batch_size(self) -> int:
        """Most samples of one `measure_many`: the option of this name, where the filter defines `measure_many`."""
        is_own = type(self).measure_many is not Filter.measure_many
        return int(getattr(self.config, "batch_size", 1)) if is_own else 1

    @abstractmethod
    def fails(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """Numbers (M,), or vectors (M, D) -> bool (M,). A number that could not be measured (NaN) fails."""

    def original(self, values: NDArray[Any], kept: NDArray[np.bool_], place: int) -> int | None:
        """Of a filter of the whole dataset: the place in `values` of the kept one for which the one at `place` failed;
        None where it cannot say."""
        return None


def measured(name: str, f: Filter[Any], samples: Sequence[Sample]) -> list[NDArray[Any]]:
    """A filter's numbers of each sample, in its dtype. `name`: the filter's key in the spec.

    Raises:
        BackendError: they do not have the shape that the filter's scope asks for.
    """
    found = [np.asarray(values, f.dtype) for values in f.measure_many(samples)]
    if len(found) != len(samples):
        raise BackendError(f"filters.{name}: measured {len(found)} samples of {len(samples)}")
    for values, sample in zip(found, samples, strict=True):
        n = len(sample.instances)
        if values.shape != ((values.size,) if f.vector else () if f.scope == "image" else (n,)):
            raise BackendError(f"filters.{name}: measured an array of shape {values.shape} for {n} instances")
    return found


T = TypeVar("T", bound=ThresholdConfig)


class ThresholdFilter(Filter[T]):
    """A filter that keeps numbers between `min` and `max`."""

    def fails(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        low = -np.inf if self.config.min is None else self.config.min
        high = np.inf if self.config.max is None else self.config.max
        # Stored numbers are float32; compare in that type, so that `min: 0.9` keeps a stored 0.9.
        kept: NDArray[np.bool_] = (values >= self.dtype(low)) & (values <= self.dtype(high))
        return ~kept


class ScoreFilter(ThresholdFilter[T]):
    """A filter whose number is a score that the segmenter, or the grounder, has given an instance."""

    scope = "instance"
    score: ClassVar[str]

    def measure(self, sample: Sample) -> NDArray[Any]:
        """-> float32 (N,).

        Raises:
            BackendError: there is no such score.
        """
        scores = sample.instances.scores
        if len(sample.instances) and self.score not in scores:
            known = listed(scores) or "none"
            raise BackendError(f"filter {self.config.use}: needs the score {self.score!r}; the labels have: {known}")
        return scores.get(self.score, np.zeros(0, np.float32))


ImageEncoding = Literal["link", "copy", "jpeg", "webp"]


class Folder(Protocol):
    """Where an exporter writes. A name is relative, has forward slashes and is given once; an exporter can reach
    nothing outside this folder."""

    def open(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """A new file. It appears under its name only when the block has ended well."""

    def image(self, source: Path, name: str, *, encoding: ImageEncoding = "link") -> None:
        """Gives an image of the run a name here.

        Args:
            source: `Record.image_path`, a PNG.
            encoding: link: a hard link where the disk has them, else a copy; copy: a file of its own; jpeg, webp:
                encoded again, smaller and with a little loss (JPEG quality 95, WebP quality 90).

        Raises:
            RunError: the image has to be read for this, and is not the image that was made.
        """

    def scratch(self) -> AbstractContextManager[IO[bytes]]:
        """A temporary file to write and read back, on the disk of this folder. It is gone when the block ends."""


class ExportedFolder(Protocol):
    """An export to be read back. The run has compared the size and the checksum of each of its files already."""

    def names(self) -> Iterator[str]:
        """The names of all files that the exporter wrote, in the order in which it wrote them."""

    def has(self, name: str) -> bool:
        """Whether the exporter wrote a file of this name."""

    def open(self, name: str) -> IO[bytes]:
        """A file that the exporter wrote, for reading. The caller closes it."""


@runtime_checkable
class Records(Protocol):
    """The accepted images, in order of id, read from disk as they are iterated: as often as wanted, one at a time."""

    def __iter__(self) -> Iterator[Record]: ...

    def split(self, name: str) -> Iterator[Record]:
        """Those of one split."""


class Exporter(Stage[C]):
    """Writes the accepted images in a format that others load."""

    @abstractmethod
    def export(self, info: DatasetInfo, records: Records, folder: Folder) -> None:
        """Writes the dataset: the same bytes for the same records."""

    def verify(self, folder: ExportedFolder, records: Records) -> Iterable[tuple[str, str]]:
        """Reads an export back, in bounded memory, and compares it with the records that it was written from.

        An exporter without this method compares nothing: the checksums of its files are compared in any case.

        Returns:
            Names of files, each with what is wrong with it: the end of a sentence that begins with the name.
        """
        return ()


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of backend.

    Attributes:
        base: the class that backends of this kind extend.
        defaults: the built-in backends that a spec has if it names none.
        many: True: a spec has any number of them, each with a name. False: it has exactly one.
    """

    name: str
    base: type[Stage[Any]]
    defaults: tuple[str, ...]
    many: bool = False

    @property
    def key(self) -> str:
        """The key of the spec under which backends of this kind stand."""
        return f"{self.name}s" if self.many else self.name

    @property
    def package(self) -> str:
        """The package that holds the built-in backends."""
        return f"synthgen.{self.name}s"


DEFAULT_FILTERS = (
    "asked_found", "predicted_iou", "stability", "box_agreement", "mask_area", "mask_overlap", "class_agreement",
    "sharpness", "near_duplicate",
)  # fmt: skip
# A new kind is a row here, a package of its name, and a field of `DatasetSpec` and of `Stages` that bears its key.
KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("generator", Generator, ("diffusion",)),
        Kind("grounder", Grounder, ("layout",)),
        Kind("segmenter", Segmenter, ("sam",)),
        Kind("filter", Filter, DEFAULT_FILTERS, many=True),
        Kind("exporter", Exporter, ("coco",), many=True),
    )
}


def builtin(kind: str) -> list[str]:
    """Names of the built-in backends of a kind. A module whose name starts with `_` is a helper, and no backend."""
    package = importlib.import_module(KINDS[kind].package)
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def is_own(use: str) -> bool:
    """Whether `use` names a module of the user's."""
    return "." in use


def _own_module(use: str) -> ModuleType:
    """Imported; from the working folder, if it is nowhere else. Only then is that folder one that Python looks into."""
    here = str(Path.cwd())
    try:
        return importlib.import_module(use)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{use}.".startswith(f"{error.name}.") or here in sys.path:
            raise
    sys.path.append(here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(use)
    except ModuleNotFoundError:
        sys.path.remove(here)
        raise


def backend_module(kind: str, use: str) -> ModuleType:
    """The module that `use` names.

    Raises:
        LookupError: no such module, or it is not a backend; says what there is.
    """
    if is_own(use):
        try:
            if use.startswith("."):
                raise ImportError("a module's full name starts with no dot")
            module = _own_module(use)
        except Exception as error:  # whatever a user's module does when it is imported
            raise LookupError(f"cannot import your module {use!r}: {error}") from error
    elif use in builtin(kind):
        module = importlib.import_module(f"{KINDS[kind].package}.{use}")
    else:
        known = builtin(kind)
        raise LookupError(f"no {kind} is called {use!r}{nearest(use, known)}; there are: {listed(known)}")
    if not (hasattr(module, "Config") and hasattr(module, "Backend")):
        raise LookupError(f"{use!r} is no backend: a backend's module defines `Config` and `Backend`")
    return module
