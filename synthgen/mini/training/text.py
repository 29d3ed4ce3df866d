"""The tokenizer of whole words, which the diffusion model's text encoder and the CLIP share, and their word vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from synthgen.mini.training import captions
from synthgen.mini.training.trainer import Weights

MAX_TOKENS = 40  # of a prompt
# The end of the text must not have the id 2: transformers' CLIP reads 2 as the wrong id of OpenAI's first release, and
# pools at the greatest id instead.
SPECIAL = ("<pad>", "<unk>", "<bos>", "<eos>")
WORD_VECTORS = "embeddings.token_embedding.weight"


def word_tokenizer() -> Any:
    """A tokenizer with one token for each of `captions.words()`; any other word is `<unk>`.

    A call leaves its padding in the tokenizer, so do not save one that has been called.
    """
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *captions.words()])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(token, vocabulary[token]) for token in ("<bos>", "<eos>")]
    made.post_processor = processors.TemplateProcessing(single="<bos> $A <eos>", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", unk_token="<unk>", bos_token="<bos>", eos_token="<eos>",
        model_max_length=MAX_TOKENS,
    )  # fmt: skip


def tokens(tokenizer: Any, texts: list[str]) -> torch.Tensor:
    """The ids of texts, padded or cut, int64 (B, MAX_TOKENS)."""
    ids: torch.Tensor = tokenizer(
        texts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt"
    ).input_ids
    return ids


def text_config(width: int, layers: int, **more: int) -> dict[str, int]:
    """The options of a CLIP text encoder for the words of `word_tokenizer()`."""
    return {
        "vocab_size": len(SPECIAL) + len(captions.words()), "hidden_size": width, "intermediate_size": 4 * width,
        "num_hidden_layers": layers, "num_attention_heads": 4, "max_position_embeddings": MAX_TOKENS, "pad_token_id": 0,
        "bos_token_id": 2, "eos_token_id": 3, **more,
    }  # fmt: skip


def known_words(weights: Weights, key: str, tokenizer: Path, fresh: torch.Tensor) -> Weights:
    """The weights of an earlier text encoder, for today's words. In the table `key` of word vectors, a known word keeps
    its vector; a new word gets its row of `fresh` (words, width)."""
    before = PreTrainedTokenizerFast.from_pretrained(tokenizer, local_files_only=True).get_vocab()
    table = fresh.clone()
    for word, row in word_tokenizer().get_vocab().items():
        if word in before:
            table[row] = weights[key][before[word]].to(table)
    return {**weights, key: table}
