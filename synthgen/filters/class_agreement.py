"""Whether the object in a box looks like its class, by a second model."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from synthgen.backends import Model, Request, ThresholdConfig, ThresholdFilter
from synthgen.base.pattern import ONE_GAP
from synthgen.errors import Problem, listed, nearest
from synthgen.models import clip
from synthgen.models.clip import ClipConfig, ClipFiles, ClipModel
from synthgen.models.clip_families import Cosine
from synthgen.types import Sample

LEAST = -1.0  # the least cosine that there is


class Config(ClipConfig, ThresholdConfig):
    """Options of `class_agreement`."""

    execution: ClassVar[frozenset[str]] = ClipConfig.execution
    judged: ClassVar[frozenset[str]] = ThresholdConfig.judged

    min: float | None = Field(
        0.5, ge=-1, le=1, description="Least cosine kept. It depends on the model: see `calibrate`."
    )
    max: float | None = Field(None, ge=-1, le=1, description="Greatest cosine kept.")
    prompt: Annotated[str, ONE_GAP] = Field(
        "a photo of a {}",
        description="The text that CLIP compares with the crop; {} is a class's name or synonym.",
    )
    confusables: dict[str, tuple[str, ...]] = Field(
        {}, description="Words for objects that may be mistaken for a class, by its name: `bottle: [ball, vase]`."
    )


class Backend(ThresholdFilter[Config]):
    """Cosine of the instance's crop with the text of its class, or of the synonym that fits best, in CLIP's space
    (arXiv 2103.00020); -1 if a declared confusable fits better.

    It is not a share of a softmax over the classes: in a softmax one class always wins, even if the picture shows none
    of them. A cosine belongs to one model. The embedded model was trained with a sigmoid loss (arXiv 2303.15343), so it
    gives mostly more than 0.5 for right names and less for wrong ones; OpenAI's models give about 0.25 for right names
    and 0.18 for wrong ones.
    """

    scope = "instance"

    def models(self) -> Sequence[Model]:
        words = [word for c in self.categories for word in (c.name, *c.synonyms)]
        words += [word for others in self.config.confusables.values() for word in others]
        return [
            ClipFiles(self.config, words, self.config.prompt, cosine=Cosine.of(self.config, "min", "null", "embedded"))
        ]

    def check(self, request: Request) -> Iterable[Problem]:
        names = [category.name for category in self.categories]
        for name in self.config.confusables:
            if name not in names:
                message = f"no class is called {name!r}{nearest(name, names)}; takes: {listed(names)}"
                yield Problem(".confusables", message)
        yield from super().check(request)

    def measure(self, sample: Sample) -> NDArray[Any]:
        """-> float32 (N,): cosines."""
        instances = sample.instances
        if not len(instances):
            return np.zeros(0, np.float32)
        model = ClipModel.of(self.config)
        crops = model.pictures([clip.crop(sample.image, box) for box in instances.boxes], self.config.batch_size)
        agreement = np.empty(len(instances), np.float32)
        for category in self.categories:
            of_class = np.flatnonzero(instances.category_id == category.id)
            if not len(of_class):
                continue
            agreement[of_class] = self._cosines(model, crops[of_class], (category.name, *category.synonyms))
            if others := self.config.confusables.get(category.name):
                better = self._cosines(model, crops[of_class], others) > agreement[of_class]
                agreement[of_class[better]] = LEAST
        return agreement

    def _cosines(self, model: ClipModel, crops: NDArray[np.float32], words: Iterable[str]) -> NDArray[np.float32]:
        """Vectors of crops (N, D) -> the cosine of each with the word that fits it best, (N,)."""
        texts = model.cached_texts(tuple(clip.phrase(self.config.prompt, word) for word in words))
        best: NDArray[np.float32] = (crops @ texts.T).max(1)
        return best
