"""What tests change in run folders and specs, and what they read there."""

import contextlib
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from pycocotools.coco import COCO

from synthgen.base import interrupts
from synthgen.errors import SynthgenError
from synthgen.pipeline.build import Build

Raw = dict[str, Any]


def state(root: Path) -> dict[str, int]:
    """Name -> when it was last written, of everything below a run folder."""
    return {p.relative_to(root).as_posix(): p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}


def rewritten(root: Path, before: dict[str, int]) -> set[str]:
    """Marks that are new or were written again."""
    now = state(root)
    return {
        Path(n).stem.removeprefix("export-coco") or "export"
        for n, at in now.items()
        if n.startswith("commits/") and before.get(n) != at
    }


def changed(raw: Raw, changes: dict[str, Any]) -> Raw:
    """A spec with `key.path: value` put in."""
    raw = deepcopy(raw)
    for path, value in changes.items():
        *above, key = path.split(".")
        place = raw
        for part in above:
            if place.get(part) is None:
                place[part] = {}
            place = place[part]
        place[key] = value
    return raw


def numbers(build: Build, name: str) -> np.ndarray:
    """What a filter of images measured, in order of id."""
    tables = [pq.read_table(f).to_pandas() for f in sorted(build.run.root.glob("measures/*.parquet"))]
    return np.concatenate([t.loc[t["instance"].isna(), name].to_numpy(np.float32) for t in tables])


class Killed(BaseException):
    """No error that any code would catch."""


def remove(pattern: str) -> Callable[[Path], None]:
    def act(root: Path) -> None:
        found = sorted(root.glob(pattern))
        assert found
        found[0].unlink()

    act.__name__ = f"remove {pattern}"
    return act


def cut(pattern: str) -> Callable[[Path], None]:
    def act(root: Path) -> None:
        found = sorted(root.glob(pattern))[-1]
        data = found.read_bytes()
        found.chmod(0o644)
        found.write_bytes(data[: len(data) // 2])

    act.__name__ = f"cut {pattern}"
    return act


def is_halted() -> bool:
    """Whether this process may not go on with its run."""
    try:
        interrupts.raise_if_stopped()
    except SynthgenError:
        return True
    return False


def load_coco(root: Path, split: str) -> COCO:
    """A split of a run's export."""
    with contextlib.redirect_stdout(None):
        return COCO(str(root / "coco" / "annotations" / f"instances_{split}.json"))
