"""Boxes by open-vocabulary detection: OWLv2 (arXiv 2306.09683) or Grounding DINO (arXiv 2303.05499).

An image is asked for the classes that its job asked for, and no others. A class is asked for by its name and by each
synonym; every such query is a class id from the start, and no text that a model decodes is ever read as a label.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from synthgen import devices, masks, models
from synthgen.backends import Grounder, ModelConfig, Request
from synthgen.base.wording import plain, shown
from synthgen.errors import BackendError, Problem, listed, nearest
from synthgen.models import weights
from synthgen.models.loading import loading
from synthgen.models.tokens import counter
from synthgen.types import Category, Grounding, Job

# Parts of a model that run in `torch_dtype`, by `model_type`. They are nearly all of the work. Their results and the
# heads that make boxes of them stay float32: the 8 bits of a bfloat16 are 4 px of 1024.
IN_HALF_PRECISION = {
    "owlv2": ("owlv2.vision_model.encoder", "owlv2.text_model.encoder"),
    "grounding-dino": ("model.backbone.conv_encoder", "model.text_backbone"),
}


TOLD = 20  # of the queries that are too long


class Config(ModelConfig):
    """Options of the open-vocabulary detector."""

    model: str = Field(
        "google/owlv2-base-patch16-ensemble",
        description="An OWLv2 or Grounding DINO model: a folder of `save_pretrained`, or a Hugging Face model id.",
    )
    prompt: str = Field(
        "a photo of a {}",
        pattern=r"^[^{}]*\{\}[^{}]*$",
        description="OWLv2 is asked this; {} is a class's name or synonym. Grounding DINO is asked the bare words.",
    )
    score_threshold: float = Field(0.2, ge=0, le=1, description="A box needs a `grounding_score` above this.")
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


@dataclass(frozen=True, slots=True)
class Query:
    """One thing that an image is asked for."""

    category_id: int
    word: str


class Backend(Grounder[Config]):
    """Score: `grounding_score`, the model's probability for the best query of the box's class."""

    def check(self, request: Request) -> Iterable[Problem]:
        names = [category.name for category in self.categories]
        for name in self.config.class_thresholds:
            if name not in names:
                message = f"no class is called {shown(name)}{nearest(name, names)}; takes: {listed(names)}"
                yield Problem(".class_thresholds", plain(message, 500))
        try:
            _inspect_detector(self._path())
        except (models.ModelMissing, BackendError) as error:
            yield Problem(".model", str(error))
            return
        yield from self._check_queries()

    def _check_queries(self) -> Iterable[Problem]:
        """Names and synonyms with more tokens than OWLv2 takes."""
        path = self._path()
        reader = counter(path, path)
        if _model_type(path) != "owlv2" or reader is None or reader.limit is None:
            return
        words = [word for c in self.categories for word in (c.name, *c.synonyms)]
        tokens = reader.counts([self.config.prompt.replace("{}", word) for word in words])
        long = [(word, n) for word, n in zip(words, tokens, strict=True) if n > reader.limit]
        for word, n in long[:TOLD]:
            message = (
                f"the query for {shown(word)} has {n} tokens, and OWLv2 takes {reader.limit}; shorten it, or `prompt`"
            )
            yield Problem(".prompt", plain(message, 500))
        if more := long[TOLD:]:
            yield Problem(".prompt", f"the queries for {len(more):,} more have too many tokens")

    def identity(self) -> str:
        return models.model_identity(self._path())

    def licences(self) -> Iterable[tuple[str, str]]:
        card = models.read_card(self._path())
        if card.licence:
            yield card.licence.name, card.licence.url
        elif self.config.model in models.KNOWN:  # both families: "license: apache-2.0" in their model cards
            yield "Apache-2.0", f"https://huggingface.co/{self.config.model}"

    def ground(self, jobs: Sequence[Job], images: Sequence[NDArray[np.uint8]]) -> list[Grounding]:
        """Images uint8 (H, W, 3), RGB -> boxes of the classes asked for, xyxy px inside the image, best first.

        Raises:
            BackendError: the model cannot be loaded, or a job asks for more words than the model takes.
        """
        asked = [queries(job, self.categories) for job in jobs]
        found = [_grounding([], [], []) for _ in jobs]
        for batch in _batches(images, asked, self.config.batch_size):
            model, processor = self._model()
            ask = _ask_owlv2 if model.config.model_type == "owlv2" else _ask_grounding_dino
            texts = [[self._text(model, query) for query in asked[i]] for i in batch]
            answers = ask(model, processor, [images[i] for i in batch], texts)
            for i, (boxes, logits) in zip(batch, answers, strict=True):
                found[i] = self._choose(boxes, logits, asked[i], images[i].shape[:2])
        return found

    def _text(self, model: Any, query: Query) -> str:
        if model.config.model_type == "owlv2":
            return self.config.prompt.replace("{}", query.word)
        # Full stops and question marks part one query from the next: SPECIAL_TOKENS in modeling_grounding_dino.py.
        return " ".join(query.word.lower().replace(".", " ").replace("?", " ").split())

    def _choose(
        self, boxes: NDArray[np.float32], logits: NDArray[np.float32], asked: Sequence[Query], size: tuple[int, int]
    ) -> Grounding:
        """Boxes (P, 4) px with the logit of every query (P, Q) -> those worth keeping, each of its best class."""
        height, width = size
        query_ids = np.array([query.category_id for query in asked], np.int64)
        # Classes and boxes are compared by logits: several probabilities can round to 1.
        category_id, logit = query_ids[logits.argmax(1)], logits.max(1)
        score = np.exp(-np.logaddexp(0, -logit.astype(np.float64))).astype(np.float32)  # sigmoid, without overflow
        own = {c.id: self.config.class_thresholds.get(c.name, self.config.score_threshold) for c in self.categories}
        threshold = np.array([own[i] for i in category_id.tolist()], np.float32)
        boxes = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
        inside = (boxes[:, 2:] - boxes[:, :2] >= 1).all(1)  # at least a pixel, and not wholly in OWLv2's padding
        kept = ((score > threshold) & inside).nonzero()[0]
        for across, iou in ((False, self.config.nms_iou), (True, self.config.cross_class_nms_iou)):
            kept = kept[suppress(boxes[kept], logit[kept], category_id[kept], iou, across=across)]
        kept = kept[: self.config.max_boxes]
        return _grounding(boxes[kept], category_id[kept], score[kept])

    def _path(self) -> Path:
        return models.find_model(self.config.model, "detector", self.config.revision)

    def _model(self) -> tuple[Any, Any]:
        path = self._path()
        device = devices.torch_device(self.config.device)
        dtype = devices.torch_dtype(self.config.torch_dtype, device)
        return devices.resident(("detector", path, device, dtype), lambda: _load(path, device, dtype))


def queries(job: Job, categories: Sequence[Category]) -> list[Query]:
    """What a job's image is asked for: the names and synonyms of its classes, each once, in order of the classes."""
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

    A box goes if it overlaps by more than `iou` with a better one that stays: one of its own class or, `across`,
    one of another class.
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
    """Positions of the images that are asked anything, at most `batch_size` of one size at a time: Grounding DINO pads
    smaller images of a batch, and padding is not quite without effect."""
    sizes: dict[tuple[int, ...], list[int]] = {}
    for i, image in enumerate(images):
        if asked[i]:
            sizes.setdefault(image.shape, []).append(i)
    for same in sizes.values():
        yield from (same[start : start + batch_size] for start in range(0, len(same), batch_size))


