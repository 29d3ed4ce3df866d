"""Boxes by open-vocabulary detection: OWLv2, OWL-ViT, Grounding DINO, MM-Grounding-DINO, LLMDet or SAM 3.

The detector looks only for the classes that the image's job requests. The queries of a class are its name and each
synonym. Every query has a class id from the start; text that a model decodes never becomes a label.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from synthgen import devices, masks
from synthgen.backends import Grounder, Model, ModelConfig, Request
from synthgen.base.pattern import ONE_GAP
from synthgen.base.wording import plain, shown
from synthgen.errors import Problem, listed, nearest
from synthgen.grounders._answers import answers
from synthgen.grounders._detectors import DEFAULT_THRESHOLD, FAMILIES, Detector, DetectorFiles, Family, load
from synthgen.models import read_json
from synthgen.models.tokens import Counter, counter
from synthgen.types import Category, Grounding, Job

MAX_REPORTED = 20  # queries that one check reports as too long


class Config(ModelConfig):
    """Options of the open-vocabulary detector."""

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

    def fingerprint(self) -> dict[str, Any]:
        # Run folders that are older than the thresholds of families have this number where the spec says none. The
        # identity of the weights names another one.
        threshold = DEFAULT_THRESHOLD if self.score_threshold is None else self.score_threshold
        return {**super().fingerprint(), "score_threshold": threshold}


@dataclass(frozen=True, slots=True)
class Query:
    """A text that the detector looks for, with its class."""

    category_id: int
    word: str


class Backend(Grounder[Config]):
    """Score: `grounding_score`, the model's probability for the best query of the box's class."""

    def models(self) -> Sequence[Model]:
        return [DetectorFiles(self.config)]

    def check(self, request: Request) -> Iterable[Problem]:
        names = [category.name for category in self.categories]
        for name in self.config.class_thresholds:
            if name not in names:
                message = f"no class is called {shown(name)}{nearest(name, names)}; takes: {listed(names)}"
                yield Problem(".class_thresholds", plain(message, 500))
        files = DetectorFiles(self.config)
        if problems := list(files.problems()):
            yield from problems
        else:
            path, family = files.path(), FAMILIES[files.inspect()[0]]
            reader = counter(path, path)
            if reader is not None:
                most = family.most_tokens_of(read_json(path / "config.json"))
                check = self._caption_problems if family.asks == "caption" else self._query_problems
                yield from check(family, reader, most, request)

    def _query_problems(self, family: Family, reader: Counter, most: int, request: Request) -> Iterable[Problem]:
        """Names and synonyms with more tokens than the model takes."""
        words = [word for c in self.categories for word in (c.name, *c.synonyms)]
        tokens = reader.counts([self._text(family, word) for word in words])
        long = [(word, n) for word, n in zip(words, tokens, strict=True) if n > most]
        or_prompt = ", or `prompt`" if family.asks == "queries" else ""
        for word, n in long[:MAX_REPORTED]:
            message = (
                f"the query for {shown(word)} has {n} tokens, and {family.name} takes {most}; shorten it{or_prompt}"
            )
            yield Problem(".prompt" if or_prompt else "classes", plain(message, 500))
        if more := long[MAX_REPORTED:]:
            yield Problem(".prompt", f"the queries for {len(more):,} more have too many tokens")

    def _caption_problems(self, family: Family, reader: Counter, most: int, request: Request) -> Iterable[Problem]:
        """Names without a word, and too many words for one image: the model takes all texts of an image as one."""
        lengths: list[int] = []
        for category in self.categories:
            texts = [self._text(family, word) for word in (category.name, *category.synonyms)]
            for text, word in zip(texts, (category.name, *category.synonyms), strict=True):
                if not text:
                    yield Problem("classes", f"got {shown(word)}; {family.name} takes a name with a letter or a digit")
            lengths.append(sum(n - 1 for n in reader.counts(texts)))  # without its two ends, and with its full stop
        longest = sorted(lengths)[-request.max_objects :] if request.max_objects else []
        if (tokens := sum(longest) + 2) > most:
            message = (
                f"the names and synonyms of {len(longest)} classes, as an image may ask for, have {tokens} tokens, and "
                f"{family.name} takes {most}; ask for fewer objects an image, or shorten them"
            )
            yield Problem("classes", message)

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
        asked = [queries(job, self.categories) for job in jobs]
        groundings = [_grounding([], [], []) for _ in jobs]
        for batch in _batches(images, asked, self.config.batch_size):
            detector = self.load()
            texts = [[self._text(detector.family, query.word) for query in asked[i]] for i in batch]
            found = answers(detector, [images[i] for i in batch], texts)
            for i, (boxes, logits) in zip(batch, found, strict=True):
                size = images[i].shape[:2]
                groundings[i] = self.choose(boxes, logits, asked[i], size, detector.family.threshold)
        return groundings

    def _text(self, family: Family, word: str) -> str:
        """What the model is asked for a name or synonym."""
        if family.asks == "queries":
            return self.config.prompt.replace("{}", word)
        if family.asks == "concepts":
            return word
        # Full stops and question marks separate queries: SPECIAL_TOKENS in modeling_grounding_dino.py.
        return " ".join(word.lower().replace(".", " ").replace("?", " ").split())

    def choose(
        self,
        boxes: NDArray[np.float32],
        logits: NDArray[np.float32],
        asked: Sequence[Query],
        size: tuple[int, int],
        threshold: float = DEFAULT_THRESHOLD,
    ) -> Grounding:
        """Boxes (P, 4) px with the logit of every query (P, Q) -> the boxes that are kept, each with its best class.

        Args:
            threshold: the least score where the spec says none.
        """
        height, width = size
        query_ids = np.array([query.category_id for query in asked], np.int64)
        # Classes and boxes are compared by logits, since several probabilities can round to 1.
        category_id, logit = query_ids[logits.argmax(1)], logits.max(1)
        score = np.exp(-np.logaddexp(0, -logit.astype(np.float64))).astype(np.float32)  # sigmoid, without overflow
        if self.config.score_threshold is not None:
            threshold = self.config.score_threshold
        of_class = {c.id: self.config.class_thresholds.get(c.name, threshold) for c in self.categories}
        least = np.array([of_class[i] for i in category_id.tolist()], np.float32)
        boxes = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
        inside = (boxes[:, 2:] - boxes[:, :2] >= 1).all(1)  # at least a pixel, and not wholly in OWLv2's padding
        kept = ((score > least) & inside).nonzero()[0]
        for across, iou in ((False, self.config.nms_iou), (True, self.config.cross_class_nms_iou)):
            kept = kept[suppress(boxes[kept], logit[kept], category_id[kept], iou, across=across)]
        kept = kept[: self.config.max_boxes]
        return _grounding(boxes[kept], category_id[kept], score[kept])

    def load(self) -> Detector:
        """The model and its processor; a process loads them once."""
        files = DetectorFiles(self.config)
        device = devices.torch_device(self.config.device)
        dtype = devices.torch_dtype(self.config.torch_dtype, device)
        return devices.resident(("detector", files.path(), device, dtype), lambda: load(files, device, dtype))


def queries(job: Job, categories: Sequence[Category]) -> list[Query]:
    """The queries of a job's image: the names and synonyms of its classes, each once, in the order of the classes."""
    chosen = [category for category in categories if category.id in job.asked]
    return [Query(c.id, word) for c in chosen for word in dict.fromkeys((c.name, *c.synonyms))]


