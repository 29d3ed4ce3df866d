"""Counts the tokens of a text for a model's text encoder. It needs only the model's folder, and no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from synthgen.models import read_json
from synthgen.types import PromptForm

ENDLESS = 1_000_000  # transformers writes a number beyond this for "no limit"
# A CLIP tokenizer without tokenizer.json cuts text into words by this pattern: `CLIPConverter` in transformers.
CLIP_WORDS = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""


@dataclass(frozen=True, slots=True)
class Counter:
    """Counts tokens.

    Attributes:
        counts: texts -> their numbers of tokens, including the tokens that begin and end a text.
        limit: the most tokens that the text encoder takes; None if the folder does not say it.
    """

    counts: Callable[[Sequence[str]], list[int]]
    limit: int | None

    def framed(self, frame: str, limit: int) -> Counter:
        """Counts texts within a longer text, `frame`, in which each stands for `{}`."""
        before, _, after = frame.partition("{}")
        return Counter(lambda texts: self.counts([f"{before}{text}{after}" for text in texts]), limit)

    def longest(self, form: PromptForm) -> tuple[str, str]:
        """The longest prompt of a form, made of each piece's longest text, and the part of it that the model needs."""
        parts = [texts[0] if len(texts) == 1 else self._longest_of(texts) for texts in form.pieces]
        return "".join(parts), "".join(parts[: form.last_needed])

    def _longest_of(self, texts: Sequence[str]) -> str:
        counts = self.counts(texts)
        return texts[counts.index(max(counts))]


@lru_cache
def counter(tokenizer: Path, text_encoder: Path | None = None) -> Counter | None:
    """A counter from a tokenizer's folder; None for a kind that the package `tokenizers` does not read.

    Args:
        tokenizer: has `tokenizer.json`, or a CLIP's `vocab.json` and `merges.txt`.
        text_encoder: the folder of the encoder, whose `config.json` may give its number of positions.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    ends = 0
    try:
        config = read_json(tokenizer / "tokenizer_config.json")
    except (OSError, ValueError):
        config = {}
    try:
        if (file := tokenizer / "tokenizer.json").is_file():
            made = Tokenizer.from_file(str(file))
        elif (tokenizer / "vocab.json").is_file() and (tokenizer / "merges.txt").is_file():
            vocabulary = models.BPE.from_file(
                str(tokenizer / "vocab.json"), str(tokenizer / "merges.txt"), end_of_word_suffix="</w>",
                unk_token="<|endoftext|>",
            )  # fmt: skip
            made, ends = Tokenizer(vocabulary), 2
            made.normalizer = normalizers.Sequence(
                [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
            )
            words = pre_tokenizers.Split(Regex(CLIP_WORDS), behavior="removed", invert=True)
            made.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
        else:
            return None
    except Exception:  # the package raises bare `Exception`s; loading reports a file that cannot be read
        return None
    made.no_truncation()
    made.no_padding()

    def counts(texts: Sequence[str]) -> list[int]:
        return [len(encoding.ids) + ends for encoding in made.encode_batch(list(texts))]

    limits = [config.get("model_max_length"), _positions(text_encoder)]
    whole = [int(n) for n in limits if isinstance(n, int | float) and 0 < n < ENDLESS]
    return Counter(counts, min(whole, default=None))


def _positions(text_encoder: Path | None) -> Any:
    """The number of positions of a CLIP's text encoder; None for encoders without a table of positions, such as T5."""
    try:
        config = read_json(text_encoder / "config.json") if text_encoder else {}
    except (OSError, ValueError):
        return None
    text = config.get("text_config")
    return (text if isinstance(text, dict) else config).get("max_position_embeddings")
