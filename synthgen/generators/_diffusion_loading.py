"""Loads a diffusers pipeline from a folder, changes it as a spec says, and places it on the device."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthgen import devices
from synthgen.errors import BackendError, listed
from synthgen.generators._diffusion_additions import add_embeddings, add_loras, read_component
from synthgen.generators._diffusion_checks import ADAPTER_PIPELINES
from synthgen.generators._diffusion_config import Config, denoiser_of
from synthgen.generators._diffusion_files import PipelineFiles
from synthgen.generators._diffusion_parts import Component, Parts
from synthgen.generators._diffusion_tuning import quantization, tune
from synthgen.generators._modular import Modular, read_modular
from synthgen.models import AdapterLayout, ModelMissing, read_card
from synthgen.models.loading import loading
from synthgen.models.modular import is_modular
from synthgen.models.weights import Held

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline


def load(config: Config, files: PipelineFiles, parts: Parts, has_layout: bool) -> DiffusionPipeline | Modular:
    """The pipeline on the device that computes, with an adapter if jobs have layouts.

    Args:
        parts: what the spec puts in place of its parts, or adds to it.

    Raises:
        BackendError: it is not on this machine, must not be loaded, or could not be loaded.
    """
    device = devices.torch_device(config.device)
    dtype = devices.torch_dtype(config.torch_dtype, device)
    try:
        path, held = files.path(), files.inspect()
    except (BackendError, ModelMissing) as error:
        raise BackendError(f"generator.model: {error}") from error
    pipeline: DiffusionPipeline | Modular
    if is_modular(path):  # `check` refuses options that it does not take
        with loading(path, held, "generator.model: "):
            pipeline = read_modular(path, config.variant, dtype)
    else:
        pipeline = _with_parts(config, files, parts, held, device, dtype)
    if has_layout and isinstance(layout := read_card(path).layout, AdapterLayout):
        with loading(path, held, "generator.model: "):
            pipeline = _with_adapter(pipeline, path / layout.folder, dtype)
    if devices.compiles(config.compile, device):
        devices.compile_blocks(denoiser_of(pipeline))
    pipeline.set_progress_bar_config(disable=True)
    devices.place(pipeline, device, config.offload)
    return pipeline


def _with_parts(
    config: Config, files: PipelineFiles, parts: Parts, held: Held, device: torch.device, dtype: torch.dtype
) -> DiffusionPipeline:
    """The pipeline with all that the spec puts into it, on the CPU. `held`: the sizes of its own weights."""
    for problem in parts.problems():
        raise BackendError(f"generator{problem}")
    quantizers = quantization(config, files, device, dtype)
    given: dict[str, Any] = {}
    for part in [*parts.components, *parts.companions().values()]:
        given |= _replacement(part, dtype, quantizers.pop(part.name, None))
    with loading(files.path(), held, "generator.model: "):
        pipeline = _read(config, files.path(), dtype, given, quantizers)
    add_embeddings(pipeline, parts.embeddings)
    add_loras(pipeline, parts.loras, parts.quantized)
    tune(pipeline, config, device, dtype)
    return pipeline


def _replacement(part: Component, dtype: torch.dtype, quantizer: Any) -> dict[str, Any]:
    """The argument of diffusers' `from_pretrained` that replaces or drops a part; a tokenizer goes with its encoder."""
    if part.value is None:
        return {part.name: None, part.name.replace("text_encoder", "tokenizer"): None}
    with loading(part.path(), part.inspect(), f"generator{part.field}: "):
        return {part.name: read_component(part, dtype, quantizer)}


def _read(
    config: Config, path: Path, dtype: torch.dtype, given: dict[str, Any], quantizers: dict[str, Any]
) -> DiffusionPipeline:
    """The pipeline, on the CPU.

    Args:
        given: parts that are not read from the folder.
        quantizers: how parts that are read from it are quantised.
    """
    import diffusers

    # A folder may name our autoencoder's class, and diffusers takes classes from imported modules only.
    import synthgen.mini.autoencoder  # noqa: F401

    index = json.loads((path / "model_index.json").read_bytes())
    # diffusers requires each component that is not passed as None, even if the folder's index says that it is None.
    explicit: dict[str, Any] = {name: None for name, value in index.items() if value == [None, None]} | given
    if not config.safety_checker and "safety_checker" in index:
        explicit |= {"safety_checker": None, "requires_safety_checker": False}
    if "XL" in index["_class_name"]:
        explicit["add_watermarker"] = False  # otherwise pixels would depend on whether a watermark package is installed
    if quantizers:
        explicit["quantization_config"] = diffusers.PipelineQuantizationConfig(quant_mapping=quantizers)
    pipeline = diffusers.DiffusionPipeline.from_pretrained(
        path, dtype=dtype, variant=config.variant, use_safetensors=True, local_files_only=True, **explicit
    )
    if config.scheduler:
        kind = getattr(diffusers, config.scheduler)
        pipeline.scheduler = kind.from_config(pipeline.scheduler.config, **config.scheduler_options)
    elif config.scheduler_options:
        pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, **config.scheduler_options)
    return pipeline


def _with_adapter(pipeline: DiffusionPipeline, folder: Path, dtype: torch.dtype) -> DiffusionPipeline:
    """The pipeline that takes layouts through a T2I-Adapter, with the same parts."""
    import diffusers

    name = type(pipeline).__name__
    if name not in ADAPTER_PIPELINES:
        raise BackendError(f"generator.model: {name} takes no T2I-Adapter; those that do: {listed(ADAPTER_PIPELINES)}")
    kind = getattr(diffusers, ADAPTER_PIPELINES[name])
    adapter = diffusers.T2IAdapter.from_pretrained(folder, dtype=dtype, use_safetensors=True, local_files_only=True)
    takes = inspect.signature(kind.__init__).parameters
    parts = {k: v for k, v in {**pipeline.config, **pipeline.components}.items() if k in takes}
    return kind(adapter=adapter, **parts)
