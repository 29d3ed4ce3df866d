"""What the tiny models of pipeline classes have in common."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import torch


@dataclass(frozen=True)
class Animal:
    """A tiny model of a pipeline class, with upstream's own way to call it.

    Attributes:
        pipeline: the class's name in diffusers.
        make: builds the pipeline with random weights.
        side: the height and width in px of its pictures.
        prompts: three prompts of which the tokenizers know every piece.
        guidance_scale: the generator's option that guides it; None if the class cannot be guided.
        call: the arguments of upstream's call that do the same, from the class's documentation and never from
            `families.py`; a list of negative prompts has one for each image. `prompt`, `height`, `width`,
            `num_inference_steps` and `generator` are added to them.
        options: further options of the generator; `call` has the arguments that do the same.
        steps: the number of denoising steps.
    """

    pipeline: str
    make: Callable[[], Any]
    side: int = 32
    prompts: tuple[str, str, str] = ("a red cup, on a table", "a blue cup", "two green cars")
    guidance_scale: float | None = 4.0
    call: Mapping[str, Any] = field(default_factory=lambda: {"guidance_scale": 4.0})
    options: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 2

    def save(self, folder: Path) -> Path:
        """Saves the model as `save_pretrained` does. The same weights every time."""
        torch.manual_seed(0)
        self.make().save_pretrained(folder)
        return folder

    def load(self, folder: Path) -> Callable[..., Any]:
        """The pipeline as upstream loads it. A call gives an object with `images`."""
        index = json.loads((folder / "model_index.json").read_bytes())
        absent = {name: None for name, value in index.items() if value == [None, None]}
        if "XL" in self.pipeline:
            absent["add_watermarker"] = False
        pipeline = getattr(diffusers, self.pipeline).from_pretrained(folder, local_files_only=True, **absent)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline
