"""Small tokenizers and text encoders of the kinds that language models have."""

from typing import Any

import tokenizers
import transformers
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing

# Qwen's template in short: the same marks, without tools and without the system's part.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TOKENS = 300  # entries of a text encoder's vocabulary, enough for a byte each and for marks


def byte_tokenizer(
    kind: Any = transformers.Qwen2Tokenizer, marks: tuple[str, ...] = (), begin: tuple[str, ...] = (), **options: Any
) -> Any:
    """A tokenizer of the kind that Qwen, Llama and GLM have, without merges: each token is a byte or a mark.

    Args:
        kind: `Qwen2Tokenizer` or `PreTrainedTokenizerFast`.
        marks: further tokens that are not cut into bytes.
        begin: tokens before every text, among them.
    """
    marks += begin
    vocab = {token: i for i, token in enumerate([*MARKS, *marks, *sorted(ByteLevel.alphabet())])}
    options = {"pad_token": MARKS[0], "extra_special_tokens": [*MARKS[1:], *marks], **options}
    if kind is transformers.PreTrainedTokenizerFast:
        model = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, []))
        model.pre_tokenizer, model.decoder = ByteLevel(add_prefix_space=False), tokenizers.decoders.ByteLevel()
        made = kind(tokenizer_object=model, eos_token=MARKS[0], **options)
    else:
        made = kind(vocab=vocab, merges=[], **options)
    made.chat_template = CHAT_TEMPLATE
    return _begun(made, *begin)


def gemma_tokenizer(**options: Any) -> Any:
    """Gemma's tokenizer without words: each token is a byte."""
    known = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    made = transformers.GemmaTokenizer(vocab={token: i for i, token in enumerate(known)}, merges=[], **options)
    return _begun(made, "<bos>")


def _begun(tokenizer: Any, *begin: str) -> Any:
    """The tokenizer, with these tokens before every text."""
    if begin:
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=" ".join([*begin, "$A"]), special_tokens=[(b, tokenizer.convert_tokens_to_ids(b)) for b in begin]
        )
    return tokenizer


def decoder_text(kind: Any = transformers.Qwen3Model, **options: Any) -> Any:
    """A language model of two layers of width 16, which these tokenizers fit."""
    shape = {
        "vocab_size": TOKENS, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 4096,
        "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1,
    }  # fmt: skip
    return kind(kind.config_class(**(shape | options))).eval()
