"""Whether an image looks like its prompt."""

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from synthgen.backends import Model, Request, ThresholdConfig, ThresholdFilter
from synthgen.errors import Problem
from synthgen.models.clip import ClipConfig, ClipFiles, ClipModel
from synthgen.models.clip_families import Cosine
from synthgen.types import Sample


class Config(ClipConfig, ThresholdConfig):
    """Options of `prompt_agreement`."""

    execution: ClassVar[frozenset[str]] = ClipConfig.execution
    judged: ClassVar[frozenset[str]] = ThresholdConfig.judged

    min: float | None = Field(
        0.2, ge=-1, le=1, description="Least cosine kept. It depends on the model: see `calibrate`."
    )
    max: float | None = Field(None, ge=-1, le=1, description="Greatest cosine kept.")


class Backend(ThresholdFilter[Config]):
    """Cosine of the image with its prompt in CLIP's space: CLIPScore (arXiv 2104.08718) without its factor of 2.5 and
    its cut at 0. It notices a wrong background or a missing object more often than a wrong number of objects, and
    hardly notices small objects. A prompt with more tokens than the model takes (77 for OpenAI's) is cut."""

    scope = "image"

    def models(self) -> Sequence[Model]:
        return [self._files()]

    def check(self, request: Request) -> Iterable[Problem]:
        return self._files(sorted(request.words)).problems()

    def _files(self, words: Sequence[str] = ()) -> ClipFiles:
        return ClipFiles(self.config, words, cosine=Cosine.of(self.config, "min", "null", "CLIP"))

    def measure(self, sample: Sample) -> NDArray[Any]:
        """-> float32 (): a cosine."""
        return self.measure_many([sample])[0]

    def measure_many(self, samples: Sequence[Sample]) -> Sequence[NDArray[Any]]:
        model, size = ClipModel.of(self.config), self.config.batch_size
        prompts = list(dict.fromkeys(sample.job.prompt for sample in samples))
        texts = dict(zip(prompts, model.unpadded_texts(prompts, size), strict=True))
        pictures = model.pictures([sample.image for sample in samples], size)
        pairs = zip(pictures, samples, strict=True)
        return [np.asarray(picture @ texts[sample.job.prompt], np.float32) for picture, sample in pairs]
