"""The families of open-vocabulary detectors, their files, and how they are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from synthgen import devices, models
from synthgen.backends import ModelConfig
from synthgen.models import read_json
from synthgen.models.inspection import inspect_model
from synthgen.models.loading import loading
from synthgen.models.named import ModelFiles
from synthgen.models.weights import Held

DEFAULT_THRESHOLD = 0.2


@dataclass(frozen=True, slots=True)
class Family:
    """A family of detectors.

    Attributes:
        name: for people.
        asks: queries: the model takes each text by itself, in the words of the option `prompt`; caption: it takes all
            texts of an image as one; concepts: it takes one text a call.
        half: parts of a model that run in `torch_dtype`. They do nearly all of the work. Their results, and the heads
            that compute boxes from them, stay float32: the 8 bits of a bfloat16 round coordinates to 4 px of 1024.
        most_tokens: of a query, a caption or a concept, with its two ends.
        limit: the keys of the setting that says `most_tokens` of a model.
        in_a_square: boxes are shares of the longer side of the image, which is padded to a square at its right and
            bottom; otherwise they are shares of its width and height.
        threshold: the least score of a box where the spec says none.
        model, processor: classes of transformers.
        publishers: what the Hugging Face ids of the models start with that have `licence`, by their model cards.
    """

    name: str
    asks: Literal["queries", "caption", "concepts"]
    half: tuple[str, ...]
    most_tokens: int
    limit: tuple[str, ...] = ()
    in_a_square: bool = False
    threshold: float = DEFAULT_THRESHOLD
    model: str = "AutoModelForZeroShotObjectDetection"
    processor: str = "AutoProcessor"
    publishers: tuple[str, ...] = ()
    licence: str = "Apache-2.0"

    def most_tokens_of(self, settings: Mapping[str, Any]) -> int:
        """The most tokens that a model with these settings takes."""
        value: Any = settings
        for key in self.limit:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value if self.limit and isinstance(value, int) else self.most_tokens


_POSITIONS = ("text_config", "max_position_embeddings")
_DINO = ("model.backbone.conv_encoder", "model.text_backbone")
_SAM3 = Family(
    "SAM 3",
    "concepts",
    ("vision_encoder.backbone", "text_encoder"),
    32,  # Sam3Processor pads every text to as many
    threshold=0.3,  # that of `Sam3Processor.post_process_object_detection`
    model="Sam3Model",
    processor="Sam3Processor",
    publishers=("facebook/sam3",),
    licence="SAM License",
)
# `model_type` in a model's settings -> its family. The numbers are the defaults of the classes of their settings.
FAMILIES = {
    # arXiv 2306.09683
    "owlv2": Family(
        "OWLv2", "queries", ("owlv2.vision_model.encoder", "owlv2.text_model.encoder"), 16, _POSITIONS,
        in_a_square=True, publishers=("google/owlv2-",),
    ),
    # arXiv 2205.06230. Its scores are lower than OWLv2's; the threshold is that of transformers' `OwlViTProcessor`.
    "owlvit": Family(
        "OWL-ViT", "queries", ("owlvit.vision_model.encoder", "owlvit.text_model.encoder"), 16, _POSITIONS,
        threshold=0.1, publishers=("google/owlvit-",),
    ),
    # arXiv 2303.05499
    "grounding-dino": Family(
        "Grounding DINO", "caption", _DINO, 256, ("max_text_len",), publishers=("IDEA-Research/grounding-dino-",)
    ),
    # arXiv 2401.02361; LLMDet (arXiv 2501.18954) has its architecture, and is a model of the same type.
    "mm-grounding-dino": Family(
        "MM-Grounding-DINO", "caption", _DINO, 256, ("max_text_len",),
        publishers=("openmmlab-community/mm_grounding_dino_", "iSEE-Laboratory/llmdet_"),
    ),
    # arXiv 2511.16719. facebook/sam3 is of type `sam3_video`: it holds a tracker besides, which is not loaded.
    "sam3": _SAM3,
    "sam3_video": _SAM3,
    "sam3_lite_text": replace(_SAM3, name="SAM 3 LiteText", model="Sam3LiteTextModel", publishers=()),
}  # fmt: skip


class DetectorFiles(ModelFiles):
    """The detector that a spec names: a folder of `save_pretrained`."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config

    def path(self) -> Path:
        return models.find_model(self.config.model, "detector", self.config.revision)

    def inspect(self) -> tuple[str, Held]:
        """Its `model_type`, and the sizes of its weights."""
        return inspect_model(self.path(), FAMILIES, f"takes a folder of: {', '.join(FAMILIES)}")

    def family(self) -> Family | None:
        """By its settings alone; None if they name none. Raises: ModelMissing: the model is not on this machine."""
        try:
            return FAMILIES.get(str(read_json(self.path() / "config.json").get("model_type")))
        except (OSError, ValueError):
            return None

    def known_licence(self) -> tuple[str, str] | None:
        family, model = self.family(), self.config.model
        if family is None or not model.startswith(family.publishers):
            return None
        return family.licence, f"https://huggingface.co/{model}"


@dataclass(frozen=True, slots=True)
class Detector:
    """A loaded detector with its processor."""

    family: Family
    model: Any
    processor: Any

    @property
    def most_tokens(self) -> int:
        return self.family.most_tokens_of(self.model.config.to_dict())


def load(files: DetectorFiles, device: Any, dtype: Any) -> Detector:
    """
    Raises:
        BackendError, ModelMissing: see `DetectorFiles.inspect`.
    """
    import torch
    import transformers

    path, (model_type, held) = files.path(), files.inspect()
    family = FAMILIES[model_type]
    with loading(path, held):
        processor = getattr(transformers, family.processor).from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
        model = getattr(transformers, family.model).from_pretrained(
            path, local_files_only=True, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
        )
    if dtype != torch.float32:
        for name in family.half:
            _run_in(model.get_submodule(name), device.type, dtype)
    return Detector(family, model.to(device).eval(), processor)


def _run_in(part: Any, device_type: str, dtype: Any) -> None:
    """Makes a module compute in `dtype` and return float32."""
    import torch

    forward = torch.autocast(device_type, dtype=dtype)(part.forward)
    part.forward = lambda *args, **kwargs: devices.float32(forward(*args, **kwargs))
