"""Small images of a run for a page to embed, with outlines of their labels that a person can switch off."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from synthgen.base.colours import class_colour
from synthgen.errors import RunError
from synthgen.masks import mask_path
from synthgen.pipeline.build import Build
from synthgen.pipeline.label import judged_samples
from synthgen.types import Sample

if TYPE_CHECKING:
    import pandas as pd

LONG_PX = 224  # the longer side of a thumbnail, at most


@dataclass(frozen=True, slots=True)
class Outline:
    """A label to draw.

    Attributes:
        path: the `d` of an SVG path, in px of the image.
        box: xyxy, px of the image.
        colour, ink: of the class, and of text on it, in CSS.
    """

    instance: int
    category_id: int
    name: str
    verdict: str
    path: str
    box: tuple[float, float, float, float]
    colour: str
    ink: str


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """`source`: a data URL. `height`, `width`: of the full image, px; outlines are in these px."""

    image_id: int
    source: str
    height: int
    width: int
    outlines: tuple[Outline, ...]


def thumbnails(build: Build, image_ids: set[int]) -> dict[int, Thumbnail]:
    """The thumbnails of some images, by id. Shards without any of them are not read."""
    rows = build.run.tables.read(build.run.paths.verdicts, image_ids=image_ids).to_pandas()
    judged = judged_labels(rows)
    names = {c.id: c.name for c in build.spec.categories}
    found = {}
    for shard in sorted(set(rows["shard"])):
        for sample in judged_samples(build, int(shard), image_ids):
            height, width = sample.image.shape[:2]
            drawn = tuple(outlines(sample, judged, names, max(height, width) / LONG_PX))
            found[sample.job.id] = Thumbnail(sample.job.id, data_url(sample.image, LONG_PX), height, width, drawn)
    return found


def judged_labels(rows: pd.DataFrame) -> dict[tuple[int, int], tuple[int, str]]:
    """Rows of `verdicts.parquet` -> (image id, instance) -> category id and verdict."""
    labels = rows[rows["instance"].notna() & rows["category_id"].notna()]
    about = zip(labels["image_id"], labels["instance"].astype(int), strict=True)
    return dict(zip(about, zip(labels["category_id"].astype(int), labels["verdict"], strict=True), strict=True))


def outlines(
    sample: Sample, judged: Mapping[tuple[int, int], tuple[int, Any]], names: Mapping[int, str], pixel: float
) -> list[Outline]:
    """The outlines of an image's labels. Larger ones come first, so that they hide no smaller one.

    Args:
        judged: (image id, instance) -> category id and verdict.
        pixel: the size of a pixel of the page, in px of the image.

    Raises:
        RunError: the verdicts are on other labels.
    """
    instances, drawn = sample.instances, []
    for i in np.argsort(-instances.masks.sum((1, 2)), kind="stable"):
        category_id, verdict = judged.get((sample.job.id, int(i)), (0, ""))
        if category_id not in names:
            raise RunError(f"the verdicts on image {sample.job.id} are not on its labels; judge the run again")
        red, green, blue = class_colour(category_id)
        light = 0.299 * red + 0.587 * green + 0.114 * blue > 150
        x0, y0, x1, y1 = (float(v) for v in instances.boxes[i])
        path = mask_path(instances.masks[i], max(0.4, 0.6 * pixel))
        drawn.append(
            Outline(
                int(i), category_id, names[category_id], str(verdict), path, (x0, y0, x1, y1),
                f"rgb({red},{green},{blue})", "#111" if light else "#fff",
            )
        )  # fmt: skip
    return drawn


def data_url(image: NDArray[np.uint8], long_px: int) -> str:
    """An image, uint8 (H, W, 3), RGB, as the data URL of a WebP whose longer side has at most `long_px`."""
    height, width = image.shape[:2]
    scale = min(1.0, long_px / max(height, width))
    small = image
    if scale < 1:
        small = np.asarray(
            cv2.resize(image, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA), np.uint8
        )
    _, encoded = cv2.imencode(".webp", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_WEBP_QUALITY, 80])
    return "data:image/webp;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")
