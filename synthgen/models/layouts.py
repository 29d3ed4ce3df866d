"""The forms in which a layout reaches a model natively: as boxes, or in a caption of JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from synthgen.models import AdapterLayout, NativeLayout, read_card
from synthgen.types import Job

# The classes of diffusers whose models were all trained with a layout. Such a model needs no card.
NATIVE = {
    "Flux3ModularPipeline": NativeLayout(form="boxes"),
    "Flux3DistilledModularPipeline": NativeLayout(form="boxes"),
    "Ideogram4Pipeline": NativeLayout(form="json_caption"),
    "Ideogram4ModularPipeline": NativeLayout(form="json_caption"),
}
GRID = 1000  # cells of a side of the grid that captions of JSON give boxes on


def layout_of(folder: Path, pipeline: str) -> AdapterLayout | NativeLayout | None:
    """How a model takes layouts: as its card says, or else as its class does. None: it takes none.

    Args:
        pipeline: the class that the folder names.
    """
    return read_card(folder).layout or NATIVE.get(pipeline)


def boxes(job: Job, names: Mapping[int, str]) -> list[dict[str, Any]]:
    """A job's layout as the argument `boxes` of FLUX.3. Each entry has `bbox`, [y0, x0, y1, x1] as shares of the
    image's sides, `desc`, the class, and `id`. The ids number the objects of a class from left to right, and then from
    top to bottom, as in the captions that the model was trained on (`SYSTEM_PROMPTS["t2i_bbox"]` in diffusers'
    `modular_pipelines/flux3/prompt_upsampler.py`).

    Args:
        names: category id -> class.
    """
    asked = list(zip(job.layout or (), job.asked, strict=True))
    numbers = {name: count(1) for name in names.values()}
    ids: dict[int, str] = {}
    for i in sorted(range(len(asked)), key=lambda i: asked[i][0][:2]):
        name = names[asked[i][1]]
        ids[i] = f"{'_'.join(name.split())}_{next(numbers[name])}"
    h, w = job.height, job.width
    return [
        {"id": ids[i], "bbox": [y0 / h, x0 / w, y1 / h, x1 / w], "desc": names[category_id]}
        for i, ((x0, y0, x1, y1), category_id) in enumerate(asked)
    ]


def json_caption(job: Job, names: Mapping[int, str]) -> str:
    """A job's prompt and layout as a caption of Ideogram 4: compact JSON, with its keys in the order of the captions
    that the model was trained on, and boxes [y0, x0, y1, x1] on a grid of 1000 x 1000
    (https://github.com/ideogram-oss/ideogram4/blob/master/docs/prompting.md).

    The background, which a caption must have, is what fills the slots of the job's template; where the template has no
    slots, it is the prompt.

    Args:
        names: category id -> class.
    """

    def on_grid(position: int, side: int) -> int:
        return round(position / side * GRID)

    h, w = job.height, job.width
    elements = [
        {
            "type": "obj",
            "bbox": [on_grid(y0, h), on_grid(x0, w), on_grid(y1, h), on_grid(x1, w)],
            "desc": names[category_id],
        }
        for (x0, y0, x1, y1), category_id in zip(job.layout or (), job.asked, strict=True)
    ]
    caption = {
        "high_level_description": job.prompt,
        "compositional_deconstruction": {
            "background": ", ".join(job.slots.values()) or job.prompt,
            "elements": elements,
        },
    }
    return json.dumps(caption, ensure_ascii=False, separators=(",", ":"))
