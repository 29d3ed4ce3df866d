"""The families of models that map pictures and texts to vectors of one space, and the scales of their cosines."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp, log
from pathlib import Path
from typing import Literal

from synthgen.backends import ModelConfig
from synthgen.models.weights import stored_number


@dataclass(frozen=True, slots=True)
class Family:
    """Classes of transformers for one `model_type`.

    Attributes:
        name: what people call it.
        model: the class.
        processor: the class that prepares pictures and texts.
        width: where the settings have the length of vectors.
        padding: how texts were padded in training: `longest` adds nothing to a text that is alone.
        lower: whether texts are lower-cased first. SigLIP 2 was trained so (`Siglip2Tokenizer` in transformers), and
            the tokenizers of its first checkpoints do not do it; SigLIP's tokenizer does.
        sigmoid: whether it was trained with a sigmoid for each pair (arXiv 2303.15343), and not with a softmax.
    """

    name: str
    model: str
    processor: str
    width: str = "projection_dim"
    padding: Literal["longest", "max_length"] = "longest"
    lower: bool = False
    sigmoid: bool = False


# SigLIP 2 for pictures of one size has SigLIP's classes; those of its own are for any aspect ratio (NaFlex).
_SIGLIP = Family(
    "SigLIP", "SiglipModel", "SiglipProcessor", "vision_config.hidden_size", "max_length", lower=True, sigmoid=True
)
FAMILIES = {
    "clip": Family("CLIP", "CLIPModel", "CLIPProcessor"),
    "metaclip_2": Family("MetaCLIP 2", "MetaClip2Model", "CLIPProcessor"),
    "siglip": _SIGLIP,
    "siglip2": replace(_SIGLIP, name="SigLIP 2", model="Siglip2Model", processor="Siglip2Processor"),
}


@dataclass(frozen=True, slots=True)
class Cosine:
    """An option that is compared with a model's cosines. Its default fits the models that it was measured with.

    Attributes:
        option: its name.
        value: what it is.
        is_given: whether the spec says so.
        keeps_all: the value with which nothing is judged, as YAML.
        scale: whose cosines the default is for: the embedded model's, which was trained with a sigmoid, or any CLIP's.
        of_texts: whether pictures are compared with texts, and not with pictures.
    """

    option: str
    value: float | None
    is_given: bool
    keeps_all: str
    scale: Literal["embedded", "CLIP"]
    of_texts: bool = True

    @classmethod
    def of(
        cls,
        config: ModelConfig,
        option: str,
        keeps_all: str,
        scale: Literal["embedded", "CLIP"],
        *,
        of_texts: bool = True,
    ) -> Cosine:
        return cls(option, getattr(config, option), option in config.model_fields_set, keeps_all, scale, of_texts)

    def problem(self, model_type: str, folder: Path) -> str:
        """Why the default cannot judge with a model; "" if it can."""
        family = FAMILIES[model_type]
        if self.is_given or model_type == "clip":
            return ""
        is_for = "the embedded model" if self.scale == "embedded" else "CLIP"
        message = (
            f"the default, {self.value:g}, is for cosines of {is_for}, and those of a {family.name} have another scale"
        )
        own_scale = _own_scale(folder) if self.of_texts and family.sigmoid else ""
        return f"{message}; give `{self.option}`{own_scale}{self._find()}"

    def advice(self, model_type: str, has_card: bool) -> str:
        """What to know of the default with a model; "" if nothing."""
        if self.is_given or model_type != "clip" or has_card or self.scale != "embedded":
            return ""
        return (
            f"the default, {self.value:g}, is for cosines of the embedded model; OpenAI's models give about 0.25 for "
            f"right names and 0.18 for wrong ones; give `{self.option}`{self._find()}"
        )

    def _find(self) -> str:
        return f"; docs/calibration.md says how to find it, with `{self.option}: {self.keeps_all}` meanwhile"


def _own_scale(folder: Path) -> str:
    """The cosines at which the sigmoid of a model gives two probabilities, in words; "" if its weights do not say."""
    scale, bias = stored_number(folder, "logit_scale"), stored_number(folder, "logit_bias")
    if scale is None or bias is None or not abs(scale) < 20:
        return ""
    at = {p: (log(p / (1 - p)) - bias) / exp(scale) for p in (0.5, 0.01)}
    return f" (its own sigmoid gives 0.5 at a cosine of {at[0.5]:.3f}, and 0.01 at {at[0.01]:.3f})"
