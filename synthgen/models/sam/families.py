"""Segment Anything by transformers' classes for mask generation: a folder of `save_pretrained`, or a Hugging Face id.
`check` imports this, so torch and transformers are imported where a model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synthgen import devices, models
from synthgen.errors import BackendError, listed
from synthgen.models.inspection import inspect_model
from synthgen.models.loading import loading, require_all_weights
from synthgen.models.sam.network import Answer, Embedded, Network
from synthgen.models.weights import Held

INSTALL = "pip install 'synthgen[edgetam]'"
LOGITS_A_FEATURE = 4  # the decoders' logits have four times the side of their features: two convolutions of stride 2


@dataclass(frozen=True, slots=True)
class Family:
    """Classes of transformers for one `model_type`.

    Attributes:
        model: the class.
        processor: the class that prepares pictures and scales masks to them.
        part: the key of the model's own settings, in a folder with the settings of several models.
        package: what its image encoder needs besides transformers.
    """

    model: str
    processor: str
    part: str = ""
    package: str = ""


# A checkpoint for videos holds all weights of the model for pictures: facebook/sam2.1-hiera-large is a `sam2_video`,
# facebook/sam3 a `sam3_video`, yonigozlan/EdgeTAM-hf an `edgetam_video`.
FAMILIES = {
    "sam": Family("SamModel", "SamProcessor"),
    "sam_hq": Family("SamHQModel", "SamHQProcessor"),
    "sam2": Family("Sam2Model", "Sam2Processor"),
    "sam2_video": Family("Sam2Model", "Sam2Processor"),
    "sam3_tracker": Family("Sam3TrackerModel", "Sam3TrackerProcessor"),
    "sam3_video": Family("Sam3TrackerModel", "Sam3TrackerProcessor", part="tracker_config"),
    "edgetam": Family("EdgeTamModel", "Sam2Processor", package="timm"),
    "edgetam_video": Family("EdgeTamModel", "Sam2Processor", package="timm"),
}


def is_family(path: Path) -> bool:
    """Whether a folder holds a model of transformers, of whatever type, and no card of an official SAM."""
    return path.is_dir() and (path / "config.json").exists() and models.read_card(path).sam is None


def inspect(path: Path) -> tuple[str, Held]:
    """The `model_type` in a folder of transformers, and the sizes of its weights.

    Raises:
        BackendError: it is no SAM, or it must not be loaded.
    """
    takes = f"as a SAM, a folder's model_type is one of: {listed(FAMILIES)}"
    model_type, held = inspect_model(path, FAMILIES, takes, tokenizer=False)
    if not any((path / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        raise BackendError(f"{path} has no preprocessor_config.json, which says how it takes pictures")
    package = FAMILIES[model_type].package
    if package and find_spec(package) is None:
        raise BackendError(f"{path} is of model_type {model_type!r}, and needs {package}: {INSTALL}")
    return model_type, held


def load(path: Path, device: Any, dtype: Any) -> Network:
    """The network of a folder, on a device, its image encoder in `dtype` (see `checkpoint.load`).

    Raises:
        BackendError: it cannot be loaded, or its weights are not whole.
    """
    import torch
    import transformers

    model_type, held = inspect(path)
    family = FAMILIES[model_type]
    with loading(path, held):
        kind = getattr(transformers, family.model)
        settings = models.read_json(path / "config.json")
        own = settings.get(family.part, settings)
        config = kind.config_class.from_dict({**own, "model_type": kind.config_class.model_type})
        model, found = kind.from_pretrained(
            path, config=config, local_files_only=True, use_safetensors=True, trust_remote_code=False,
            dtype=torch.float32, output_loading_info=True,
        )  # fmt: skip
        processor = getattr(transformers, family.processor).from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
        require_all_weights(path, model, found)
        encoder = model.vision_encoder.to(dtype)
        if dtype != torch.float32:
            _return_float32(encoder, dtype)
        return FamilyNetwork(model.to(device).eval(), processor)


def _return_float32(encoder: Any, dtype: Any) -> None:
    """Makes an image encoder take pictures in float32 and return float32."""
    forward = encoder.forward
    encoder.forward = lambda pixel_values, **options: devices.float32(forward(pixel_values.to(dtype), **options))


class FamilyNetwork(Network):
    """A model of one of the families, with its processor."""

    mask_threshold = 0.0  # the default of `post_process_masks`, in every processor

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor
        self.device = model.device
        # SAM and HQ-SAM keep the shape of a picture and pad it; the others stretch it to a square.
        self.is_padded = bool(processor.image_processor.do_pad)
        pixels = int(model.prompt_encoder.input_image_size)
        made = processor.image_processor.pad_size["height"] if self.is_padded else processor.target_size
        if made != pixels:
            message = f"the SAM takes pictures of {pixels} px a side, and its processor makes {made}"
            raise BackendError(f"{model.name_or_path}: {message}")
        self.pixels, grid = pixels, int(model.prompt_encoder.image_embedding_size[0])
        self.side = pixels if self.is_padded else LOGITS_A_FEATURE * grid

    def embed(self, images: Sequence[NDArray[np.uint8]]) -> list[Embedded]:
        import torch

        copies = [np.array(image) for image in images]  # torch warns of read-only arrays
        look = self.processor.image_processor
        inputs = look(images=copies, input_data_format="channels_last", return_tensors="pt")
        with torch.inference_mode():
            found = self.model.get_image_embeddings(inputs.pixel_values.to(self.device))
        if isinstance(found, torch.Tensor):
            found = (found,)
        elif isinstance(
            found, tuple
        ):  # HQ-SAM: features, and those of its blocks, of which its decoder takes the first
            found = (found[0], found[1][0])
        square = [self.side, self.side]
        sizes = inputs.reshaped_input_sizes.tolist() if self.is_padded else [square] * len(images)
        return [
            Embedded(tuple(part[i : i + 1] for part in found), (height, width), (image.shape[0], image.shape[1]))
            for i, (image, (height, width)) in enumerate(zip(images, sizes, strict=True))
        ]

    def in_frame(self, embedded: Embedded, points: NDArray[np.float32]) -> NDArray[np.float32]:
        height, width = embedded.input_size if self.is_padded else (self.pixels, self.pixels)
        scale = np.array([width / embedded.size[1], height / embedded.size[0]])
        return np.asarray(points * scale, np.float32)

    def ask(
        self,
        embedded: Sequence[Embedded],
        boxes: NDArray[np.float32] | None,
        points: NDArray[np.float32] | None,
        *,
        multimask: bool,
    ) -> Answer:
        import torch

        # Prompts of one image are a row of prompts: the decoder computes what they have in common once.
        one_image = all(e is embedded[0] for e in embedded)
        images, by_image = (embedded[:1], (1, len(embedded))) if one_image else (embedded, (len(embedded), 1))
        parts = [torch.cat(part) for part in zip(*(e.features for e in images), strict=True)]
        asked: dict[str, Any] = {}
        if boxes is not None:
            asked["input_boxes"] = torch.as_tensor(boxes, device=self.device).reshape(*by_image, 4)
        if points is not None:
            asked["input_points"] = torch.as_tensor(points, device=self.device).reshape(*by_image, 1, 2)
        with torch.inference_mode():
            answer = self.model(**self._features(parts), **asked, multimask_output=multimask)
        return Answer(answer.pred_masks.flatten(0, 1), answer.iou_scores.flatten(0, 1))

    def _features(self, parts: list[Any]) -> dict[str, Any]:
        """The features as the model's call takes them."""
        if len(parts) == 2:
            return {"image_embeddings": parts[0], "intermediate_embeddings": parts[1:]}
        return {"image_embeddings": parts if len(parts) > 1 else parts[0]}
