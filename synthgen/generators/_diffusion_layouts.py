"""How the layouts of jobs reach a pipeline's call.

A T2I-Adapter (arXiv 2302.08453) takes them as pictures, in which boxes are filled with their class's colour. Other
models take them as boxes, or in a prompt that is a caption of JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from synthgen.models import AdapterLayout, NativeLayout
from synthgen.models.layouts import boxes, json_caption
from synthgen.types import Job

if TYPE_CHECKING:
    import torch


def with_layouts(
    jobs: Sequence[Job], form: AdapterLayout | NativeLayout, names: Mapping[int, str]
) -> tuple[list[Job], dict[str, Any]]:
    """The jobs, with captions in place of their prompts where the model takes layouts in these; and the arguments that
    give the layouts of others, each with an entry for each job.

    Args:
        jobs: jobs of one size, with layouts.
        form: how the model takes layouts.
        names: category id -> class.
    """
    if isinstance(form, AdapterLayout):
        return list(jobs), {"image": layout_images(jobs, form, names)}
    if form.form == "boxes":
        return list(jobs), {"boxes": [boxes(job, names) for job in jobs]}
    return [replace(job, prompt=json_caption(job, names)) for job in jobs], {}


def layout_images(jobs: Sequence[Job], form: AdapterLayout, names: Mapping[int, str]) -> torch.Tensor:
    """The layouts drawn in the card's palette, 0 outside the boxes: float32 (B, C, H/d, W/d), where C is the number
    of channels of the palette and d the card's `downscale`."""
    import torch
    from torch.nn.functional import avg_pool2d

    channels = len(next(iter(form.palette.values())))
    images = np.zeros((len(jobs), jobs[0].height, jobs[0].width, channels), np.float32)
    for image, job in zip(images, jobs, strict=True):
        for category_id, (x0, y0, x1, y1) in zip(job.asked, job.layout or (), strict=True):
            image[y0:y1, x0:x1] = form.palette[names[category_id]]
    return avg_pool2d(torch.from_numpy(images).permute(0, 3, 1, 2), form.downscale)
