"""Every path inside a run folder, and the names of runs, marks, batches and rounds: composed and parsed.

Only files with such names belong to the run. Other files in a run folder, such as copies by a sync tool, are ignored.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from synthgen.base.file_lists import LIST_SUFFIX
from synthgen.spec import RUN_FOLDERS

StageName = Literal["plan", "generate", "label", "measure", "judge", "export", "report"]
TableName = Literal["jobs", "labels", "measures"]

COMMITS, IMAGES, JOBS, LABELS, MEASURES = RUN_FOLDERS
PARTIAL = f"{COMMITS}/partial"  # marks of finished batches
REVIEWS = "reviews.jsonl"
VERDICTS = "verdicts.parquet"
CORRECTIONS = "corrections.parquet"
MERGED = "dataset"  # the folder with the merged dataset, beside the runs

_SHARD_MARK = re.compile(r"(plan|generate|label|measure)-(\d{5,})")
_EXPORT_MARK = re.compile(r"export-([A-Za-z0-9][A-Za-z0-9_-]{0,63})")  # as a spec may name an exporter
_BATCH = re.compile(r"generate-(\d{5,})-\d{4,}")
_ROUND = re.compile(r"round-\d{4,}")
_RECORD = re.compile(rf"spec\.yaml|run\.json|reviews\.jsonl|dataset\.json|{COMMITS}/(partial/)?[a-z]+[\w-]*\.json")
_OF_SHARD = re.compile(rf"{COMMITS}/(?:partial/)?[a-z]+-(\d{{5,}})[-.]")


def run_name(number: int) -> str:
    """The name of a run's folder: `run-0001`."""
    return f"run-{number:04d}"


def run_number(name: str) -> int | None:
    """The number in the name of a run's folder; None for any other name."""
    digits = name.removeprefix("run-")
    return int(digits) if digits.isdecimal() and name == run_name(int(digits)) else None


def run_folders(dataset: Path) -> list[Path]:
    """The folders in a dataset's folder whose names begin with `run-`: by number, then those without a number."""
    return sorted((path for path in dataset.glob("run-*") if path.is_dir()), key=lambda path: run_order(path.name))


def run_order(name: str) -> tuple[float, str]:
    """Sorts names of run folders by number: run-10000 comes after run-9999."""
    number = run_number(name)
    return (math.inf if number is None else number, name)


def image_name(image_id: int) -> str:
    """The name of an image's file."""
    return f"{image_id:012d}.png"


