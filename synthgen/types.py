"""The types that modules exchange. They use numpy only, and check every shape, dtype and unit once, at construction.

Frames: pixel coordinates have their origin at the image's top left corner, x to the right, y down. Boxes are
xyxy and half-open, so a box (0, 0, w, h) covers a whole image of width w and height h. `category_id` is
`Category.id` everywhere: 1 for the first class of the spec. Only exports use the ids that a spec gives its classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Category:
    """A class of the dataset.

    Attributes:
        id: from 1, in the order of the spec.
        synonyms: other words for the class; grounders give them the same `id`.
        supercategory: COCO's field; only exports use it.
        own_id: its id in exports, if the spec gives one.
    """

    id: int
    name: str
    synonyms: tuple[str, ...] = ()
    supercategory: str = ""
    own_id: int | None = None

    @property
    def exported_id(self) -> int:
        return self.own_id or self.id


@dataclass(frozen=True, slots=True)
class PromptForm:
    """A set of possible prompts, in pieces.

    Attributes:
        pieces: the possible texts of each piece, in order.
        last_needed: how many of the pieces must reach the model: those up to the last requested object.
    """

    pieces: tuple[tuple[str, ...], ...]
    last_needed: int = 0


@dataclass(frozen=True, slots=True)
class Job:
    """One image to be made: everything that decides its pixels, and nothing about where or when it is made.

    Attributes:
        id: unique over the runs of a dataset, and the image's COCO `image_id`; from 1.
        run, round, index: the number of the run, the round in it, and the image's position in the run (from 0).
        family: hash of what two similar images would share (template, slots, classes, layout).
        split: decided by `family` alone.
        slots: the values that filled the template.
        asked: category ids of the requested objects, in the order of `layout`; one entry for each object.
        layout: boxes in xyxy px, one for each of `asked`, or None if the prompt alone places the objects.
        seed: the seed of this image's CPU generator, below 2**63.
        height, width: px.
    """

    id: int
    run: int
    round: int
    index: int
    family: str
    split: str
    prompt: str
    negative_prompt: str
    slots: Mapping[str, str]
    asked: tuple[int, ...]
    layout: tuple[Box, ...] | None
    seed: int
    height: int
    width: int

    def __post_init__(self) -> None:
        if self.layout is not None and len(self.layout) != len(self.asked):
            raise ValueError(f"`layout` has {len(self.layout)} boxes for {len(self.asked)} asked objects")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"`seed` must be in [0, 2**63), got {self.seed}")


def _require(name: str, array: NDArray[Any], shape: tuple[int | None, ...], dtype: Any) -> None:
    fits = array.ndim == len(shape) and all(w is None or w == g for w, g in zip(shape, array.shape, strict=True))
    if not fits or array.dtype != dtype:
        expected = ", ".join("any" if s is None else str(s) for s in shape)
        raise ValueError(f"`{name}` must be {np.dtype(dtype)} ({expected}), got {array.dtype} {array.shape}")


@dataclass(slots=True)
class Grounding:
    """Where things are thought to be in one image.

    Attributes:
        boxes: float32 (N, 4), xyxy px, half-open.
        category_id: int64 (N,).
        scores: name -> float32 (N,).
    """

    boxes: NDArray[np.float32]
    category_id: NDArray[np.int64]
    scores: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.boxes)
        _require("boxes", self.boxes, (n, 4), np.float32)
        _require("category_id", self.category_id, (n,), np.int64)
        for name, values in self.scores.items():
            _require(f"scores[{name}]", values, (n,), np.float32)

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(slots=True)
class Instances:
    """The labelled objects of one image, as a struct of arrays.

    Attributes:
        masks: bool (N, H, W). A mask may be empty: the object was asked for or grounded, and not found.
        boxes: float32 (N, 4), xyxy px, half-open; the tight box of the mask, or the grounded box if it is empty.
        category_id: int64 (N,).
        scores: name -> float32 (N,).
    """

    masks: NDArray[np.bool_]
    boxes: NDArray[np.float32]
    category_id: NDArray[np.int64]
    scores: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.masks)
        _require("masks", self.masks, (n, None, None), np.bool_)
        _require("boxes", self.boxes, (n, 4), np.float32)
        _require("category_id", self.category_id, (n,), np.int64)
        for name, values in self.scores.items():
            _require(f"scores[{name}]", values, (n,), np.float32)

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, chosen: NDArray[Any]) -> Instances:
        """The instances at a bool or integer array of positions."""
        scores = {name: values[chosen] for name, values in self.scores.items()}
        return Instances(self.masks[chosen], self.boxes[chosen], self.category_id[chosen], scores)

    @classmethod
    def empty(cls, height: int, width: int) -> Instances:
        return cls(np.zeros((0, height, width), bool), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))


@dataclass(slots=True)
class Sample:
    """An image with its labels, as filters see it. `image`: uint8 (H, W, 3), RGB."""

    job: Job
    image: NDArray[np.uint8]
    instances: Instances

    def __post_init__(self) -> None:
        _require("image", self.image, (self.job.height, self.job.width, 3), np.uint8)
        if self.instances.masks.shape[1:] != self.image.shape[:2]:
            raise ValueError(f"masks are {self.instances.masks.shape[1:]}, the image is {self.image.shape[:2]}")


@dataclass(frozen=True, slots=True)
class Annotation:
    """One exported object. `rle`: COCO RLE, `{"size": [h, w], "counts": str}`; `area`: mask pixels.

    `bbox_xywh` is the mask's half-open box in px; `ignore` marks a region that is neither object nor background;
    `instance` is the label's number in its image, from 0, by which reviews name it.
    """

    id: int
    category_id: int
    rle: Mapping[str, Any]
    bbox_xywh: tuple[float, float, float, float]
    area: int
    ignore: bool
    scores: Mapping[str, float]
    instance: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    """One image with its labels, as exporters see it: an accepted one, unless other images were asked for.

    Attributes:
        image_sha256: checksum of the file at `image_path`, as it was made; "" if no mark names it.
        verdict: accepted, surplus or rejected.
        reasons: why it is rejected.
        looked_for: ids of the classes that the grounder looked for in the whole image. Of these, what has no label is
            not there, as far as the grounder can tell.
        dropped: ids of the classes of labels that are left out of `annotations`. There may be such objects.
    """

    job: Job
    image_path: Path
    annotations: tuple[Annotation, ...]
    measures: Mapping[str, float]
    image_sha256: str = ""
    verdict: str = "accepted"
    reasons: tuple[str, ...] = ()
    looked_for: frozenset[int] = frozenset()
    dropped: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """What a dataset says of itself.

    Attributes:
        licences: (name, url) of the models that made it.
        subset: a sentence that says what was left out or renamed for this export; "" if nothing was.
        models: each of these models, with the name and the url of the licence of what it makes; "" for what is not
            known.
    """

    name: str
    description: str
    categories: tuple[Category, ...]
    splits: tuple[str, ...]
    licences: tuple[tuple[str, str], ...]
    subset: str = ""
    models: tuple[tuple[str, str, str], ...] = ()
