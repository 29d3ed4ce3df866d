"""Stops a run whose model makes no pictures at all: its first images are black, flat or no numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from synthgen.errors import BackendError
from synthgen.generators._diffusion_config import Config

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

FLAGGED = 8  # A safety checker may turn any image black; so many in a row, and no other one, are no coincidence.


class FirstImages:
    """Looks at images until one of them is a picture."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.is_good = False
        self.flagged = 0

    def require_picture(self, images: NDArray[np.uint8], pipeline: DiffusionPipeline) -> None:
        """Looks at the images of a batch, (B, H, W, C).

        Raises:
            BackendError: none of the images until now is a picture. The message says the likely cause.
        """
        if self.is_good:
            return
        lows, highs = images.min(axis=(1, 2)), images.max(axis=(1, 2))  # of each image and channel
        if (lows != highs).any():
            self.is_good = True
            return
        is_black = not highs.any()
        if is_black and getattr(pipeline, "safety_checker", None) is not None:
            self.flagged += len(images)
            if self.flagged < FLAGGED:
                return
            raise BackendError(
                f"generator.safety_checker: the first {self.flagged} images are black: the model's safety checker has "
                "replaced them; change the prompts, or set `safety_checker: false`"
            )
        found = "black" if is_black else "of one colour"
        raise BackendError(f"generator: every image of the first batch is {found}; {self._mend(pipeline)}")

    def _mend(self, pipeline: DiffusionPipeline) -> str:
        """What to change: the likely cause first."""
        import torch

        config = self.config
        vae = getattr(pipeline, "vae", None)
        mends = []
        if getattr(vae, "dtype", None) == torch.float16:
            mends.append("float16 is too narrow for some autoencoders: set `torch_dtype: bfloat16` or float32")
            if "XL" in type(pipeline).__name__:
                mends[-1] += ", or `components: {vae: madebyollin/sdxl-vae-fp16-fix}`"
        for key in ("quantize", "loras", "components", "cache"):
            if getattr(config, key):
                mends.append(f"try it without `{key}`")
        if config.scheduler or config.scheduler_options:
            mends.append("try it without `scheduler` and `scheduler_options`")
        mends.append("the weights may be damaged: fetch them again")
        return "; or ".join(mends)
