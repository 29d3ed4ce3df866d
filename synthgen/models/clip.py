"""CLIP (arXiv 2103.00020) and its kind, by transformers: they map pictures and texts to vectors of one space."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from synthgen import devices, models
from synthgen.backends import ModelConfig
from synthgen.base.wording import plain, shown
from synthgen.errors import Problem, nearest
from synthgen.models.clip_families import FAMILIES, Cosine
from synthgen.models.inspection import inspect_model
from synthgen.models.loading import loading, require_all_weights
from synthgen.models.named import ModelFiles
from synthgen.models.tokens import counter
from synthgen.models.weights import Held

AT_ONCE = 64  # pictures or texts in one call of the model, which bounds the memory
MAX_REPORTED = 20  # words that one check reports as unknown or too long
LEAST_PX = 2  # the least side of a crop
MARGIN = 0.1  # around a crop, as a share of its longer side: a little of its surroundings helps to name an object


class ClipConfig(ModelConfig):
    """Options of a backend that uses a CLIP. `model`: `mini`, a folder of transformers' CLIP, MetaCLIP 2, SigLIP or
    SigLIP 2 with its processor, or a Hugging Face id such as `openai/clip-vit-large-patch14`."""

    batch_size: int = Field(AT_ONCE, ge=1, le=1024, description="Pictures that go through the model at once.")


class ClipFiles(ModelFiles):
    """The CLIP that a spec names.

    Args:
        names: the names that the model will compare with pictures, each in place of the {} of `prompt`. The model
            ignores a word that is not in its card's vocabulary, and cuts the end of a text that is too long.
        field: the option that names the model.
        cosine: the option that the model's cosines are compared with.
    """

    def __init__(
        self,
        config: ClipConfig,
        names: Sequence[str] = (),
        prompt: str = "{}",
        *,
        field: str = ".model",
        cosine: Cosine | None = None,
    ) -> None:
        self.config, self.names, self.prompt, self.field, self.cosine = config, names, prompt, field, cosine

    def path(self) -> Path:
        return models.find_model(self.config.model, "clip", self.config.revision)

    def inspect(self) -> tuple[str, Held]:
        """Its `model_type`, and the sizes of its weights."""
        takes = f"takes a folder of transformers, with its processor, of: {', '.join(FAMILIES)}"
        inspected = inspect_model(self.path(), FAMILIES, takes)
        models.read_card(self.path())
        return inspected

    def problems(self) -> Iterable[Problem]:
        if problems := list(super().problems()):
            return problems
        return [*self._wrong_scale(), *self._long_texts(), *self._unknown_names()]

    def _wrong_scale(self) -> Iterable[Problem]:
        if self.cosine and (message := self.cosine.problem(self.inspect()[0], self.path())):
            yield Problem(f".{self.cosine.option}", f"{shown(self.config.model)}: {message}")

    def advice(self) -> Iterable[Problem]:
        if self.cosine is None or list(super().problems()):
            return super().advice()
        has_card = (self.path() / "synthgen.json").is_file()
        message = self.cosine.advice(self.inspect()[0], has_card)
        own = [Problem(f".{self.cosine.option}", f"{shown(self.config.model)}: {message}")] if message else []
        return [*super().advice(), *own]

    def _long_texts(self) -> Iterable[Problem]:
        reader = counter(self.path(), self.path())
        if reader is None or not reader.limit:
            return
        tokens = reader.counts([phrase(self.prompt, name) for name in self.names])
        cut = [(name, n) for name, n in zip(self.names, tokens, strict=True) if n > reader.limit]
        for name, n in cut[:MAX_REPORTED]:
            message = f"the text for {shown(name)} has {n} tokens, and {shown(self.config.model)} takes {reader.limit}"
            yield Problem(self.field, plain(f"{message}; shorten it", 500))
        if more := cut[MAX_REPORTED:]:
            yield Problem(self.field, f"the texts for {len(more):,} more have too many tokens")

    def _unknown_names(self) -> Iterable[Problem]:
        card, model = models.read_card(self.path()), shown(self.config.model)
        if card.vocabulary is None:
            return
        known = set(card.vocabulary)
        unknown = [name for name in self.names if not set(name.lower().split()) <= known]
        for name in unknown[:MAX_REPORTED]:
            hint = nearest(name, card.classes or ())
            mend = "name another model, such as openai/clip-vit-large-patch14, or leave the filter out"
            yield Problem(self.field, f"{model} does not know {shown(name)}{hint}; {mend}", subject=name)
        if more := unknown[MAX_REPORTED:]:
            yield Problem(self.field, f"{model} does not know {len(more):,} more")

    def known_licence(self) -> tuple[str, str] | None:
        if self.config.model.startswith("google/siglip"):  # their model cards say "license: apache-2.0"
            return "Apache-2.0", f"https://huggingface.co/{self.config.model}"
        # LICENSE of github.com/openai/CLIP
        is_openai = self.config.model.startswith("openai/clip-")
        return ("MIT", "https://github.com/openai/CLIP") if is_openai else None


class ClipModel:
    """A loaded CLIP. Vectors have length 1, so the product of two is their cosine."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor, self.family = model, processor, FAMILIES[model.config.model_type]
        # A dataset has few class names, and every image needs some of them.
        self.cached_texts = lru_cache(maxsize=512)(self.texts)

    @classmethod
    def of(cls, config: ClipConfig) -> ClipModel:
        """The model that a spec names; a process loads it once.

        Raises:
            BackendError: the folder holds no CLIP, or it cannot be loaded.
            ModelMissing: it is not on this machine.
        """
        files = ClipFiles(config)
        path = files.path()
        device = devices.torch_device(config.device)
        dtype = devices.torch_dtype(config.torch_dtype, device)
        return devices.resident(
            ("clip", path, device, dtype), lambda: cls(*_load(path, files.inspect(), device, dtype))
        )

    @property
    def width(self) -> int:
        """The length D of vectors."""
        return int(attrgetter(self.family.width)(self.model.config))

    def pictures(self, images: Sequence[NDArray[np.uint8]], at_once: int = AT_ONCE) -> NDArray[np.float32]:
        """Images uint8 (H, W, 3), RGB, of any sizes -> unit vectors, float32 (N, D)."""
        parts = [np.zeros((0, self.width), np.float32)]
        for start in range(0, len(images), at_once):
            part = [np.array(image) for image in images[start : start + at_once]]  # torch warns of read-only arrays
            look = self.processor.image_processor
            inputs = look(images=part, input_data_format="channels_last", return_tensors="pt")
            parts.append(self._unit(self.model.get_image_features, inputs))
        return np.concatenate(parts)

    def texts(self, texts: Sequence[str], at_once: int = AT_ONCE) -> NDArray[np.float32]:
        """-> unit vectors, float32 (N, D). A text with more tokens than the model takes is cut. `cached_texts` does the
        same with a tuple of texts, and remembers its results."""
        parts = [np.zeros((0, self.width), np.float32)]
        for start in range(0, len(texts), at_once):
            tokens = self._tokens(texts[start : start + at_once], padding=self.family.padding, return_tensors="pt")
            known = {key: tokens[key] for key in ("input_ids", "attention_mask") if key in tokens}
            parts.append(self._unit(self.model.get_text_features, known))
        return np.concatenate(parts)

    def unpadded_texts(self, texts: Sequence[str], at_once: int = AT_ONCE) -> NDArray[np.float32]:
        """-> the vectors that `texts` gives for each text alone. Only texts with equal numbers of tokens share a batch:
        others would be padded, which changes cosines by up to 0.001 in bfloat16."""
        if self.family.padding == "max_length":  # all texts have equal numbers of tokens
            return self.texts(texts, at_once)
        lengths = np.array([len(tokens) for tokens in self._tokens(texts).input_ids], np.int64)
        vectors = np.zeros((len(texts), self.width), np.float32)
        for length in np.unique(lengths):
            same = np.flatnonzero(lengths == length).tolist()
            vectors[same] = self.texts([texts[i] for i in same], at_once)
        return vectors

    def _tokens(self, texts: Sequence[str], **options: Any) -> Any:
        max_length = self.model.config.text_config.max_position_embeddings
        cased = [text.lower() for text in texts] if self.family.lower else list(texts)
        return self.processor.tokenizer(cased, truncation=True, max_length=max_length, **options)

    def _unit(self, features: Callable[..., Any], inputs: Mapping[str, Any]) -> NDArray[np.float32]:
        import torch

        device, dtype = self.model.device, self.model.dtype
        with torch.inference_mode():
            moved = {k: v.to(device, dtype if v.is_floating_point() else None) for k, v in inputs.items()}
            vectors = features(**moved).pooler_output.float()
            unit: NDArray[np.float32] = torch.nn.functional.normalize(vectors, dim=1).cpu().numpy()
        return unit