def _model_type(path: Path) -> str:
    """`model_type` of a model's folder.

    Raises:
        BackendError: it is none that this grounder knows, or its settings lie elsewhere.
    """
    takes = f"takes a folder of: {', '.join(IN_HALF_PRECISION)}"
    weights.inspect_file(path / "config.json", path)
    try:
        model_type = str(models.read_json(path / "config.json")["model_type"])
    except (OSError, ValueError, KeyError) as error:
        raise BackendError(f"{path} has no config.json with a `model_type`; {takes}") from error
    if model_type not in IN_HALF_PRECISION:
        raise BackendError(f"{path} is of model_type {shown(model_type)}; {takes}")
    return model_type


def _inspect_detector(path: Path) -> tuple[str, weights.Held]:
    """`model_type` of a model's folder, and what its weights hold. Raises: BackendError: it must not be loaded."""
    model_type = _model_type(path)
    found = weights.inspect_model(path)
    if found.missing:
        raise BackendError(plain(f"{path} is not whole; missing: {listed(found.missing)}", 500))
    return model_type, found.held


def _load(path: Path, device: Any, dtype: Any) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

    model_type, held = _inspect_detector(path)
    parts = IN_HALF_PRECISION[model_type]
    with loading(path, held):
        processor = AutoProcessor.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        model = AutoModelForZeroShotObjectDetection.from_pretrained(
            path, local_files_only=True, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
        )
    if dtype != torch.float32:
        for name in parts:
            _run_in(model.get_submodule(name), device.type, dtype)
    return model.to(device).eval(), processor


