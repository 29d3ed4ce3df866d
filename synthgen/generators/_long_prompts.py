"""Encodes prompts that are longer than a CLIP takes, in pieces, for pipelines of Stable Diffusion and SDXL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline


class LongPrompts:
    """The text encoders of a pipeline. A prompt is cut into pieces of the most tokens that an encoder takes, 75 and two
    ends. Each piece is encoded alone, and the results are joined, as
    https://huggingface.co/docs/diffusers/using-diffusers/weighted_prompts describes it. A prompt of one piece gives
    the numbers that the pipeline's own call computes.
    """

    def __init__(self, pipeline: DiffusionPipeline) -> None:
        names = [("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2")]
        pairs = [(getattr(pipeline, t, None), getattr(pipeline, e, None)) for t, e in names]
        self.pipeline = pipeline
        self.readers = [(tokenizer, encoder) for tokenizer, encoder in pairs if encoder is not None]
        self.is_xl = hasattr(pipeline, "text_encoder_2")

    def pieces(self, text: str) -> int:
        """The number of pieces of a prompt, of the encoder that needs most."""
        return max(len(self._pieces(tokenizer, text)) for tokenizer, _ in self.readers)

    def arguments(self, prompts: Sequence[str], negatives: Sequence[str], pieces: int) -> dict[str, Any]:
        """Arguments of the pipeline's call that take the place of `prompt` and `negative_prompt`.

        Args:
            negatives: "" for an image without one.
            pieces: how many every text is filled up to.
        """
        hidden, pooled = self._encode(prompts, pieces)
        negative, negative_pooled = self._encode(negatives, pieces)
        arguments = {"prompt_embeds": hidden, "negative_prompt_embeds": negative}
        if self.is_xl:
            # Without any negative prompt, SDXL takes zeros (`force_zeros_for_empty_prompt` in its index).
            if not any(negatives) and self.pipeline.config.force_zeros_for_empty_prompt:
                negative, negative_pooled = hidden.new_zeros(hidden.shape), pooled.new_zeros(pooled.shape)
                arguments["negative_prompt_embeds"] = negative
            arguments |= {"pooled_prompt_embeds": pooled, "negative_pooled_prompt_embeds": negative_pooled}
        return arguments

    def _encode(self, texts: Sequence[str], pieces: int) -> tuple[torch.Tensor, torch.Tensor]:
        """-> the texts' hidden states (B, pieces * length, D), and the pooled state of their first piece (B, D)."""
        import torch

        device, columns, pooled = self.pipeline._execution_device, [], None
        for tokenizer, encoder in self.readers:
            rows = [
                [*found, *[[]] * (pieces - len(found))] for text in texts for found in [self._pieces(tokenizer, text)]
            ]
            states = []
            for number in range(pieces):
                tokens = torch.tensor([_framed(tokenizer, row[number]) for row in rows], device=device)
                with torch.no_grad():
                    output = encoder(tokens, output_hidden_states=self.is_xl)
                states.append(output.hidden_states[-2] if self.is_xl else output[0])
                if number == 0 and (pooled is None or output[0].ndim == 2):
                    pooled = output[0]
            columns.append(torch.cat(states, 1))
        assert pooled is not None  # there is at least one encoder, and one piece
        return torch.cat(columns, -1), pooled

    def _pieces(self, tokenizer: Any, text: str) -> list[list[int]]:
        """The tokens of a text without its ends, in pieces that leave room for them; at least one. The word of a
        textual inversion becomes one for each of its vectors."""
        words = self.pipeline.maybe_convert_prompt(text, tokenizer)
        tokens: list[int] = tokenizer(words, add_special_tokens=False, truncation=False).input_ids
        size = tokenizer.model_max_length - 2
        return [tokens[start : start + size] for start in range(0, len(tokens), size)] or [[]]


def _framed(tokenizer: Any, piece: list[int]) -> list[int]:
    tokens = [tokenizer.bos_token_id, *piece, tokenizer.eos_token_id]
    return [*tokens, *[tokenizer.pad_token_id] * (tokenizer.model_max_length - len(tokens))]
