"""The files of the pipeline that a spec names: found and inspected without torch."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from synthgen.backends import Source
from synthgen.base.wording import plain, shown
from synthgen.errors import listed
from synthgen.generators._diffusion_config import Config
from synthgen.models import AdapterLayout, ModelIncomplete, find_model, read_card
from synthgen.models.inspection import inspect_file, inspect_pipeline
from synthgen.models.modular import inspect_modular, is_modular
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
        without = frozenset() if self.config.safety_checker else frozenset({"safety_checker"})
        return Source(self.config.model, self.config.revision, self.config.variant, without)

    def inspect(self) -> Held:
        """The sizes of the weights of those parts that this generator loads."""
        path = self.path()
        inspect_file(path / "synthgen.json", path)
        without = self.source().without
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