def suppress(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    category_id: NDArray[np.int64],
    iou: float,
    *,
    across: bool,
) -> NDArray[np.int64]:
    """Greedy non-maximum suppression of boxes (N, 4), xyxy -> positions that stay, best first; ties in order.

    A box is dropped if it overlaps by more than `iou` with a better box that stays. `across`: only boxes of different
    classes are compared; otherwise only boxes of one class.
    """
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable").tolist():
        rivals = [k for k in kept if (category_id[k] != category_id[i]) == across]
        if not rivals or masks.box_iou(boxes[i : i + 1], boxes[rivals]).max() <= iou:
            kept.append(i)
    return np.array(kept, np.int64)


def _grounding(boxes: Any, category_id: Any, scores: Any) -> Grounding:
    return Grounding(
        np.asarray(boxes, np.float32).reshape(-1, 4),
        np.asarray(category_id, np.int64),
        {"grounding_score": np.asarray(scores, np.float32)},
    )


def _batches(
    images: Sequence[NDArray[np.uint8]], asked: Sequence[Sequence[Query]], batch_size: int
) -> Iterator[list[int]]:
    """Positions of the images that have queries, in batches of at most `batch_size` images of one size: Grounding DINO
    pads smaller images of a batch, and padding changes the results a little."""
    sizes: dict[tuple[int, ...], list[int]] = {}
    for i, image in enumerate(images):
        if asked[i]:
            sizes.setdefault(image.shape, []).append(i)
    for same in sizes.values():
        yield from (same[start : start + batch_size] for start in range(0, len(same), batch_size))
