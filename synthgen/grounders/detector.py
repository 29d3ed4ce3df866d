"""Boxes by open-vocabulary detection: OWLv2, OWL-ViT, Grounding DINO, MM-Grounding-DINO, LLMDet or SAM 3.

The detector looks only for the classes that the image's job requests. The queries of a class are its name and each
synonym. Every query has a class id from the start; text that a model decodes never becomes a label.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from synthgen import devices
from synthgen.backends import Grounder, Model, ModelConfig, Request
from synthgen.base.pattern import ONE_GAP
from synthgen.base.wording import plain, shown
from synthgen.errors import Problem, listed, nearest
from synthgen.grounders._answers import answers
from synthgen.grounders._choice import Candidates, Choice, Floats
from synthgen.grounders._detectors import DEFAULT_THRESHOLD, Detector, DetectorFiles, load
from synthgen.grounders._queries import Query, queries, query_problems, text_of
from synthgen.grounders._views import View, views
from synthgen.types import Grounding, Job


class Config(ModelConfig):
    """Options of the open-vocabulary detector."""

    added: ClassVar[frozenset[str]] = frozenset({"tiles", "tile_overlap", "flip", "exclusive"})

    model: str = Field(
        "google/owlv2-base-patch16-ensemble",
        description="An OWLv2, OWL-ViT, Grounding DINO, MM-Grounding-DINO, LLMDet or SAM 3 model: a folder of "
        "`save_pretrained`, or a Hugging Face model id.",
    )
    prompt: Annotated[str, ONE_GAP] = Field(
        "a photo of a {}",
        description="OWLv2 and OWL-ViT are asked this; {} is a class's name or synonym. The others are asked the bare "
        "words.",
    )
    score_threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="A box needs a `grounding_score` above this. Null: 0.3 for SAM 3, 0.1 for OWL-ViT, else 0.2.",
    )
    class_thresholds: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(
        {}, description="The threshold of a class, by its name."
    )
    nms_iou: float = Field(
        0.5, ge=0, le=1, description="If two boxes of a class overlap more than this, only the better one stays."
    )
    cross_class_nms_iou: float = Field(0.8, ge=0, le=1, description="The same for two boxes of different classes.")
    # 1000 masks of 1024 x 1024 px are a gigabyte.
    max_boxes: int = Field(
        300, ge=1, le=1000, description="The most boxes of an image; the best stay. It bounds the memory of masks."
    )

    tiles: int = Field(
        1,
        ge=1,
        le=8,
        description="For small objects: the detector also looks at this many parts of the image in each direction, "
        "each on its own. 2 are 4 parts.",
    )
    tile_overlap: float = Field(
        0.2,
        ge=0,
        le=0.8,
        description="How much neighbouring parts overlap, as a share of a part's side. Take more than the largest of "
        "the small objects.",
    )
    flip: bool = Field(False, description="The detector also looks at the mirrored image. It takes twice the time.")
    exclusive: tuple[Annotated[tuple[str, ...], Field(min_length=2, max_length=100)], ...] = Field(
        (),
        max_length=1000,
        description="Lists of classes that contradict each other, such as [with helmet, without helmet]: an object is "
        "of one of them only. If one is looked for, all are. The filter `class_margin` judges how sure that is.",
    )

    def fingerprint(self) -> dict[str, Any]:
        # Run folders that are older than the thresholds of families have this number where the spec says none. The
        # identity of the weights names another one.
        threshold = DEFAULT_THRESHOLD if self.score_threshold is None else self.score_threshold
        return {**super().fingerprint(), "score_threshold": threshold}


class Backend(Grounder[Config]):
    """Scores: `grounding_score`, the model's probability for the best query of the box's class; with `exclusive` also
    `class_margin`, by how much it is above that of the best class that contradicts it, or 1 if none can."""

    looks_for = "asked"

    def models(self) -> Sequence[Model]:
        return [DetectorFiles(self.config)]

    def score_names(self) -> frozenset[str]:
        return frozenset({"grounding_score", *["class_margin"] * bool(self.config.exclusive)})

    def check(self, request: Request) -> Iterable[Problem]:
        yield from self._unknown_classes()
        if self.config.exclusive and request.judged is not None and "class_margin" not in request.judged:
            message = (
                "needs the filter `class_margin`, which says what becomes of objects whose class is not sure; add "
            )
            yield Problem(".exclusive", message + "`class_margin: {min: 0.1, on_fail: reject}` to `filters`")
        files = DetectorFiles(self.config)
        if problems := list(files.problems()):
            yield from problems
        else:
            yield from query_problems(files, self.config.prompt, self.categories, self._excluded(), request)

    def _unknown_classes(self) -> Iterable[Problem]:
        names = [category.name for category in self.categories]
        exclusive = [name for several in self.config.exclusive for name in several]
        for field, given in ((".class_thresholds", list(self.config.class_thresholds)), (".exclusive", exclusive)):
            for name in dict.fromkeys(given):
                if name not in names:
                    message = f"no class is called {shown(name)}{nearest(name, names)}; takes: {listed(names)}"
                    yield Problem(field, plain(message, 500))
        if twice := [name for name in dict.fromkeys(exclusive) if exclusive.count(name) > 1]:
            yield Problem(".exclusive", plain(f"got {shown(twice[0])} twice; takes each class once", 500))

    def advice(self, request: Request) -> Iterable[Problem]:
        yield from super().advice(request)
        if self.config.tiles == 1 and "tile_overlap" not in self.config.untouched():
            yield Problem(".tile_overlap", "does nothing, since `tiles` is 1; set `tiles: 2`")

    def identity(self) -> str:
        """The weights; and the threshold, if the spec leaves it to the family and that has one of its own."""
        files = DetectorFiles(self.config)
        weights, family = files.identity(), files.family()
        if self.config.score_threshold is not None or family is None or family.threshold == DEFAULT_THRESHOLD:
            return weights
        return f"{weights} score_threshold {family.threshold}"

    def ground(self, jobs: Sequence[Job], images: Sequence[NDArray[np.uint8]]) -> list[Grounding]:
        """Images uint8 (H, W, 3), RGB -> boxes of the classes asked for, xyxy px inside the image, best first.

        Raises:
            BackendError: the model cannot be loaded, or a job asks for more words than the model takes.
        """
        asked = [queries(job, self.categories, self._excluded()) for job in jobs]
        threshold = DEFAULT_THRESHOLD
        found: list[list[tuple[View, Floats, Floats]]] = [[] for _ in jobs]
        for batch in _batches(self._seen(images, asked), self.config.batch_size):
            detector = self.load()
            threshold = detector.family.threshold
            texts = [[text_of(q.word, detector.family, self.config.prompt) for q in asked[i]] for i, _ in batch]
            answered = answers(detector, [view.picture(images[i]) for i, view in batch], texts)
            for (i, view), (boxes, logits) in zip(batch, answered, strict=True):
                found[i].append((view, boxes, logits))
        return [self.choose(*one, threshold) for one in zip(found, asked, images, strict=True)]

    def _seen(self, images: Sequence[NDArray[np.uint8]], asked: Sequence[Sequence[Query]]) -> list[tuple[int, View]]:
        """Position of an image, and a part of it that is looked at, for the images that have queries."""
        options = self.config.tiles, self.config.tile_overlap, self.config.flip
        return [(i, view) for i, image in enumerate(images) if asked[i] for view in views(image.shape[:2], *options)]

    def choose(
        self,
        found: Sequence[tuple[View, Floats, Floats]],
        asked: Sequence[Query],
        image: NDArray[np.uint8],
        threshold: float = DEFAULT_THRESHOLD,
    ) -> Grounding:
        """Boxes (P, 4) px of each view, with the logit of every query (P, Q) -> the boxes that are kept, each with its
        best class.

        Args:
            threshold: the least score where the spec says none.
        """
        if not found:
            none = np.zeros(0, np.float32)
            return Grounding(none.reshape(0, 4), np.zeros(0, np.int64), dict.fromkeys(sorted(self.score_names()), none))
        config = self.config
        if config.score_threshold is not None:
            threshold = config.score_threshold
        choice = Choice(
            {c.id: config.class_thresholds.get(c.name, threshold) for c in self.categories},
            config.nms_iou,
            config.cross_class_nms_iou,
            config.max_boxes,
            self._exclusive(),
        )
        size = image.shape[:2]
        category_id = np.array([query.category_id for query in asked], np.int64)
        return Grounding(*choice.of(Candidates.of(found, category_id, size), size))

    def _exclusive(self) -> list[frozenset[int]]:
        """Sets of ids of classes that contradict each other."""
        return [frozenset(c.id for c in self.categories if c.name in names) for names in self.config.exclusive]

    def _excluded(self) -> dict[int, frozenset[int]]:
        return {i: several - {i} for several in self._exclusive() for i in several}

    def load(self) -> Detector:
        """The model and its processor; a process loads them once."""
        files = DetectorFiles(self.config)
        device = devices.torch_device(self.config.device)
        dtype = devices.torch_dtype(self.config.torch_dtype, device)
        return devices.resident(("detector", files.path(), device, dtype), lambda: load(files, device, dtype))


def _batches(seen: Sequence[tuple[int, View]], batch_size: int) -> Iterator[list[tuple[int, View]]]:
    """Batches of at most `batch_size` views of one size: Grounding DINO pads smaller images of a batch, and padding
    changes the results a little."""
    sizes: dict[tuple[int, int], list[tuple[int, View]]] = {}
    for i, view in seen:
        sizes.setdefault(view.shape, []).append((i, view))
    for same in sizes.values():
        yield from (same[start : start + batch_size] for start in range(0, len(same), batch_size))
