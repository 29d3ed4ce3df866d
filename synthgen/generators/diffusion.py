"""Any diffusers pipeline, from a Hugging Face id or a folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from synthgen import devices
from synthgen.backends import Generator, Model, Request
from synthgen.errors import Problem
from synthgen.generators import _diffusion_tuning
from synthgen.generators._diffusion_call import Call
from synthgen.generators._diffusion_checks import Checks
from synthgen.generators._diffusion_config import Config
from synthgen.generators._diffusion_files import PipelineFiles
from synthgen.generators._diffusion_flat import FirstImages
from synthgen.generators._diffusion_layouts import with_layouts
from synthgen.generators._diffusion_loading import load
from synthgen.generators._diffusion_parts import Parts
from synthgen.generators._modular import Modular
from synthgen.models import ModelCard, read_card
from synthgen.models.families import family, guidance
from synthgen.models.families.family import Family, Guidance
from synthgen.models.layouts import layout_of
from synthgen.models.modular import is_modular
from synthgen.types import Job

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

__all__ = ["Backend", "Config"]


class Backend(Generator[Config]):
    """Makes images with a diffusers pipeline.

    A layout reaches the model in the form that its `synthgen.json` declares, or else in the form that all models of
    its class take. See `_diffusion_layouts.py`.
    """

    @cached_property
    def _files(self) -> PipelineFiles:
        return PipelineFiles(self.config)

    @cached_property
    def _parts(self) -> Parts:
        return Parts(self.config, self._files)

    @cached_property
    def _compiles(self) -> bool:
        return devices.compiles(self.config.compile, devices.torch_device(self.config.device))

    @cached_property
    def _first(self) -> FirstImages:
        return FirstImages(self.config)

    @property
    def _card(self) -> ModelCard:
        return read_card(self._files.path())

    @cached_property
    def _row(self) -> Family:
        return family(self._files.kind)

    @cached_property
    def _guidance(self) -> Guidance:
        return guidance(self._row, self._files.path())

    def models(self) -> Sequence[Model]:
        return [self._files, *self._parts.models()]

    def identity(self) -> str:
        """The weights, and what the row of the pipeline's class recommends where the spec gives nothing."""
        weights = super().identity()
        try:
            return weights + self.config.recommended(self._row)
        except (OSError, ValueError, KeyError):  # no pipeline, as `check` says
            return weights

    def aspect_ratios(self) -> Mapping[str, tuple[float, float]]:
        known = self._card.classes or {}
        return {name: k.aspect_ratio for name, k in known.items() if k.aspect_ratio}

    def check(self, request: Request) -> Iterable[Problem]:
        if problems := list(self._files.problems()):
            return problems
        if not is_modular(self._files.path()):  # otherwise all these options are refused
            problems = [*self._parts.problems(), *_diffusion_tuning.problems(self.config, self._files)]
        return problems or self._checks(request).problems()

    def advice(self, request: Request) -> Iterable[Problem]:
        return self._checks(request).advice()

    def _checks(self, request: Request) -> Checks:
        path = self._files.path()
        added = {} if is_modular(path) else self._parts.words()
        return Checks(self.config, path, self.categories, request, added)

    def generate(self, jobs: Sequence[Job]) -> NDArray[np.uint8]:
        made = len(jobs)
        if self._compiles and not self._row.singles:
            jobs = [*jobs, *[jobs[-1]] * (devices.padded_size(made, self.config.batch_size) - made)]
        layout: Mapping[str, Any] = {}
        if jobs[0].layout is not None:
            form = layout_of(self._files.path(), self._row.pipeline)
            assert form is not None  # `check` requires it
            jobs, layout = with_layouts(jobs, form, {c.id: c.name for c in self.categories})
        pipeline = self.pipeline("image" in layout)
        call = Call(pipeline, self._row, self._guidance, self.config.settings(self._row))
        images = call.images(jobs, layout)[:made]
        self._first.require_picture(images, pipeline)
        return images

    def pipeline(self, has_layout: bool) -> DiffusionPipeline | Modular:
        """The pipeline, with an adapter if jobs have layouts; a process loads it once."""
        key = (self.config.model_dump_json(), has_layout)
        pipeline = devices.resident(key, lambda: load(self.config, self._files, self._parts, has_layout))
        _diffusion_tuning.forget_steps(pipeline, self.config)
        return pipeline
