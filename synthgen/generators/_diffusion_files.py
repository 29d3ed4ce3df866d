"""The files of the pipeline that a spec names: found and inspected without torch."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from synthgen.backends import Source
from synthgen.base.wording import plain, shown
from synthgen.errors import listed
from synthgen.generators._diffusion_config import Config, denoiser_class
from synthgen.models import AdapterLayout, ModelIncomplete, find_model, read_card
from synthgen.models.families import pipeline_class
from synthgen.models.inspection import inspect_file, inspect_pipeline
from synthgen.models.modular import inspect_modular, is_modular, part_classes
from synthgen.models.named import ModelFiles
from synthgen.models.weights import Held


class PipelineFiles(ModelFiles):
    """The pipeline that a spec names: a folder of diffusers."""

    config: Config

    def __init__(self, config: Config) -> None:
        self.config = config

    @cached_property
    def _path(self) -> Path:
        return find_model(self.config.model, "diffusion", self.config.revision, self.config.variant)

    def path(self) -> Path:
        return self._path

    def source(self) -> Source:
        """The parts that are not read from this folder need not be fetched. A single file needs the part's settings."""
        components = self.config.components
        of_files = {name for name, value in components.items() if (value or "").endswith((".safetensors", ".gguf"))}
        without = components.keys() - of_files
        without |= {name.replace("text_encoder", "tokenizer") for name, value in components.items() if value is None}
        without |= {"safety_checker"} if not self.config.safety_checker else set()
        config = self.config
        return Source(config.model, config.revision, config.variant, frozenset(without), frozenset(of_files))

    @cached_property
    def kind(self) -> str:
        """The pipeline's class, from the folder's index."""
        return pipeline_class(self.path())

    @cached_property
    def parts(self) -> Mapping[str, str]:
        """Name -> class of each part that the folder's index names."""
        return part_classes(self.path())

    @property
    def denoiser(self) -> tuple[str, str]:
        """Name and class of the part that computes every step; empty texts for a pipeline that calls it otherwise."""
        return denoiser_class(self.parts)

    def inspect(self) -> Held:
        """The sizes of the weights of those parts that are loaded from this folder."""
        path = self.path()
        inspect_file(path / "synthgen.json", path)
        without = self.source().without | self.source().settings_only
        layout = read_card(path).layout
        adapter = layout.folder if isinstance(layout, AdapterLayout) else None
        if is_modular(path):
            inspected = inspect_modular(path, self.config.variant)
        else:
            inspected = inspect_pipeline(path, self.config.variant, without, adapter)
        if inspected.missing:
            message = f"{shown(self.config.model)} is not whole on this machine; missing: {listed(inspected.missing)}"
            raise ModelIncomplete(plain(message, 500))
        return inspected.held
