"""Loads a diffusers pipeline from a folder, changes it as a spec says, and places it on the device."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthgen import devices
from synthgen.errors import BackendError, listed
from synthgen.generators._diffusion_checks import ADAPTER_PIPELINES
from synthgen.generators._diffusion_config import Config
from synthgen.generators._diffusion_files import PipelineFiles
from synthgen.generators._modular import Modular, read_modular
from synthgen.models import AdapterLayout, ModelMissing, read_card
from synthgen.models.loading import loading
from synthgen.models.modular import is_modular

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline


def load(config: Config, files: PipelineFiles, has_layout: bool) -> DiffusionPipeline | Modular:
    """The pipeline on the device that computes, with an adapter if jobs have layouts.

    Raises:
        BackendError: it is not on this machine, must not be loaded, or could not be loaded.
    """
    device = devices.torch_device(config.device)
    try:
        path, held = files.path(), files.inspect()
    except (BackendError, ModelMissing) as error:
        raise BackendError(f"generator.model: {error}") from error
    dtype = devices.torch_dtype(config.torch_dtype, device)
    pipeline: DiffusionPipeline | Modular
    with loading(path, held, "generator.model: "):
        if is_modular(path):
            pipeline = read_modular(path, config.variant, dtype)
        else:
            pipeline = _read(config, path, has_layout, dtype)
    if devices.compiles(config.compile, device):
        devices.compile_blocks(getattr(pipeline, "transformer", None) or getattr(pipeline, "unet", None))
    pipeline.set_progress_bar_config(disable=True)
    devices.place(pipeline, device, config.offload)
    return pipeline


def _read(config: Config, path: Path, has_layout: bool, dtype: torch.dtype) -> DiffusionPipeline:
    """The pipeline, on the CPU."""
    import diffusers

    # A folder may name our autoencoder's class, and diffusers takes classes from imported modules only.
    import synthgen.mini.autoencoder  # noqa: F401

    card = read_card(path)
    index = json.loads((path / "model_index.json").read_bytes())
    # diffusers requires each component that is not passed as None, even if the folder's index says that it is None.
    explicit: dict[str, Any] = {name: None for name, value in index.items() if value == [None, None]}
    if not config.safety_checker and "safety_checker" in index:
        explicit |= {"safety_checker": None, "requires_safety_checker": False}
    if "XL" in index["_class_name"]:
        explicit["add_watermarker"] = False  # otherwise pixels would depend on whether a watermark package is installed
    pipeline = diffusers.DiffusionPipeline.from_pretrained(
        path, dtype=dtype, variant=config.variant, use_safetensors=True, local_files_only=True, **explicit
    )
    if config.scheduler:
        kind = getattr(diffusers, config.scheduler)
        pipeline.scheduler = kind.from_config(pipeline.scheduler.config, **config.scheduler_options)
    elif config.scheduler_options:
        pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, **config.scheduler_options)
    if has_layout and isinstance(card.layout, AdapterLayout):
        name = type(pipeline).__name__
        if name not in ADAPTER_PIPELINES:
            raise BackendError(
                f"generator.model: {name} takes no T2I-Adapter; those that do: {listed(ADAPTER_PIPELINES)}"
            )
        kind = getattr(diffusers, ADAPTER_PIPELINES[name])
        adapter = diffusers.T2IAdapter.from_pretrained(
            path / card.layout.folder, dtype=dtype, use_safetensors=True, local_files_only=True
        )
        takes = inspect.signature(kind.__init__).parameters
        parts = {k: v for k, v in {**pipeline.config, **pipeline.components}.items() if k in takes}
        pipeline = kind(adapter=adapter, **parts)
    return pipeline