def phrase(prompt: str, word: str) -> str:
    """`prompt` with `word` in place of {}; an "a" before it becomes "an" if the word begins with a vowel."""
    if word[:1].lower() in "aeiou":
        prompt = prompt.replace("a {}", "an {}") if prompt.startswith("a {}") else prompt.replace(" a {}", " an {}")
    return prompt.replace("{}", word)


def crop(image: NDArray[np.uint8], box: NDArray[np.float32], margin: float = MARGIN) -> NDArray[np.uint8]:
    """The part of the image in a box, xyxy px, with a margin of `margin` times its longer side. It is widened to a
    square as far as the image reaches, since a CLIP's processor squeezes or cuts other shapes."""
    height, width = image.shape[:2]
    x0, y0, x1, y1 = (float(v) for v in box)
    half = max(x1 - x0, y1 - y0, LEAST_PX) * (0.5 + margin)
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    left, right = max(0, round(x - half)), min(width, round(x + half))
    top, bottom = max(0, round(y - half)), min(height, round(y + half))
    return image[top:bottom, left:right]


def _load(path: Path, inspected: tuple[str, Held], device: Any, dtype: Any) -> tuple[Any, Any]:
    import transformers

    model_type, held = inspected
    family = FAMILIES[model_type]
    with loading(path, held):
        processor = getattr(transformers, family.processor).from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
        model, found = getattr(transformers, family.model).from_pretrained(
            path, local_files_only=True, use_safetensors=True, trust_remote_code=False, dtype=dtype,
            output_loading_info=True,
        )  # fmt: skip
    require_all_weights(path, model, found)
    return model.to(device).eval(), processor
