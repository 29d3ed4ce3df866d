"""Calls a loaded pipeline of diffusers: a batch of jobs becomes images."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from synthgen import devices
from synthgen.errors import BackendError, nearest
from synthgen.generators._diffusion_config import Settings
from synthgen.generators._long_prompts import LongPrompts
from synthgen.generators._modular import Modular
from synthgen.models.families.family import Family, Guidance
from synthgen.types import Job

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

# Images with at least `SLICED` pixels are decoded one after the other, since decoding needs the most memory. Images
# with at least `TILED` pixels are also decoded in tiles, which changes the picture a little at the seams.
SLICED, TILED = 1024 * 1024, 2048 * 2048
WHITE = 255


class Call:
    """The calls of one pipeline.

    Args:
        row: of the pipeline's class.
        guidance: what the scale does to this model.
    """

    def __init__(
        self, pipeline: DiffusionPipeline | Modular, row: Family, guidance: Guidance, settings: Settings
    ) -> None:
        self.pipeline, self.row, self.guidance, self.settings = pipeline, row, guidance, settings
        self.takes: Collection[str] = (
            pipeline.takes if isinstance(pipeline, Modular) else inspect.signature(type(pipeline).__call__).parameters
        )
        self.long_prompts = None
        if settings.long_prompts and not isinstance(pipeline, Modular):  # which `check` requires
            self.long_prompts = LongPrompts(pipeline)

    def images(self, jobs: Sequence[Job], layout: Mapping[str, Any] | None = None) -> NDArray[np.uint8]:
        """The images of a batch of jobs of one size.

        Args:
            layout: the arguments that give the layouts, each with an entry for each job.

        Returns:
            uint8 (B, H, W, 3), RGB; or (B, H, W, 4), RGBA, where the model makes transparent images. The colours of
            these are those over white, so that a reader that ignores the alpha channel gets an opaque picture.

        Raises:
            BackendError: the pipeline does not take an argument.
        """
        groups = self._groups(jobs)
        if len(groups) == 1:
            return self._batch(jobs, layout)
        images = [self._batch([jobs[i] for i in g], _chosen(layout or {}, g)) for g in groups]
        order = np.argsort(np.concatenate(groups))
        return np.concatenate(images)[order]

    def _groups(self, jobs: Sequence[Job]) -> list[list[int]]:
        """The positions of jobs that share a call. Companions must not change an image, so prompts share a call only
        if they are encoded in equal numbers of pieces."""
        if self.row.singles:
            return [[i] for i in range(len(jobs))]
        if self.long_prompts is None:
            return [list(range(len(jobs)))]
        pieces = [self._pieces(job) for job in jobs]
        return [[i for i, n in enumerate(pieces) if n == number] for number in sorted(set(pieces))]

    def _pieces(self, job: Job) -> int:
        assert self.long_prompts is not None
        return max(map(self.long_prompts.pieces, (job.prompt, job.negative_prompt)))

    def _batch(self, jobs: Sequence[Job], layout: Mapping[str, Any] | None) -> NDArray[np.uint8]:
        import torch

        arguments = self._arguments(jobs, layout)
        for name in list(arguments):
            if name in {"output_type", "return_dict"} and name not in self.takes:
                del arguments[name]
            elif name not in self.takes:
                raise BackendError(
                    f"generator: {type(self.pipeline).__name__} takes no {name!r}{nearest(name, self.takes)}"
                )
        self._decode_in_parts(jobs[0].height * jobs[0].width)
        device = devices.torch_device(self.settings.device)
        with warnings.catch_warnings(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            # Pipelines of diffusers call deprecated functions of both libraries; users cannot change that.
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"(diffusers|transformers)\.")
            # Some schedulers draw noise from torch's global generator. It must not be that of the first image again.
            torch.manual_seed(jobs[0].seed if self.row.global_seed else jobs[0].seed ^ 1)
            with self._guided():
                results = self.pipeline(**arguments)[0]
        return over_white(_bytes(results))

    def _arguments(self, jobs: Sequence[Job], layout: Mapping[str, Any] | None) -> dict[str, Any]:
        import torch

        def many(values: list[Any]) -> Any:
            return values[0] if self.row.singles else values

        settings, row = self.settings, self.row
        arguments: dict[str, Any] = {
            "prompt": many([job.prompt for job in jobs]),
            "height": jobs[0].height,
            "width": jobs[0].width,
            "num_inference_steps": settings.num_inference_steps,
            "generator": many([torch.Generator("cpu").manual_seed(job.seed) for job in jobs]),
            # Pipelines without an image processor of diffusers differ in the contents of their tensors.
            "output_type": row.output or ("pt" if hasattr(self.pipeline, "image_processor") else "np"),
            "return_dict": False,
            **row.arguments,
        }
        if row.area:
            arguments[row.area] = jobs[0].height * jobs[0].width
        if row.other_steps and settings.num_inference_steps != row.recommended[-1].num_inference_steps:
            arguments |= row.other_steps
        scale = settings.guidance_scale
        if self.guidance.argument and not self.guidance.guiders and scale is not None:
            arguments |= {self.guidance.argument: scale, **row.with_scale}
        arguments |= settings.call_options
        empty = row.empty_negative
        needs_negative = empty is not None and self.guidance.is_on(scale)
        if any(job.negative_prompt for job in jobs) or needs_negative:
            arguments["negative_prompt"] = many([job.negative_prompt or empty or "" for job in jobs])
        for name, entries in (layout or {}).items():
            arguments[name] = many(entries) if isinstance(entries, list) else entries
        if self.long_prompts is not None:
            del arguments["prompt"]
            negatives = arguments.pop("negative_prompt", [""] * len(jobs))
            prompts = [job.prompt for job in jobs]
            arguments |= self.long_prompts.arguments(prompts, negatives, self._pieces(jobs[0]))
        return arguments

    @contextmanager
    def _guided(self) -> Iterator[None]:
        """Gives the scale to the parts of the pipeline that guide it, if its call has no argument for that."""
        scale = self.settings.guidance_scale
        own = {name: getattr(self.pipeline, name) for name in self.guidance.guiders if scale is not None}
        try:
            for name, guider in own.items():
                setattr(self.pipeline, name, guider.new(guidance_scale=scale))
            yield
        finally:
            for name, guider in own.items():
                setattr(self.pipeline, name, guider)

    def _decode_in_parts(self, pixels: int) -> None:
        vae: Any = getattr(self.pipeline, "vae", None)
        if pixels >= SLICED and hasattr(vae, "enable_slicing"):
            vae.enable_slicing()
        if pixels >= TILED and hasattr(vae, "enable_tiling"):
            vae.enable_tiling()


def _chosen(layout: Mapping[str, Any], positions: list[int]) -> dict[str, Any]:
    """The entries of some jobs, of lists and of tensors."""
    return {k: [v[i] for i in positions] if isinstance(v, list) else v[positions] for k, v in layout.items()}


def _bytes(results: Any) -> NDArray[np.uint8]:
    """A pipeline's images as uint8 (B, H, W, C): from a tensor (B, C, H, W) or an array (B, H, W, C) in [0, 1], or
    from pictures of Pillow."""
    if hasattr(results, "permute"):
        # This rounds as diffusers does for PIL, but on the device, so that a quarter of the bytes are copied.
        rounded = (results.float() * 255).round_().byte().permute(0, 2, 3, 1).contiguous()
        return np.asarray(devices.to_numpy(rounded), np.uint8)
    if isinstance(results, np.ndarray):
        return (results * 255).round().astype(np.uint8)
    if len(results) and hasattr(results[0], "permute"):
        return np.concatenate([_bytes(one if one.ndim == 4 else one[None]) for one in results])
    return np.stack([np.asarray(one) if hasattr(one, "getbands") else _bytes(one) for one in results])


def over_white(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Images uint8 (B, H, W, C). The colours of RGBA become those over white; others stay as they are."""
    if images.shape[-1] != 4:
        return images
    alpha = images[..., 3:].astype(np.uint16)
    colours = (images[..., :3] * alpha + WHITE * (255 - alpha) + 127) // 255
    return np.concatenate([colours.astype(np.uint8), images[..., 3:]], -1)
