"""Images that look like one already kept, by the vectors of a CLIP."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from synthgen.backends import Filter, FilterConfig, Model
from synthgen.models.clip import ClipConfig, ClipFiles, ClipModel
from synthgen.models.clip_families import Cosine
from synthgen.types import Sample

_BLOCK, _PART = 1024, 8192  # vectors, and kept vectors, that are compared at once
_AXES = 62  # axes on which vectors are compared before the full vectors are
_SAMPLE = 4096  # vectors from which the axes are computed
_SLACK = 1e-4  # far above the rounding of float32, and far below the error that a vector's numbers have


class Config(ClipConfig, FilterConfig):
    """Options of `near_duplicate_embedding`."""

    execution: ClassVar[frozenset[str]] = ClipConfig.execution
    judged: ClassVar[frozenset[str]] = frozenset({"on_fail", "max_cosine"})

    on_fail: Literal["reject"] = Field("reject", description="An image is rejected; it has no other way to fail.")
    max_cosine: float = Field(0.98, gt=-1, le=1, description="Two images with a greater cosine are alike.")


class Backend(Filter[Config]):
    """The image's vector in CLIP's space (arXiv 2103.00020); an image fails if its cosine with an earlier image that is
    kept is above `max_cosine`.

    The hash of `near_duplicate` finds the same picture; this finds the same content, also if it is mirrored, cropped or
    in another light. So with a low `max_cosine` two good images of one prompt count as alike. Every pair is compared:
    first on the vectors' main axes, where most pairs are already too far apart. A million images take some tens of
    minutes.
    """

    scope = "image"
    dtype = np.float16
    vector = True
    whole_dataset = True

    def models(self) -> Sequence[Model]:
        cosine = Cosine.of(self.config, "max_cosine", "1", "CLIP", of_texts=False)
        return [ClipFiles(self.config, cosine=cosine)]

    def measure(self, sample: Sample) -> NDArray[Any]:
        """-> float16 (D,), of length 1."""
        return self.measure_many([sample])[0]

    def measure_many(self, samples: Sequence[Sample]) -> Sequence[NDArray[Any]]:
        pictures = ClipModel.of(self.config).pictures([sample.image for sample in samples], self.config.batch_size)
        return list(pictures.astype(np.float16))

    def fails(self, values: NDArray[np.float16]) -> NDArray[np.bool_]:
        """Vectors float16 (M, D), in order of id -> bool (M,)."""
        failed = np.ones(len(values), bool)
        if not len(values):
            return failed
        measured = np.isfinite(values.sum(1, dtype=np.float32))
        if not measured.all():
            failed[measured] = self.fails(values[measured])
            return failed
        axes = _axes(values)
        kept = np.zeros((len(values), axes.shape[1] + 2), np.float32)  # the kept vectors on the axes
        places = np.zeros(len(values), np.intp)  # their positions in `values`
        count = 0
        for start in range(0, len(values), _BLOCK):
            block = _unit(values[start : start + _BLOCK])
            short = block @ axes
            left = np.arange(len(block))
            for begin in range(0, count, _PART):
                end = min(begin + _PART, count)
                near = self._near(block[left], short[left], values, kept[begin:end], places[begin:end])
                left = left[~near]
            near = block[left] @ block[left].T > self.config.max_cosine
            alive = np.ones(len(left), bool)
            for i in np.flatnonzero(np.triu(near, 1).any(1)):
                if alive[i]:
                    alive[i + 1 :] &= ~near[i, i + 1 :]
            left = left[alive]
            failed[start + left] = False
            kept[count : count + len(left)] = _halves(short[left])[1]
            places[count : count + len(left)] = start + left
            count += len(left)
        return failed

    def original(self, values: NDArray[np.float16], kept: NDArray[np.bool_], place: int) -> int | None:
        """The most similar of the earlier images that are kept."""
        earlier = np.flatnonzero(kept[:place])
        if not len(earlier):
            return None
        vector = values[place].astype(np.float32)
        parts = np.split(earlier, range(_BLOCK, len(earlier), _BLOCK))  # a million vectors in float32 are 2 GB
        return int(earlier[np.concatenate([values[part].astype(np.float32) @ vector for part in parts]).argmax()])

    def _near(
        self,
        block: NDArray[np.float32],
        short: NDArray[np.float32],
        values: NDArray[np.float16],
        kept: NDArray[np.float32],
        places: NDArray[np.intp],
    ) -> NDArray[np.bool_]:
        """Whether each vector of `block` (B, D) is like any of the vectors at the positions `places` (P,) of `values`.
        `short` and `kept` are the two groups on the axes."""
        least = self.config.max_cosine
        # Unit vectors with a cosine c are sqrt(2 - 2 c) apart, and their projections on some axes are no farther apart.
        close = _halves(short)[0] @ kept.T > least - 1 - _SLACK
        rows, others = np.nonzero(close)
        if 16 * len(rows) > close.size:
            return np.asarray((block @ _unit(values[places]).T > least).any(1))
        near = np.zeros(len(block), bool)
        for some in np.split(np.arange(len(rows)), range(_PART, len(rows), _PART)):
            cosine = np.einsum("ij,ij->i", block[rows[some]], _unit(values[places[others[some]]]))
            near[rows[some[cosine > least]]] = True
        return near


def _unit(vectors: NDArray[Any]) -> NDArray[np.float32]:
    full = vectors.astype(np.float32)
    full /= np.maximum(np.linalg.norm(full, axis=1, keepdims=True), 1e-6)
    return full


def _axes(values: NDArray[Any]) -> NDArray[np.float32]:
    """The axes on which vectors differ the most, float32 (D, at most `_AXES`), of length 1 and at right angles: the
    principal components of a sample of evenly spaced vectors."""
    some = _unit(values[:: max(1, len(values) // _SAMPLE)])
    some -= some.mean(0)
    return np.linalg.eigh(some.T @ some)[1][:, : -_AXES - 1 : -1].astype(np.float32)


def _halves(short: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Vectors a (M, K) -> two matrices (M, K + 2): a row of the first for a, times a row of the second for b, is
    -|a - b|^2 / 2."""
    length = (short**2).sum(1, keepdims=True) / -2
    one = np.ones_like(length)
    return np.hstack([short, length, one]), np.hstack([short, one, length])
