"""A run's contact sheet: what came out, to be looked at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

from synthgen.base.files import atomic
from synthgen.base.image_metadata import Metadata
from synthgen.base.xmp import Origin
from synthgen.errors import RunError, listed
from synthgen.judging.verdicts import REMOVED
from synthgen.pipeline.build import Build
from synthgen.pipeline.label import judged_samples
from synthgen.report.sheet import Tile, contact_sheet
from synthgen.store.records import judged_images
from synthgen.types import Instances, Sample

if TYPE_CHECKING:
    import pandas as pd

# Ending -> what OpenCV is told: without a quality, its WebP is lossless and as large as a PNG.
FORMATS = {".png": [], ".jpg": [cv2.IMWRITE_JPEG_QUALITY, 92], ".webp": [cv2.IMWRITE_WEBP_QUALITY, 85]}


def draw(build: Build, path: Path, *, images: int, columns: int, tile_px: int, rejected: bool) -> int:
    """Writes the first accepted (or rejected) images of a run, in order of id, as one picture, in the format that the
    name ends with.

    Returns:
        How many are on it.

    Raises:
        RunError: there are none, or the name's ending is no format of pictures.
    """
    if path.suffix.lower() not in FORMATS:
        raise RunError(f"{str(path)!r} cannot be written; its name takes one of the endings {listed(FORMATS)}")
    state: Literal["rejected", "accepted"] = "rejected" if rejected else "accepted"
    if not build.run.paths.verdicts.is_file():
        raise RunError(f"{build.run.root} has not been judged yet; run the spec first")
    found = judged_images(build.run, state)
    chosen = found.sort_by("image_id").slice(0, images).to_pandas()
    if chosen.empty:
        raise RunError(f"{build.run.root} has no {state} images")
    captions = {
        int(row.image_id): f"{row.image_id} " + (", ".join(row.reasons) if rejected else str(row.split))
        for row in chosen.itertuples()
    }
    verdicts = build.run.tables.read(build.run.paths.verdicts, image_ids=set(captions)).to_pandas()
    tiles = []
    for shard in sorted(set(chosen["shard"])):
        for sample in judged_samples(build, int(shard), set(captions)):
            tiles.append(Tile(sample.image, _judged(sample, verdicts), captions[sample.job.id], rejected))
    names = {c.id: c.name for c in build.spec.categories}
    title = f"{build.spec.name}: {len(tiles)} of {len(found)} {state} images"
    sheet = contact_sheet(tiles, names, title=title, columns=columns, tile_px=tile_px)
    ending = path.suffix.lower()
    ok, encoded = cv2.imencode(ending, cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR), FORMATS[ending])
    if not ok:
        raise RunError(
            f"cannot encode a sheet of {sheet.shape[1]}x{sheet.shape[0]} px; ask for fewer --images or a smaller --tile"
        )
    with atomic(path) as file:
        file.write(Metadata(xmp=Origin().packet()).put_into(encoded.tobytes()))
    return len(tiles)


def _judged(sample: Sample, verdicts: pd.DataFrame) -> Instances:
    """The labels of an image with the classes that people gave, without those that people removed."""
    rows = verdicts[(verdicts["image_id"] == sample.job.id) & verdicts["instance"].notna()].sort_values("instance")
    if len(rows) != len(sample.instances) or rows["category_id"].isna().any():
        raise RunError(f"the verdicts on image {sample.job.id} are not on its labels; judge the run again")
    instances = replace(sample.instances, category_id=rows["category_id"].to_numpy(np.int64))
    return instances[np.array([REMOVED not in reasons for reasons in rows["reasons"]], bool)]
