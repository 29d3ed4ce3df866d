"""Any diffusers pipeline, from a Hugging Face id or a folder."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from synthgen import devices
from synthgen.backends import Generator, Model, Request
from synthgen.errors import BackendError, Problem, nearest
from synthgen.generators._diffusion_checks import Checks
from synthgen.generators._diffusion_config import Config
from synthgen.generators._diffusion_files import PipelineFiles
from synthgen.generators._diffusion_loading import load
from synthgen.models import ModelCard, read_card
from synthgen.types import Job

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

__all__ = ["Backend", "Config"]

# Images with at least `SLICED` pixels are decoded one after the other, since decoding needs the most memory. Images
# with at least `TILED` pixels are also decoded in tiles, which changes the picture a little at the seams.
SLICED, TILED = 1024 * 1024, 2048 * 2048


class Backend(Generator[Config]):
    """Makes images with a diffusers pipeline.

    A layout reaches the model in the form that its `synthgen.json` declares. So far the only form is a T2I-Adapter
    (arXiv 2302.08453), which gets an image with boxes filled with their class's colour.
    """

    @cached_property
    def _files(self) -> PipelineFiles:
        return PipelineFiles(self.config)

    @cached_property
    def _compiles(self) -> bool:
        return devices.compiles(self.config.compile, devices.torch_device(self.config.device))

    @property
    def _card(self) -> ModelCard:
        return read_card(self._files.path())

    def models(self) -> Sequence[Model]:
        return [self._files]

    def aspect_ratios(self) -> Mapping[str, tuple[float, float]]:
        known = self._card.classes or {}
        return {name: k.aspect_ratio for name, k in known.items() if k.aspect_ratio}

    def check(self, request: Request) -> Iterable[Problem]:
        if problems := list(self._files.problems()):
            return problems
        return Checks(self.config, self._files.path(), self.categories, request).problems()

    def advice(self, request: Request) -> Iterable[Problem]:
        return Checks(self.config, self._files.path(), self.categories, request).advice()

    def generate(self, jobs: Sequence[Job]) -> NDArray[np.uint8]:
        made = len(jobs)
        if self._compiles:
            jobs = [*jobs, *[jobs[-1]] * (devices.padded_size(made, self.config.batch_size) - made)]
        images = self._call(jobs)
        if isinstance(images, np.ndarray):
            return (images[:made] * 255).round().astype(np.uint8)
        # This rounds as diffusers does for PIL, but on the device, so that a quarter of the bytes are copied.
        rounded = (images[:made].float() * 255).round_().byte().permute(0, 2, 3, 1).contiguous()
        return np.asarray(devices.to_numpy(rounded), np.uint8)

    def _call(self, jobs: Sequence[Job]) -> torch.Tensor | NDArray[np.float32]:
        """The pipeline's images, in [0, 1]: a tensor (B, 3, H, W) on its device, or an array (B, H, W, 3)."""
        import torch

        has_layout = jobs[0].layout is not None
        pipeline = self.pipeline(has_layout)
        arguments: dict[str, Any] = {
            "prompt": [job.prompt for job in jobs],
            "height": jobs[0].height,
            "width": jobs[0].width,
            "num_inference_steps": self.config.num_inference_steps,
            "guidance_scale": self.config.guidance_scale,
            "generator": [torch.Generator("cpu").manual_seed(job.seed) for job in jobs],
            # Pipelines without an image processor of diffusers differ in the contents of their tensors.
            "output_type": "pt" if hasattr(pipeline, "image_processor") else "np",
            **self.config.call_options,
        }
        if any(job.negative_prompt for job in jobs):
            arguments["negative_prompt"] = [job.negative_prompt for job in jobs]
        if has_layout:
            arguments["image"] = self.layout_images(jobs)
        known = inspect.signature(type(pipeline).__call__).parameters
        for name in arguments:
            if name not in known:
                raise BackendError(f"generator: {type(pipeline).__name__} takes no {name!r}{nearest(name, known)}")
        vae: Any = getattr(pipeline, "vae", None)
        pixels = jobs[0].height * jobs[0].width
        if pixels >= SLICED and hasattr(vae, "enable_slicing"):
            vae.enable_slicing()
        if pixels >= TILED and hasattr(vae, "enable_tiling"):
            vae.enable_tiling()
        with warnings.catch_warnings():
            # Pipelines of diffusers call deprecated functions of diffusers; users cannot change that.
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"diffusers\.")
            images: torch.Tensor | NDArray[np.float32] = pipeline(**arguments).images
        return images

    def layout_images(self, jobs: Sequence[Job]) -> torch.Tensor:
        """The layouts drawn in the card's palette, 0 outside the boxes: float32 (B, C, H/d, W/d), where C is the number
        of channels of the palette and d the card's `downscale`."""
        import torch
        from torch.nn.functional import avg_pool2d

        layout = self._card.layout
        assert layout is not None  # `check` requires it
        names = {c.id: c.name for c in self.categories}
        channels = len(next(iter(layout.palette.values())))
        images = np.zeros((len(jobs), jobs[0].height, jobs[0].width, channels), np.float32)
        for image, job in zip(images, jobs, strict=True):
            for category_id, (x0, y0, x1, y1) in zip(job.asked, job.layout or (), strict=True):
                image[y0:y1, x0:x1] = layout.palette[names[category_id]]
        return avg_pool2d(torch.from_numpy(images).permute(0, 3, 1, 2), layout.downscale)

    def pipeline(self, has_layout: bool) -> DiffusionPipeline:
        """The pipeline, with an adapter if jobs have layouts; a process loads it once."""
        return devices.resident(
            (self.config.model_dump_json(), has_layout), lambda: load(self.config, self._files, has_layout)
        )
