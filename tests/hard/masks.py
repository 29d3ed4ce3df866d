"""The masks of the dataset of hard shapes."""

import numpy as np

from hard import HEIGHT, WIDTH, objects_of
from synthgen.backends import Config as BaseConfig
from synthgen.backends import Segmenter
from synthgen.types import Instances


class Config(BaseConfig):
    """It has no options."""


class Backend(Segmenter[Config]):
    def segment(self, images, groundings):
        return [self._of(grounding) for grounding in groundings]

    def _of(self, grounding):
        if not len(grounding):
            return Instances.empty(HEIGHT, WIDTH)
        objects = objects_of(int(grounding.scores["index"][0]))
        scores = {"predicted_iou": np.array([iou for *_, iou in objects], np.float32)}
        return Instances(np.array([mask for _, mask, _ in objects]), grounding.boxes, grounding.category_id, scores)
