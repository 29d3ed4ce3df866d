"""Reads the parts that a spec puts into a pipeline, and adds its LoRAs and textual inversions."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from synthgen.errors import BackendError
from synthgen.generators._diffusion_parts import Component, EmbeddingFile, LoraFile
from synthgen.models.loading import loading

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline


def read_component(part: Component, dtype: torch.dtype, quantizer: Any) -> Any:
    """A part of an inspected folder or file, on the CPU. `quantizer`: how its weights are quantised; None: not."""
    import diffusers
    import transformers

    path, kind = part.path(), getattr(diffusers, part.kind, None) or getattr(transformers, part.kind, None)
    if kind is None:
        raise BackendError(f"takes parts of classes of diffusers and transformers, and {part.kind} is of neither")
    options = {"quantization_config": quantizer} if quantizer is not None else {}
    if path.is_dir():
        if "Tokenizer" in part.kind:
            return kind.from_pretrained(path, local_files_only=True)
        variant = {"variant": part.variant} if part.variant else {}
        return kind.from_pretrained(
            path, dtype=dtype, use_safetensors=True, local_files_only=True, **variant, **options
        )
    of_gguf = {"quantization_config": diffusers.GGUFQuantizationConfig(compute_dtype=dtype)}
    model = kind.from_single_file(
        str(path),
        config=str(part.pipeline.path()),
        subfolder=part.name,
        dtype=dtype,
        local_files_only=True,
        **(of_gguf if path.suffix == ".gguf" else {}),
    )
    # diffusers leaves weights that the file lacks without values.
    if lacking := next((name for name, weight in model.named_parameters() if weight.is_meta), None):
        raise BackendError(f"generator{part.field}: {path} has no weights for {lacking} of {part.kind}")
    if quantizer is not None:
        from torchao.quantization import quantize_

        quantize_(model, quantizer.quant_type)  # diffusers 0.42 quantises single files, and loses the result
    return model


def add_embeddings(pipeline: DiffusionPipeline, embeddings: Sequence[EmbeddingFile]) -> None:
    """Teaches the pipeline's text encoders the words of textual inversions."""
    from safetensors.torch import load_file

    for embedding in embeddings:
        with loading(embedding.path(), embedding.inspect(), f"generator{embedding.field}: "):
            vectors = load_file(embedding.path())
            if "clip_l" not in vectors:
                pipeline.load_textual_inversion(vectors, token=embedding.token)
                continue
            for name, ending in (("clip_l", ""), ("clip_g", "_2")):  # SDXL's two text encoders
                encoder, tokenizer = (getattr(pipeline, f"{part}{ending}") for part in ("text_encoder", "tokenizer"))
                pipeline.load_textual_inversion(
                    {name: vectors[name]}, token=embedding.token, text_encoder=encoder, tokenizer=tokenizer
                )


def add_loras(pipeline: DiffusionPipeline, loras: Sequence[LoraFile], quantized: Collection[str]) -> None:
    """Adds LoRAs to the pipeline's weights, so that images take no longer and blocks are compiled as ever.

    Args:
        quantized: names of the parts with quantised weights. Nothing can be added to these exactly: if a LoRA is for
            one of them, all LoRAs are computed beside the weights.
    """
    names = [f"lora_{i}" for i in range(len(loras))]
    for name, lora in zip(names, loras, strict=True):
        path = lora.path()
        with loading(path, lora.inspect(), f"generator{lora.field}: "), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`", UserWarning)  # of the LoRA before it
            pipeline.load_lora_weights(
                str(path.parent), weight_name=path.name, adapter_name=name, local_files_only=True, use_safetensors=True
            )
            if not any(name in of_part for of_part in pipeline.get_list_adapters().values()):
                raise BackendError(
                    f"generator{lora.field}: {path} has nothing for the parts of {type(pipeline).__name__}: it was "
                    "made for another model"
                )
    if not loras:
        return
    pipeline.set_adapters(names, [lora.lora.weight for lora in loras])
    parts = list(pipeline.get_list_adapters())
    if not set(parts) & set(quantized):
        pipeline.fuse_lora(components=parts)
        pipeline.unload_lora_weights()
