"""Whether an image looks like its prompt."""

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from synthgen.backends import Model, Request, ThresholdConfig, ThresholdFilter
from synthgen.errors import Problem
from synthgen.models.clip import ClipConfig, ClipFiles, ClipModel
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

    def models(self) -> Sequence[Model]:
        return [ClipFiles(self.config)]

    def check(self, request: Request) -> Iterable[Problem]:
        return ClipFiles(self.config, sorted(request.words)).problems()

    def measure(self, sample: Sample) -> NDArray[Any]:
        """-> float32 (): a cosine."""
        model = ClipModel.of(self.config)
        seen, said = model.pictures([sample.image])[0], model.texts((sample.job.prompt,))[0]
        return np.asarray(seen @ said, np.float32)
