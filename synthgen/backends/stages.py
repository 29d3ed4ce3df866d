"""What all backends have in common, and what generators, grounders and segmenters do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from synthgen.backends.config import Config
from synthgen.base.xmp import DigitalSourceType
from synthgen.errors import Problem
from synthgen.types import Category, Grounding, Instances, Job, PromptForm


@dataclass(frozen=True, slots=True)
class Request:
    """What a spec will ask of its backends, for `check`: size in px, whether jobs carry layouts, the words of every
    prompt that can come about, those prompts in pieces, the negative prompt, and the most objects of an image.

    Attributes:
        scores: names of the scores that the grounder gives; None if that is not known.
        judged: names of the scores that filters judge; None if that is not known.
        splits: names of the splits.
    """

    height: int
    width: int
    has_layout: bool
    words: frozenset[str]
    prompts: tuple[PromptForm, ...] = ()
    negative_prompt: str = ""
    max_objects: int = 1
    scores: frozenset[str] | None = None
    judged: frozenset[str] | None = None
    splits: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model's files come from, and which of them are read: `synthgen models` shows and fetches those.

    Attributes:
        model: `mini`, a folder or file, a name of a known checkpoint, or a Hugging Face id.
        revision, variant: see `find_model`.
        without: parts of a pipeline that are not loaded.
        settings_only: parts of a pipeline whose settings are read, and whose weights come from elsewhere.
        part: if this is to be a part of another pipeline: its name there. Of a whole pipeline only this part is read,
            and plain weights do where there are none of the variant.
        files: the files that are read; empty: those that the pipeline's index or the model's settings call for.
    """

    model: str
    revision: str | None = None
    variant: str | None = None
    without: frozenset[str] = frozenset()
    settings_only: frozenset[str] = frozenset()
    part: str | None = None
    files: tuple[str, ...] = ()


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

    def stated_licences(self) -> Iterable[tuple[str, str]]:
        """(name, url) of the licences that decide what may be done with what it makes: see
        `synthgen.models.licences`."""
        return self.licences()

    def advice(self) -> Iterable[Problem]:
        """What `check` notes of it. Fields: see `Stage.check`."""
        return ()

    def source(self) -> Source | None:
        """Where its files come from; None for a model that comes with a package."""
        return None


C = TypeVar("C", bound=Config)


class Stage(ABC, Generic[C]):
    """What all backends have in common."""

    def __init__(self, config: C, categories: Sequence[Category]) -> None:
        self.config = config
        self.categories = tuple(categories)

    def nested(self) -> Mapping[str, Stage[Any]]:
        """The backends that this one is made of, by their place in its options, such as `of.0`."""
        return {}

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

    def digital_source_type(self, job: Job) -> DigitalSourceType:
        """What its image is, as IPTC has it: made by a model, or a composite where a photo is part of it."""
        return "trainedAlgorithmicMedia"

    @abstractmethod
    def generate(self, jobs: Sequence[Job]) -> NDArray[np.uint8]:
        """One batch of jobs of one size -> uint8 (B, H, W, 3), RGB, or (B, H, W, 4), RGBA. An image's noise comes from
        `job.seed` alone. Labels and measures see the colours without alpha; the image's file keeps both."""


class Grounder(Stage[C]):
    """Says which object is where.

    Attributes:
        looks_for: of which classes it looks for every object in an image: of none, of those that the job asks for, or
            of all.
    """

    looks_for: Literal["nothing", "asked", "everything"] = "nothing"

    def looked_for(self, job: Job) -> frozenset[int]:
        """See `Record`."""
        if self.looks_for == "everything":
            return frozenset(category.id for category in self.categories)
        return frozenset(job.asked if self.looks_for == "asked" else ())

    def score_names(self) -> frozenset[str] | None:
        """Names of the scores that it gives; None if that is not known."""
        return None

    @abstractmethod
    def ground(self, jobs: Sequence[Job], images: Sequence[NDArray[np.uint8]]) -> list[Grounding]:
        """Images uint8 (H, W, 3), RGB -> one `Grounding` each."""


class Segmenter(Stage[C]):
    """Boxes become masks."""

    @abstractmethod
    def segment(self, images: Sequence[NDArray[np.uint8]], groundings: Sequence[Grounding]) -> list[Instances]:
        """One mask for every grounded box, in the same order; the grounding's scores are carried over."""
