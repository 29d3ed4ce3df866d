"""The boxes of the dataset of hard shapes."""

import numpy as np

from hard import objects_of
from synthgen.backends import Config as BaseConfig
from synthgen.backends import Grounder
from synthgen.masks import mask_boxes
from synthgen.types import Grounding


class Config(BaseConfig):
    """It has no options."""


class Backend(Grounder[Config]):
    def score_names(self):
        return frozenset({"index"})

    def ground(self, jobs, images):
        return [self._of(job.index) for job in jobs]

    def _of(self, index):
        objects = objects_of(index)
        boxes = mask_boxes(np.array([mask for _, mask, _ in objects])) if objects else np.zeros((0, 4), np.float32)
        ids = np.array([category_id for category_id, _, _ in objects], np.int64)
        return Grounding(boxes, ids, {"index": np.full(len(objects), index, np.float32)})
