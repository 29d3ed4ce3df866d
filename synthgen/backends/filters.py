"""What filters do."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from synthgen.backends.config import FilterConfig, ThresholdConfig
from synthgen.backends.stages import Request, Stage
from synthgen.errors import BackendError, Problem, listed
from synthgen.types import Sample

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
    """A filter whose number is a score that the segmenter, or the grounder, has given an instance.

    Attributes:
        score: its name.
        given_by: for a score of the grounder: which grounder gives it, with which options, in words for people.
    """

    scope = "instance"
    score: ClassVar[str]
    given_by: ClassVar[str] = ""

    def check(self, request: Request) -> Iterable[Problem]:
        if self.given_by and request.scores is not None and self.score not in request.scores:
            yield Problem(
                ".use", f"judges the score {self.score!r}, and this grounder gives none; takes {self.given_by}"
            )
        yield from super().check(request)

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
