"""What is known of each pipeline class of diffusers that makes images from text: see `Family` for what a row says, and
`table.py` for the rows. `check` and the generator go by it. It imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from synthgen.models import read_json
from synthgen.models.families.family import Family, Guidance
from synthgen.models.families.table import FAMILIES
from synthgen.models.modular import INDEX, MODULAR, is_modular
from synthgen.models.signatures import parameters

# Words in the names of classes that need more than a text, and what they need.
NEEDS = (
    ("Img2Img|Image2Image|I2I|Edit|Upscale|SuperResolution|Refiner|Redux|Variation|Depth2Img|Pix2Pix", "an image"),
    ("Inpaint|Fill", "an image and a mask"),
    ("ControlNet|Control(?=Pipeline)|Adapter", "a control image"),
    ("Video|Animate|V2V|T2V|I2V|Audio|Music", "frames or sound, and makes no single images"),
    ("Prior|Decoder", "the results of another pipeline"),
    ("Combined", "models of other folders"),
)


def family(pipeline: str) -> Family:
    """The row of a class; for a class without a row, what its name and its call's parameters tell."""
    return FAMILIES.get(pipeline) or _guessed(pipeline)


def is_known(pipeline: str) -> bool:
    """Whether the class has a row."""
    return pipeline in FAMILIES


UNKNOWN = "nobody has tested whether a call of this class takes a batch, and whether companions change an image"


@lru_cache
def _guessed(pipeline: str) -> Family:
    for pattern, need in NEEDS:
        if re.search(pattern, pipeline):
            return Family(pipeline, cfg=None, refused=f"it needs {need}, and this generator gives it texts")
    takes = call_parameters(pipeline)
    if takes is None:
        return Family(pipeline, singles=UNKNOWN)
    if "prompt" not in takes:
        return Family(pipeline, cfg=None, refused="its call takes no `prompt`")
    if "true_cfg_scale" in takes and "guidance_scale" in takes:
        return Family(
            pipeline, None, embedded="guidance_scale", embedded_if="guidance_embeds", option_cfg="true_cfg_scale",
            singles=UNKNOWN,
        )  # fmt: skip
    cfg = next((name for name in ("guidance_scale", "true_cfg_scale") if name in takes), None)
    return Family(pipeline, cfg, empty_negative=" " if cfg == "true_cfg_scale" else None, singles=UNKNOWN)


def pipeline_class(folder: Path) -> str:
    """The class that a pipeline's folder names. Raises: OSError, ValueError, KeyError: see `read_json`."""
    return str(read_json(folder / (INDEX if is_modular(folder) else "model_index.json"))["_class_name"])


def call_parameters(pipeline: str) -> Mapping[str, Any] | None:
    """The parameters of a class's call: name -> default. None: there is no such class."""
    if pipeline in MODULAR:
        return {**MODULAR[pipeline].inputs, "guidance_scale": None}
    return parameters(pipeline, "__call__", "pipelines")


def settings(part: Path) -> dict[str, Any]:
    """The settings of a pipeline's part; empty if they cannot be read."""
    try:
        return read_json(part / "config.json")
    except (OSError, ValueError):
        return {}


def denoiser(folder: Path) -> dict[str, Any]:
    """The settings of a pipeline's denoiser."""
    return settings(folder / "transformer") or settings(folder / "unet")


def guidance(row: Family, folder: Path) -> Guidance:
    """What the spec's scale does to the model in a folder."""
    if row.distilled_if and read_json(folder / "model_index.json").get(row.distilled_if):
        return Guidance(None, reason="this model was distilled, and ignores it")
    if row.embedded:
        set_to = denoiser(folder).get(row.embedded_if) if row.embedded_if else True
        if set_to is not None and set_to is not False:
            return Guidance(row.embedded)
    if row.guiders:
        index = read_json(folder / "model_index.json")
        if guiders := tuple(name for name in row.guiders if index.get(name) not in (None, [None, None])):
            return Guidance(f"{guiders[0]}.guidance_scale", row.above, guiders=guiders)
    if row.cfg:
        return Guidance(row.cfg, row.above)
    if row.embedded:
        return Guidance(None, reason="this model was distilled without guidance")
    return Guidance(None, reason="the class takes none")


def sides_multiple(row: Family, folder: Path) -> int | None:
    """The number of px that the sides of an image are multiples of; None if nothing is known."""
    if row.multiple:
        return row.multiple
    patch = denoiser(folder).get("patch_size") if row.patched else 2 if row.paired else 1
    return latent_side(folder) * (patch if isinstance(patch, int) else 1)


def latent_side(folder: Path) -> int:
    """The side of a latent in px: 1 if the pipeline has no autoencoder."""
    if not (folder / "vae").is_dir():
        return 1
    vae = settings(folder / "vae")
    # Each of diffusers' pipelines computes its `vae_scale_factor` in this way.
    blocks = vae.get("block_out_channels") or vae.get("encoder_block_out_channels") or [0] * 4
    halved = vae.get("temperal_downsample") or blocks[1:]
    return 2 ** len(halved) if isinstance(halved, list) and len(halved) < 8 else 8
