"""Text in an image that nobody requested, or that is misspelt."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from synthgen import devices
from synthgen.backends import Model, ThresholdConfig, ThresholdFilter
from synthgen.errors import BackendError
from synthgen.models.named import PackagedModel
from synthgen.types import Sample

INSTALL = "pip install 'synthgen[text]'"
LICENCE = ("Apache-2.0", "https://github.com/RapidAI/RapidOCR")
_QUOTED = re.compile(r"""["”“„]([^"”“„]+)["”“]|«([^»]+)»|(?<!\w)['‘]([^'‘’]+)['’](?!\w)""")


class Config(ThresholdConfig):
    """Options of `garbled_text`."""

    min: float | None = Field(None, ge=0, description="Least number of wrong words kept.")
    max: float | None = Field(0, ge=0, description="Greatest number of wrong words kept.")
    min_confidence: float = Field(
        0.5, ge=0, le=1, description="Lines of text that the OCR reads with a lower confidence do not count."
    )
    min_letters: int = Field(
        2,
        ge=1,
        le=100,
        description="Shorter words do not count, unless quoted: the OCR reads wheels and eyes as 0.",
    )


class Backend(ThresholdFilter[Config]):
    """Number of words that the OCR reads in the image and that are not in the prompt, plus the number of quoted words
    of the prompt that it does not read. 0 is right: there is no text, or only the text of the prompt.

    It counts words and not their area: a small misspelt sign is as wrong as a large one. Case, accents, punctuation and
    spaces do not count, so `SALE TODAY` may be read as `saletoday`. Any word of the prompt may appear, such as `bus` on
    a bus; a word in quotes ("…", '…', “…”, «…») must. A quoted word that is misspelt counts twice.

    The OCR is PP-OCRv6 small (Chinese, Japanese and Latin script), as shipped in the wheel of `rapidocr`, on the CPU in
    one thread. It reads patterns that look like letters as letters, usually with a lower confidence, so
    `min_confidence` decides what is text.
    """

    scope = "image"

    def models(self) -> Sequence[Model]:
        return [PackagedModel(self.config.use, ("rapidocr", "onnxruntime"), INSTALL, LICENCE)]

    def measure(self, sample: Sample) -> NDArray[Any]:
        """-> float32 (): words."""
        allowed = set(_words(sample.job.prompt))
        quoted = {word for groups in _QUOTED.findall(sample.job.prompt) for word in _words("".join(groups))}
        lines = [_words(text) for text in self.read_lines(sample.image)]
        wrong = sum(
            len(word) >= self.config.min_letters and not _spelt(word, allowed)
            for line in lines
            if not _spelt("".join(line), allowed)
            for word in line
        )
        wrong += sum(all(word not in "".join(line) for line in lines) for word in quoted)
        return np.asarray(wrong, np.float32)

    def read_lines(self, image: NDArray[np.uint8]) -> list[str]:
        """The lines of text in an image, RGB."""
        result = devices.resident("rapidocr", load)(np.ascontiguousarray(image[..., ::-1]))
        lines = zip(result.txts or (), result.scores or (), strict=True)
        return [text for text, score in lines if score >= self.config.min_confidence]


def load() -> Any:
    """The OCR. Its files are given by their paths, so that the package never downloads them.

    Raises:
        BackendError: the package is not installed, or has no weights in it.
    """
    try:
        import rapidocr
        from rapidocr import RapidOCR
    except ImportError as error:
        raise BackendError(f"filter garbled_text: cannot import rapidocr ({error}): {INSTALL}") from error

    def weights(part: str) -> str:
        folder = Path(rapidocr.__file__).parent / "models"
        files = sorted(folder.glob(f"*_{part}_*.onnx"))
        if len(files) != 1:
            raise BackendError(
                f"filter garbled_text: {len(files)} files *_{part}_*.onnx in {folder}, needs 1: {INSTALL}"
            )
        return str(files[0])

    return RapidOCR(
        params={
            "Global.log_level": "critical",
            "Global.text_score": 0.0,
            "Global.use_cls": False,  # it would turn upside-down text
            "Det.model_path": weights("det"),
            "Rec.model_path": weights("rec"),
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
    )


def _words(text: str) -> list[str]:
    """The words of a text, without case and accents."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return re.findall(r"[^\W_]+", plain.casefold())


def _spelt(text: str, words: Set[str]) -> bool:
    """Whether `text` is a sequence of `words` without spaces."""
    ends = {0}
    for end in range(1, len(text) + 1):
        if any(text[start:end] in words for start in ends):
            ends.add(end)
    return len(text) in ends
