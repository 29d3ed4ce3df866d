"""Images that a CLIP can hardly tell from one already kept."""

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from synthgen import clip, models
from synthgen.backends import Filter, FilterConfig, Request
from synthgen.clip import ClipConfig, ClipModel
from synthgen.errors import Problem
from synthgen.types import Sample

_BLOCK = 1024
# Of the graph (arXiv 1603.09320, section 4.1): links of a node, and candidates looked at when building and searching.
_LINKS, _BUILDING, _SEARCHING = 32, 128, 128


class Config(ClipConfig, FilterConfig):
    """Options of `near_duplicate_embedding`."""

    execution: ClassVar[frozenset[str]] = ClipConfig.execution
    judged: ClassVar[frozenset[str]] = frozenset({"on_fail", "max_cosine"})

    on_fail: Literal["reject"] = Field("reject", description="An image is rejected; it has no other way to fail.")
    max_cosine: float = Field(0.98, gt=-1, le=1, description="Images with a greater cosine are called alike.")


class Backend(Filter[Config]):
    """The image's vector in CLIP's space (arXiv 2103.00020); an image fails with a cosine above `max_cosine` to an
    earlier image that is kept.

    Where the hash of `near_duplicate` sees the same picture, this sees the same content: mirrored, cropped, in another
    light. So it also finds two good images of one prompt alike if `max_cosine` is low. Neighbours are looked up in an
    HNSW graph (arXiv 1603.09320; faiss), which may miss one in some hundreds.
    """

    scope = "image"
    dtype = np.float16
    vector = True
    whole_dataset = True

    def check(self, request: Request) -> Iterable[Problem]:
        return clip.problems(self.config, ())

    def identity(self) -> str:
        return models.model_identity(clip.path_of(self.config))

    def licences(self) -> Iterable[tuple[str, str]]:
        return clip.licences(self.config)

    def measure(self, sample: Sample) -> NDArray[Any]:
        """-> float16 (D,), of length 1."""
        vector: NDArray[Any] = ClipModel.of(self.config).pictures([sample.image])[0].astype(np.float16)
        return vector

    def fails(self, values: NDArray[np.float16]) -> NDArray[np.bool_]:
        """Vectors float16 (M, D), in order of id -> bool (M,)."""
        import faiss

        failed = np.zeros(len(values), bool)
        if not len(values):
            return failed
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)  # with more, which links a graph has depends on their race
        try:
            # Half the memory of float32, and no more precise than what is stored.
            half: Any = faiss.ScalarQuantizer.QT_fp16
            graph = faiss.IndexHNSWSQ(values.shape[1], half, _LINKS, faiss.METRIC_INNER_PRODUCT)
            graph.hnsw.efConstruction, graph.hnsw.efSearch = _BUILDING, _SEARCHING
            for start in range(0, len(values), _BLOCK):
                block = values[start : start + _BLOCK].astype(np.float32)
                block /= np.maximum(np.linalg.norm(block, axis=1, keepdims=True), 1e-6)
                alive = self._unlike(block, graph)
                failed[start : start + len(block)] = ~alive
                if alive.any():
                    graph.add(block[alive])
        finally:
            faiss.omp_set_num_threads(threads)
        return failed

    def original(self, values: NDArray[np.float16], kept: NDArray[np.bool_], place: int) -> int | None:
        """The most alike of the kept ones before it."""
        earlier = np.flatnonzero(kept[:place])
        if not len(earlier):
            return None
        return int(earlier[(values[earlier].astype(np.float32) @ values[place].astype(np.float32)).argmax()])

    def _unlike(self, block: NDArray[np.float32], kept: Any) -> NDArray[np.bool_]:
        """Which of the block's vectors are like none that is kept, nor like an earlier one of the block that stays."""
        alive = np.ones(len(block), bool)
        if kept.ntotal:
            cosine, _ = kept.search(block, 1)
            alive = cosine[:, 0] <= self.config.max_cosine
        near = block @ block.T > self.config.max_cosine
        for i in np.flatnonzero(np.triu(near, 1).any(1)):
            if alive[i]:
                alive[i + 1 :] &= ~near[i, i + 1 :]
        return alive
