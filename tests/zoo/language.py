"""Tiny language models with their tokenizers and processors, which the newer pipelines encode prompts with."""

from typing import Any

import transformers
from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from zoo.latent import excited

IMAGE_SIZE = {"shortest_edge": 32 * 32, "longest_edge": 64 * 64}  # in pixels; only pictures as inputs need it
QWEN_TOKENS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
QWEN_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PLAIN_CHAT = (
    "{% for message in messages %}{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endfor %}"
)
# The pipelines cut a fixed number of tokens from the start of what the model read: those of such an instruction, in
# which each word is one token.
INSTRUCTION = (
    "Describe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships of the "
    "objects and background:"
)


def vocabulary(text: str, first_words: tuple[str, ...] = ()) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A byte-level BPE: every byte, the words of a text, and words that follow no space. Returns tokens and merges."""
    words = sorted({"Ġ" + word.strip(",.:") for word in text.split()[1:]})
    # Merges of a word after a space start with the space, so none breaks another. Those of the other words come last.
    merges = dict.fromkeys((w[:i], w[i]) for w in (*words, *first_words) for i in range(1, len(w)))
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(merge) for merge in merges)]
    return {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}, list(merges)


def qwen_tokenizer(**options: Any):
    tokens, merges = vocabulary(INSTRUCTION, ("system", "user", "assistant", "Describe"))
    return transformers.Qwen2Tokenizer(
        vocab=tokens, merges=merges, extra_special_tokens=list(QWEN_TOKENS), chat_template=QWEN_CHAT, **options
    )


def qwen_processor(kind: Any = transformers.Qwen3VLProcessor):
    video = (
        transformers.Qwen3VLVideoProcessor
        if kind is transformers.Qwen3VLProcessor
        else transformers.Qwen2VLVideoProcessor
    )
    return kind(
        transformers.Qwen2VLImageProcessor(patch_size=16, merge_size=2, size=IMAGE_SIZE), qwen_tokenizer(), video(),
        chat_template=QWEN_CHAT,
    )  # fmt: skip


def ids(tokenizer: Any) -> dict[str, int]:
    names = {"image_token_id": 4, "video_token_id": 5, "vision_start_token_id": 2, "vision_end_token_id": 3}
    return {name: tokenizer.convert_tokens_to_ids(QWEN_TOKENS[i]) for name, i in names.items()}


def text_config(layers: int, hidden: int = 16, **options: Any) -> dict[str, Any]:
    return {
        "hidden_size": hidden, "intermediate_size": 16, "num_hidden_layers": layers, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 8, "vocab_size": len(qwen_tokenizer()),
        "max_position_embeddings": 4096, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None, **options,
    }  # fmt: skip


ROPE = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]}


def qwen2_5_vl(layers: int = 2):
    text = text_config(layers, rope_parameters=dict(ROPE))
    vision = {
        "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16,
        "fullatt_block_indexes": [0],
    }  # fmt: skip
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids(qwen_tokenizer()))
    return excited(transformers.Qwen2_5_VLForConditionalGeneration(config))


def qwen3_vl(kind: Any = transformers.Qwen3VLForConditionalGeneration, layers: int = 2, hidden: int = 16):
    text = text_config(layers, hidden, rope_parameters=dict(ROPE))
    vision = {
        "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": hidden,
        "patch_size": 16, "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
    }  # fmt: skip
    config = transformers.Qwen3VLConfig(text_config=text, vision_config=vision, **ids(qwen_tokenizer()))
    return excited(kind(config))


def qwen3(layers: int):
    return excited(transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**text_config(layers))))


MISTRAL_TOKENS = ("[IMG]", "[IMG_BREAK]", "[IMG_END]")


def mistral_tokenizer(**options: Any):
    """A tokenizer as Mistral's are, with a token at the start of each text and few words: those that FLUX.2 adds."""
    tokens, merges = vocabulary(SYSTEM_MESSAGE)
    tokens |= {token: len(tokens) + i for i, token in enumerate(("<pad>", "<s>", "</s>"))}
    made = Tokenizer(models.BPE(vocab=tokens, merges=merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", tokens["<s>"])])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        extra_special_tokens=list(MISTRAL_TOKENS), chat_template=PLAIN_CHAT, **options,
    )  # fmt: skip


def pixtral_processor():
    return transformers.PixtralProcessor(
        transformers.PixtralImageProcessor(), mistral_tokenizer(), chat_template=PLAIN_CHAT
    )


def mistral3(kind: Any, layers: int):
    vision = {
        "model_type": "pixtral", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 16, "image_size": 32, "patch_size": 16, "head_dim": 8,
    }  # fmt: skip
    text = text_config(layers, vocab_size=len(mistral_tokenizer()), model_type="mistral", sliding_window=None)
    config = transformers.Mistral3Config(
        text_config=text, vision_config=vision, image_token_index=len(mistral_tokenizer()) - 3
    )
    return excited(kind(config))


def ministral3():
    """A model that writes texts."""
    config = transformers.Ministral3Config(**text_config(2, vocab_size=len(mistral_tokenizer())))
    return excited(transformers.Ministral3ForCausalLM(config))


GLM_IMAGE_TOKENS = 32  # the first entries of GLM-Image's vocabulary stand for pieces of pictures
GLM_TOKENS = {
    "bos_token": "<|image_start|>", "eos_token": "<|image_end|>", "pad_token": "<pad>", "image_token": "<|image|>",
    "grid_bos_token": "<sop>", "grid_eos_token": "<eop>",
}  # fmt: skip


def glm_processor():
    pieces = [*(f"<|piece_{i}|>" for i in range(GLM_IMAGE_TOKENS)), *GLM_TOKENS.values()]
    pieces += sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    named = {name: token for name, token in GLM_TOKENS.items() if name not in ("bos_token", "eos_token", "pad_token")}
    basic = {name: token for name, token in GLM_TOKENS.items() if name not in named}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, padding_side="left", model_specific_special_tokens=named, **basic
    )
    return transformers.GlmImageProcessor(transformers.GlmImageImageProcessor(), tokenizer, chat_template=PLAIN_CHAT)


def glm_image():
    """A model that samples the pieces of a picture, one after the other."""
    first = GLM_IMAGE_TOKENS
    config = transformers.GlmImageConfig(
        text_config={
            "vocab_size": first + len(GLM_TOKENS) + 256, "hidden_size": 16, "intermediate_size": 16,
            "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 2048,
            "vision_vocab_size": first, "eos_token_id": first + 1, "pad_token_id": first + 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
        },
        vision_config={
            "depth": 1, "hidden_size": 16, "num_heads": 2, "image_size": 32, "patch_size": 16, "intermediate_size": 16,
        },
        vq_config={"embed_dim": 8, "num_embeddings": first, "latent_channels": 16},
        image_token_id=first + 3, image_start_token_id=first, image_end_token_id=first + 1,
    )  # fmt: skip
    return excited(transformers.GlmImageForConditionalGeneration(config), gain=3)


def smol_lm3():
    """A model with the whole vocabulary of SmolLM3: the pipeline has the number of one of its tokens in its code."""
    config = transformers.SmolLM3Config(
        hidden_size=4, intermediate_size=8, num_hidden_layers=2, num_attention_heads=1, num_key_value_heads=1,
        vocab_size=128_001, bos_token_id=128_000, eos_token_id=128_000, pad_token_id=0, tie_word_embeddings=True,
    )  # fmt: skip
    return excited(transformers.SmolLM3ForCausalLM(config))
