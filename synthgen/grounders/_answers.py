"""What open-vocabulary detectors answer to texts: boxes, with the logit of every text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synthgen.errors import BackendError
from synthgen.grounders._detectors import Detector

Images = Sequence[NDArray[np.uint8]]
Answer = tuple[NDArray[np.float32], NDArray[np.float32]]  # boxes (P, 4), xyxy px; logit of every text (P, Q)

FRAME = {"input_data_format": "channels_last", "return_tensors": "pt"}


def answers(detector: Detector, images: Images, texts: list[list[str]]) -> list[Answer]:
    """What a detector says of images uint8 (H, W, 3) and the texts of each. A family says by `asks` how it is asked.

    Raises:
        BackendError: a text is empty, or has more tokens than the model takes.
    """
    ask = {"queries": _ask_queries, "caption": _ask_caption, "concepts": _ask_concepts}[detector.family.asks]
    found = ask(detector, images, texts)
    return [(_in_px(detector, boxes, image), logits) for image, (boxes, logits) in zip(images, found, strict=True)]


def _in_px(detector: Detector, boxes: NDArray[np.float32], image: NDArray[np.uint8]) -> NDArray[np.float32]:
    height, width = image.shape[:2]
    if detector.family.in_a_square:
        return boxes * np.float32(max(height, width))
    return boxes * np.array([width, height, width, height], np.float32)


def _ask_queries(detector: Detector, images: Images, texts: list[list[str]]) -> list[Answer]:
    most = detector.most_tokens
    _require_short(detector, texts)
    # An image with fewer queries than another is padded with " "; the answers to those are cut off below.
    inputs = detector.processor(images=list(images), text=texts, max_length=most, **FRAME)
    boxes, logits = _run(detector.model, inputs)
    return [(box, logit[:, : len(several)]) for several, box, logit in zip(texts, boxes, logits, strict=True)]


def _ask_caption(detector: Detector, images: Images, texts: list[list[str]]) -> list[Answer]:
    captions = [". ".join(several) + "." for several in texts]
    most = detector.most_tokens
    spans = [token_spans(detector.processor.tokenizer, *pair) for pair in zip(captions, texts, strict=True)]
    for caption, several in zip(captions, spans, strict=True):
        if not all(several):
            raise BackendError(f"the query {caption[:60]!r} has an empty part; name each class and synonym by a word")
        if several[-1][-1] + 2 >= most:  # the final full stop and [SEP]
            raise BackendError(f"the query {caption[:60]!r}… is longer than the {most} tokens that the model takes")
    inputs = detector.processor(images=list(images), text=captions, padding=True, **FRAME)
    boxes, logits = _run(detector.model, inputs)
    return [
        (box, np.stack([logit[:, tokens].max(1) for tokens in several], 1))
        for several, box, logit in zip(spans, boxes, logits, strict=True)
    ]


def token_spans(tokenizer: Any, caption: str, texts: Sequence[str]) -> list[list[int]]:
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


def _ask_concepts(detector: Detector, images: Images, texts: list[list[str]]) -> list[Answer]:
    """The images are encoded once, and each text is a call for the images that ask for it. The boxes found for one text
    have no logit for another: minus infinity."""
    import torch

    _require_short(detector, texts)
    model, processor = detector.model, detector.processor
    found: list[dict[str, Answer]] = [{} for _ in images]
    with torch.inference_mode():
        pixels = processor.image_processor(list(images), **FRAME).pixel_values
        seen = model.get_vision_features(pixel_values=pixels.to(model.device))
        for text in dict.fromkeys(text for several in texts for text in several):
            rows = [i for i, several in enumerate(texts) if text in several]
            words = processor(text=[text] * len(rows), return_tensors="pt").to(model.device)
            output = model(vision_embeds=seen if len(rows) == len(images) else _rows(seen, rows), **words)
            boxes = output.pred_boxes.float().cpu().numpy()
            logits = joint_logit(
                output.pred_logits.double().cpu().numpy(), output.presence_logits.double().cpu().numpy()
            )
            for i, box, logit in zip(rows, boxes, logits, strict=True):
                found[i][text] = box, logit
    return [_joined([by_text[text] for text in several]) for by_text, several in zip(found, texts, strict=True)]


def _rows(seen: Any, rows: list[int]) -> Any:
    """The encoded images at these positions of a batch."""
    parts = {name: getattr(seen, name) for name in ("fpn_hidden_states", "fpn_position_encoding")}
    return type(seen)(**{name: tuple(level[rows] for level in levels) for name, levels in parts.items()})


def joint_logit(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float32]:
    """The logit of the product of two probabilities, given by their logits.

    With p = 1 / (1 + e^-a) and q = 1 / (1 + e^-b), the odds of pq against 1 - pq are 1 : e^-a + e^-b + e^-(a + b).
    """
    joint: NDArray[np.float32] = (-np.logaddexp(np.logaddexp(-a, -b), -(a + b))).astype(np.float32)
    return joint


def _joined(found: Sequence[Answer]) -> Answer:
    """Boxes (P, 4) and logits (P,) of each text -> those of all texts."""
    boxes = np.concatenate([boxes for boxes, _ in found])
    logits = np.full((len(boxes), len(found)), -np.inf, np.float32)
    start = 0
    for column, (_, logit) in enumerate(found):
        logits[start : start + len(logit), column] = logit
        start += len(logit)
    return boxes, logits


def _require_short(detector: Detector, texts: list[list[str]]) -> None:
    """Raises: BackendError: a text has more tokens than the model takes."""
    most = detector.most_tokens
    for text in {text for several in texts for text in several}:
        if len(detector.processor.tokenizer(text).input_ids) > most:
            name = detector.family.name
            raise BackendError(f"the query {text!r} has more than the {most} tokens that {name} takes; shorten it")
