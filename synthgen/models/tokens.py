"""How many tokens a text has for a model's text encoder, counted from the model's folder alone, without torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from synthgen.models import read_json
from synthgen.types import PromptForm

ENDLESS = 1_000_000  # transformers writes a number beyond this for "no limit"
# How a CLIP tokenizer without tokenizer.json cuts text into words: `CLIPConverter` in transformers.
CLIP_WORDS = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""


@dataclass(frozen=True, slots=True)
class Counter:
    """A tokenizer, as far as counting goes.

    Attributes:
        counts: texts -> their numbers of tokens, those that begin and end a text among them.
        limit: the most that the text encoder takes; None where the folder does not say.
    """

    counts: Callable[[Sequence[str]], list[int]]
    limit: int | None

    def longest(self, form: PromptForm) -> tuple[str, str]:
        """The longest prompt of a form, and as much of it as the model needs; each piece's longest text is taken."""
        parts = [texts[0] if len(texts) == 1 else self._longest_of(texts) for texts in form.pieces]
        return "".join(parts), "".join(parts[: form.last_needed])

    def _longest_of(self, texts: Sequence[str]) -> str:
        found = self.counts(texts)
        return texts[found.index(max(found))]


@lru_cache
def counter(tokenizer: Path, text_encoder: Path | None = None) -> Counter | None:
    """A counter from a tokenizer's folder; None for a kind that the package `tokenizers` does not read.

    Args:
        tokenizer: has `tokenizer.json`, or a CLIP's `vocab.json` and `merges.txt`.
        text_encoder: the folder of the encoder, whose `config.json` may say how many positions it has.
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
    except Exception:  # the package raises plain ones; what cannot be read is told when it is loaded
        return None
    made.no_truncation()
    made.no_padding()

    def counts(texts: Sequence[str]) -> list[int]:
        return [len(found.ids) + ends for found in made.encode_batch(list(texts))]

    limits = [config.get("model_max_length"), _positions(text_encoder)]
    whole = [int(n) for n in limits if isinstance(n, int | float) and 0 < n < ENDLESS]
    return Counter(counts, min(whole, default=None))


def _positions(text_encoder: Path | None) -> Any:
    """Positions of a CLIP's text encoder; None for encoders without a table of them, such as T5."""
    try:
        config = read_json(text_encoder / "config.json") if text_encoder else {}
    except (OSError, ValueError):
        return None
    text = config.get("text_config")
    return (text if isinstance(text, dict) else config).get("max_position_embeddings")
