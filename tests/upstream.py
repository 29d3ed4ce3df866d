"""The `diffusion` generator and diffusers' own call, side by side, on tiny models."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from tiny import SIDE

from synthgen import devices
from synthgen.backends import Request
from synthgen.generators import diffusion
from synthgen.types import Category, Job

CATEGORIES = (Category(1, "apple"), Category(2, "car"))
REQUEST = Request(SIDE, SIDE, has_layout=False, words=frozenset({"a", "cup"}))
STEPS = 3
PROMPTS = ("a red cup, on a table", "a blue cup")


def jobs(*prompts: str) -> list[Job]:
    return [
        Job(i + 1, 1, 1, i, "f", "train", prompt, "", {}, (), None, 1000 + i, SIDE, SIDE)
        for i, prompt in enumerate(prompts or PROMPTS)
    ]


def backend(model: Path, **options: Any) -> diffusion.Backend:
    given = {"num_inference_steps": STEPS, "guidance_scale": 4.0, "torch_dtype": "float32", "device": "cpu", **options}
    return diffusion.Backend(diffusion.Config(use="diffusion", model=str(model), **given), CATEGORIES)


def problems(model: Path, **options: Any) -> dict[str, str]:
    """What `check` says: field -> message."""
    return {problem.field: problem.message for problem in backend(model, **options).check(REQUEST)}


def images(model: Path, *prompts: str, **options: Any) -> np.ndarray:
    """What the generator makes of a spec that `check` finds good."""
    devices.forget(devices.loaded())
    made = backend(model, **options)
    assert not list(made.check(REQUEST))
    return made.generate(jobs(*prompts))


def upstream(
    model: Path,
    *prompts: str,
    change: Callable[[Any], Any] = lambda _: None,
    given: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
    steps: int = STEPS,
) -> np.ndarray:
    """What diffusers' own call makes.

    Args:
        change: what is done to the loaded pipeline.
        given: further arguments of `from_pretrained`, such as parts.
    """
    pipeline = diffusers.DiffusionPipeline.from_pretrained(model, dtype=dtype, local_files_only=True, **(given or {}))
    change(pipeline)
    pipeline.set_progress_bar_config(disable=True)
    made = jobs(*prompts)
    pictures = pipeline(
        [job.prompt for job in made], num_inference_steps=steps, guidance_scale=4.0, height=SIDE, width=SIDE,
        generator=[torch.Generator("cpu").manual_seed(job.seed) for job in made],
    ).images  # fmt: skip
    return np.stack([np.asarray(picture) for picture in pictures])
