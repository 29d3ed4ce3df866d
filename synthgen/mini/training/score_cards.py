"""Score tables, and the models' `README.md` that they are written into."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from synthgen.base.files import atomic
from synthgen.errors import RunError
from synthgen.mini.training import captions
from synthgen.mini.training.bench import Bench
from synthgen.types import Instances


@dataclass(frozen=True, slots=True)
class Score:
    """A line of a score table. `wanted`: a limit such as "≥ 30 dB"; "" if there is none."""

    what: str
    value: str
    wanted: str = ""


def write_scores(folder: Path, scores: Sequence[Score]) -> None:
    """Writes a table of scores and one of files between their marks in a model's `README.md`.

    Raises:
        RunError: the `README.md` has no such marks.
    """
    rows = [f"| {s.what} | {s.value} | {s.wanted} |" for s in scores]
    files = []
    for file in sorted(p for p in folder.rglob("*.safetensors")):
        with open(file, "rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        files.append(f"| `{file.relative_to(folder)}` | {file.stat().st_size / 1e6:.1f} MB | `{digest}` |")
    card = folder / "README.md"
    text = card.read_text("utf-8")
    for name, lines in (
        ("scores", ["| what | measured | wanted |", "|---|---|---|", *rows]),
        ("files", ["| file | size | sha256 |", "|---|---|---|", *files]),
    ):
        before, begin, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        if not begin or not end:
            raise RunError(f"{card} has no marks <!-- {name} --> and <!-- /{name} --> to put a table between")
        text = "".join([before, begin, "\n".join(lines), "\n", end, after])
    with atomic(card) as opened:
        opened.write(text.encode())


def contact_sheet(bench: Bench) -> NDArray[np.uint8]:
    """The images of the first 64 prompts, with their layouts, on one sheet: uint8 (H, W, 3)."""
    from synthgen.report.sheet import Tile, contact_sheet

    tiles = []
    for image, scene in zip(bench.layout_images[:64], bench.prompt_scenes, strict=False):
        words = captions.caption(scene.background, scene.things).removeprefix("a photo of ")
        tiles.append(Tile(image, Instances.empty(*image.shape[:2]), words))
    return contact_sheet(tiles, {}, columns=8, tile_px=bench.size)
