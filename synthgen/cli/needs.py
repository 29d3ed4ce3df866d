"""The models that a spec needs, as a table; and the progress of a download."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from synthgen.backends import Model, Source
from synthgen.cli.display import LINE_SECONDS, clock
from synthgen.errors import BackendError, RunError
from synthgen.models import KNOWN, ModelIncomplete, ModelMissing, existing, is_hub_id
from synthgen.models.licences import output_licence
from synthgen.models.named import ModelFiles
from synthgen.models.transfer import Progress, Report

if TYPE_CHECKING:
    from rich.table import Table

    from synthgen.spec import DatasetSpec

REDRAW_SECONDS = 0.2  # between progress lines on a terminal


@dataclass(frozen=True, slots=True)
class Need:
    """A model that a stage of a spec needs.

    Attributes:
        stage: its key in the spec.
        use: the backend that needs it.
        place: where it is; None if it cannot be loaded from there.
        here: what stands in the table of that.
        lack: why it cannot be loaded; "" if it can.
    """

    stage: str
    use: str
    model: Model
    source: Source | None
    place: str | None
    here: str
    lack: str

    @property
    def name(self) -> str:
        """The model as the spec names it, with its revision and variant."""
        if self.source is None:
            return self.use
        return " ".join(filter(None, (self.source.model, self.source.revision, self.source.variant)))

    @property
    def is_unknown(self) -> bool:
        """Whether only the hub could tell more of it."""
        return self.place is None and self.is_on_hub and self.name.split()[0] not in KNOWN

    @property
    def is_on_hub(self) -> bool:
        return bool(self.source and is_hub_id(self.source.model) and existing(self.source.model) is None)

    @property
    def is_fetchable(self) -> bool:
        """Whether it is missing, and `synthgen models --download` can fetch it."""
        known = KNOWN.get(self.source.model) if self.source else None
        return self.place is None and (self.is_on_hub or bool(known and known.url))


def needs_of(spec: DatasetSpec) -> list[Need]:
    """The models of a spec's stages. It contacts nobody, and loads nothing."""
    from synthgen.pipeline.stages import Stages

    needs = []
    for key, stage in Stages.of(spec).named().items():
        for model in stage.models():
            needs.append(Need(key, stage.config.use, model, model.source(), *_place(model)))
    return needs


def _place(model: Model) -> tuple[str | None, str, str]:
    """Where a model is, or None; the same for people; and what it lacks."""
    try:
        if isinstance(model, ModelFiles):
            model.inspect()
        place = str(model.path()) if isinstance(model, ModelFiles) else model.identity()
    except ModelMissing as error:
        return None, "no", str(error)
    except BackendError as error:
        return None, "in part" if isinstance(error, ModelIncomplete) else "refused", str(error)
    source = model.source()
    return place, "embedded" if source and source.model == "mini" else place, ""


def table_of(needs: Iterable[Need], *, online: bool) -> Table:
    """A row for each stage and model. `online`: whether to ask the hub for what is not known here.

    Raises:
        RunError: the hub does not tell.
    """
    from rich.table import Table

    table = Table(box=None)
    for column in ("stage", "model", "GB", "licence", "access", "here"):
        table.add_column(column, overflow="fold")
    for need in needs:
        size, licence, access = _of_hub(need) if online and need.is_on_hub else _known(need)
        table.add_row(need.stage, need.name, size, licence, access, need.here)
    return table


def _known(need: Need) -> tuple[str, str, str]:
    """What is known here of a model: its size in GB, its licence, and whether it is gated."""
    known = KNOWN.get(need.source.model) if need.source else None
    size = ""
    if need.place and need.source:
        size = f"{_bytes_of(Path(need.place)) / 1e9:.3g}"
    elif known and need.source:
        size = f"{known.size(need.source.variant):.3g}"
    licence = output_licence(need.name.split()[0], need.model.stated_licences() if need.place else ()).name
    return size or "?", licence or "?", ("gated" if known.gated else "open") if known else "" if need.place else "?"


def _bytes_of(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def _of_hub(need: Need) -> tuple[str, str, str]:
    """What the hub says of a model: the GB that are read of it, its licence, and whether it is gated."""
    from synthgen.models.hub.fetch import inquire

    assert need.source is not None
    try:
        repository, size = inquire(need.source)
    except (OSError, ValueError) as error:
        raise RunError(f"{need.stage}: {need.source.model}: {error}") from error
    gigabytes = "?" if size is None else f"{size / 1e9:.3g}"
    return gigabytes, repository.licence or "?", "gated" if repository.gated else "open"


@contextmanager
def showing_progress(work: str) -> Iterator[Report]:
    """Shows how far a download or an upload is: on one line of a terminal, else as a line from time to time.

    Args:
        work: such as `fetching NAME`.
    """
    is_terminal = sys.stderr.isatty()
    start = time.monotonic()
    shown, last = start, Progress(0, 0, 0)

    def show() -> None:
        nonlocal shown
        shown = time.monotonic()
        line = progress_line(work, last, shown - start)
        print(f"\r{line}\x1b[K" if is_terminal else line, end="\n" * (not is_terminal), file=sys.stderr, flush=True)

    def report(progress: Progress) -> None:
        nonlocal last
        last = progress
        if time.monotonic() - shown >= (REDRAW_SECONDS if is_terminal else LINE_SECONDS):
            show()

    try:
        yield report
    finally:
        if shown > start:
            show()
            print(end="\n" * is_terminal, file=sys.stderr)


def progress_line(work: str, progress: Progress, seconds: float) -> str:
    """How far a transfer is, its mean speed since it began `seconds` ago, and the time that is left at this speed."""
    unit, digits, divisor = ("GB", 2, 1e9) if progress.total >= 1e9 else ("MB", 1, 1e6)
    speed = progress.received / seconds if seconds else 0.0
    left = f", about {clock((progress.total - progress.here) / speed)} left" if speed else ""
    amount = f"{progress.here / divisor:.{digits}f} of {progress.total / divisor:.{digits}f} {unit}"
    return f"{work}: {amount}, {speed / 1e6:.1f} MB/s{left}"