class Paths:
    """The paths inside one run folder. A path need not exist."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lock = root / ".lock"
        self.spec = root / "spec.yaml"
        self.facts = root / "run.json"
        self.verdicts = root / VERDICTS
        self.corrections = root / CORRECTIONS
        self.quality = root / "quality.json"
        self.reviews = root / REVIEWS
        self.report = root / "report.html"
        self.card = root / "README.md"
        self.merged = root / "dataset.json"  # of a folder of merged runs
        self.commits = root / COMMITS
        self.partial = root / PARTIAL

    def name(self, path: Path) -> str:
        """The name of a file in marks: its path relative to the folder."""
        return str(path).removeprefix(f"{self.root}/")

    def image(self, shard: int, image_id: int) -> Path:
        return Path(f"{self.root}/{IMAGES}/{shard:05d}/{image_name(image_id)}")  # a single join: called for every image

    def images(self, shard: int) -> Path:
        return self.root / IMAGES / f"{shard:05d}"

    def table(self, kind: TableName, shard: int) -> Path:
        return self.root / kind / f"{shard:05d}.parquet"

    def export(self, exporter: str) -> Path:
        return self.root / exporter

    def export_list(self, exporter: str) -> Path:
        """The list of an export's files, see `file_lists`."""
        return self.commits / f"export-{exporter}{LIST_SUFFIX}"

    def mark(self, stage: StageName, shard: int | str | None) -> Path:
        end = "" if shard is None else f"-{shard:05d}" if isinstance(shard, int) else f"-{shard}"
        return self.commits / f"{stage}{end}.json"

    def batch_mark(self, shard: int, batch: int) -> Path:
        return self.partial / f"generate-{shard:05d}-{batch:04d}.json"

    def round(self, number: int) -> Path:
        return self.commits / f"round-{number:04d}.json"

    # Existing files

    def marks(self, names: str = "*") -> Iterator[tuple[StageName, int | str | None, Path]]:
        """The existing marks, by name: stage, shard (for an export, its exporter) and file."""
        for file in sorted(self.commits.glob(f"{names}.json")):
            if about := _mark_about(file.stem):
                yield *about, file

    def batch_marks(self) -> Iterator[tuple[int, Path]]:
        """The existing marks of batches: shard and file."""
        for file in sorted(self.partial.glob("generate-*.json")):
            shard = _batch_shard(file.stem)
            if shard is not None:
                yield shard, file

    def rounds(self) -> list[Path]:
        return sorted(file for file in self.commits.glob("round-*.json") if _ROUND.fullmatch(file.stem))

    def is_unmarked(self, name: str) -> bool:
        """Whether a file belongs to the run although no mark names it: lock, spec, `run.json`, reviews, commits."""
        unmarked = (self.lock.name, self.spec.name, self.facts.name, self.reviews.name)
        return name in unmarked or (name.startswith(f"{COMMITS}/") and is_commit(name))

    def image_folders(self) -> Iterator[tuple[int, Path]]:
        """The existing folders of images: shard and folder."""
        for folder in (self.root / IMAGES).glob("[0-9]*"):
            if folder.name.isdecimal():
                yield int(folder.name), folder

    def records(self) -> set[str]:
        """The names of the existing records, see `is_record`."""
        names = {self.name(p) for folder in (self.root, self.commits, self.partial) for p in folder.glob("*.*")}
        return {name for name in names if is_record(name)}


def is_record(name: str) -> bool:
    """Whether a file decides what is done next: the spec, `run.json`, reviews, marks and rounds."""
    return bool(_RECORD.fullmatch(name))


def is_image(name: str) -> bool:
    return name.startswith(f"{IMAGES}/")


def is_export_mark(name: str) -> bool:
    return name.startswith(f"{COMMITS}/export-")


def is_commit(name: str) -> bool:
    """Whether a file in `commits` has the name of a mark, of a round or of a list of an export's files."""
    stem, _, ending = name.removeprefix(f"{COMMITS}/").rpartition(".")
    if stem.startswith("partial/"):
        return ending == "json" and _batch_shard(stem.removeprefix("partial/")) is not None
    about = _mark_about(stem)
    if ending == "json":
        return about is not None or bool(_ROUND.fullmatch(stem))
    return f".{ending}" == LIST_SUFFIX and about is not None and about[0] == "export"


def shard_of(name: str) -> int | None:
    """The shard of the mark of a shard's stage or of a batch; None for other names."""
    match = _OF_SHARD.match(name)
    return int(match[1]) if match else None


def _mark_about(stem: str) -> tuple[StageName, int | str | None] | None:
    """The stage of the mark with this name, and its shard or exporter; None for a name that no mark has."""
    if stem in {"judge", "report"}:
        return stem, None  # type: ignore[return-value]
    if match := _EXPORT_MARK.fullmatch(stem):
        return "export", match[1]
    if (match := _SHARD_MARK.fullmatch(stem)) and f"{int(match[2]):05d}" == match[2]:
        return match[1], int(match[2])  # type: ignore[return-value]
    return None


def _batch_shard(stem: str) -> int | None:
    """The shard of the batch whose mark has this name; None for other names."""
    match = _BATCH.fullmatch(stem)
    return int(match[1]) if match and f"{int(match[1]):05d}" == match[1] else None
