"""Loads and runs OWLv2 (arXiv 2306.09683) and Grounding DINO (arXiv 2303.05499)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synthgen import models
from synthgen.backends import ModelConfig
from synthgen.errors import BackendError
from synthgen.models.inspection import inspect_model
from synthgen.models.loading import loading
from synthgen.models.named import ModelFiles
from synthgen.models.weights import Held

# Parts of a model that run in `torch_dtype`, by `model_type`. They do nearly all of the work. Their results, and the
# heads that compute boxes from them, stay float32: the 8 bits of a bfloat16 round coordinates to 4 px of 1024.
IN_HALF_PRECISION = {
    "owlv2": ("owlv2.vision_model.encoder", "owlv2.text_model.encoder"),
    "grounding-dino": ("model.backbone.conv_encoder", "model.text_backbone"),
}


class DetectorFiles(ModelFiles):
    """The detector that a spec names: a folder of `save_pretrained`."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config

    def path(self) -> Path:
        return models.find_model(self.config.model, "detector", self.config.revision)

    def inspect(self) -> tuple[str, Held]:
        """Its `model_type`, and the sizes of its weights."""
        return inspect_model(self.path(), IN_HALF_PRECISION, f"takes a folder of: {', '.join(IN_HALF_PRECISION)}")

    def known_licence(self) -> tuple[str, str] | None:
        # The model cards of both families say "license: apache-2.0".
        is_known = self.config.model in models.KNOWN
        return ("Apache-2.0", f"https://huggingface.co/{self.config.model}") if is_known else None


def load(files: DetectorFiles, device: Any, dtype: Any) -> tuple[Any, Any]:
    """-> the model and its processor.

    Raises:
        BackendError, ModelMissing: see `DetectorFiles.inspect`.
    """
    import torch
    from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

    path, (model_type, held) = files.path(), files.inspect()
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
    """Makes a module compute in `dtype` and return float32."""
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


def ask_owlv2(model: Any, processor: Any, images: Sequence[NDArray[np.uint8]], texts: list[list[str]]) -> list[Answer]:
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


def ask_grounding_dino(
    model: Any, processor: Any, images: Sequence[NDArray[np.uint8]], texts: list[list[str]]
) -> list[Answer]:
    captions = [". ".join(several) + "." for several in texts]
    most = model.config.max_text_len
    spans = [token_spans(processor.tokenizer, *pair) for pair in zip(captions, texts, strict=True)]
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
