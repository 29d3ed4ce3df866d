"""Whether an image looks like its prompt."""

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from synthgen import models
from synthgen.backends import Request, ThresholdConfig, ThresholdFilter
from synthgen.errors import Problem
from synthgen.models import clip
from synthgen.models.clip import ClipConfig, ClipModel
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
    its cut at 0. It sees a wrong ground or a missing thing better than a wrong number, and small things badly. A
    prompt with more tokens than the model takes (77, of OpenAI's) is cut."""

    scope = "image"

    def check(self, request: Request) -> Iterable[Problem]:
        return clip.problems(self.config, sorted(request.words))

    def identity(self) -> str:
        return models.model_identity(clip.path_of(self.config))

    def licences(self) -> Iterable[tuple[str, str]]:
        return clip.licences(self.config)

    def measure(self, sample: Sample) -> NDArray[Any]:
        """-> float32 (): a cosine."""
        model = ClipModel.of(self.config)
        seen, said = model.pictures([sample.image])[0], model.texts((sample.job.prompt,))[0]
        return np.asarray(seen @ said, np.float32)