def _run_in(part: Any, device_type: str, dtype: Any) -> None:
    """Lets a module compute in `dtype`, and answer in float32 what follows it."""
    import torch

    def float32(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.float() if value.is_floating_point() else value
        if isinstance(value, dict):  # transformers' ModelOutput
            return type(value)(**{key: float32(item) for key, item in value.items()})
        return type(value)(map(float32, value)) if isinstance(value, list | tuple) else value

    forward = torch.autocast(device_type, dtype=dtype)(part.forward)
    part.forward = lambda *args, **kwargs: float32(forward(*args, **kwargs))


Answer = tuple[NDArray[np.float32], NDArray[np.float32]]  # boxes (P, 4), xyxy px; logit of every query (P, Q)


def _ask_owlv2(model: Any, processor: Any, images: Sequence[NDArray[np.uint8]], texts: list[list[str]]) -> list[Answer]:
    most = model.config.text_config.max_position_embeddings
    for text in {text for several in texts for text in several}:
        if len(processor.tokenizer(text).input_ids) > most:
            raise BackendError(f"the query {text!r} has more than the {most} tokens that OWLv2 takes; shorten it")
    # An image with fewer queries than another is padded with " "; the answers to those are cut off below.
    frame = {"input_data_format": "channels_last", "return_tensors": "pt"}
    inputs = processor(images=list(images), text=texts, max_length=most, **frame)
    boxes, logits = _run(model, inputs)
    # The image was padded to a square at its right and bottom before it was resized.
    return [
        (box * np.float32(max(image.shape[:2])), logit[:, : len(several)])
        for image, several, box, logit in zip(images, texts, boxes, logits, strict=True)
    ]


def _ask_grounding_dino(
    model: Any, processor: Any, images: Sequence[NDArray[np.uint8]], texts: list[list[str]]
) -> list[Answer]:
    captions = [". ".join(several) + "." for several in texts]
    most = model.config.max_text_len
    spans = [_token_spans(processor.tokenizer, *pair) for pair in zip(captions, texts, strict=True)]
    for caption, several in zip(captions, spans, strict=True):
        if not all(several):
            raise BackendError(f"the query {caption[:60]!r} has an empty part; name each class and synonym by a word")
        if several[-1][-1] + 2 >= most:  # the final full stop and [SEP]
            raise BackendError(f"the query {caption[:60]!r}… is longer than the {most} tokens that the model takes")
    frame = {"input_data_format": "channels_last", "return_tensors": "pt"}
    inputs = processor(images=list(images), text=captions, padding=True, **frame)
    boxes, logits = _run(model, inputs)
    answers = []
    for image, several, box, logit in zip(images, spans, boxes, logits, strict=True):
        height, width = image.shape[:2]
        per_query = np.stack([logit[:, tokens].max(1) for tokens in several], 1)
        answers.append((box * np.array([width, height, width, height], np.float32), per_query))
    return answers


def _token_spans(tokenizer: Any, caption: str, texts: Sequence[str]) -> list[list[int]]:
    """Positions of each text's tokens in the tokenised caption, which is the texts joined by ". "."""
    offsets = tokenizer(caption, return_offsets_mapping=True).offset_mapping
    spans, start = [], 0
    for text in texts:
        end = start + len(text)
        spans.append([i for i, (first, last) in enumerate(offsets) if start <= first < last <= end])
        start = end + len(". ")
    return spans


def _run(model: Any, inputs: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """-> boxes (B, P, 4), xyxy in units of the model's frame, and logits (B, P, queries or tokens)."""
    import torch

    with torch.inference_mode():
        output = model(**inputs.to(model.device))
        centre, size = output.pred_boxes.float().split(2, dim=-1)
        boxes = torch.cat((centre - size / 2, centre + size / 2), -1)
    return boxes.cpu().numpy(), output.logits.float().cpu().numpy()
