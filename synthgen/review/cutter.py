"""Boxes that annotators drew become masks, by the segmenter of the run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from synthgen.masks import encode_rle
from synthgen.pipeline.build import Build
from synthgen.types import Grounding


class Cutter:
    """Makes masks of boxes.

    Attributes:
        count: how many masks it has made.
    """

    def __init__(self, build: Build) -> None:
        self._build = build
        self.count = 0

    def cut(
        self, shard: int, image_id: int, boxes: Sequence[NDArray[np.float32]], category_ids: Sequence[int]
    ) -> list[str]:
        """The masks of the objects in these boxes of an image, (4,), xyxy px, as RLE counts. A mask may be empty.

        Raises:
            RunError: the image cannot be read.
        """
        run = self._build.run
        image = run.images.read(shard, image_id, run.marks.read("generate", shard))
        grounding = Grounding(np.stack(boxes), np.array(category_ids, np.int64))
        (instances,) = self._build.stages.segmenter.segment([image], [grounding])
        self.count += len(boxes)
        return [rle["counts"] for rle in encode_rle(instances.masks)]
