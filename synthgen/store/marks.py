"""Commit marks: a piece of work is done if and only if its mark exists and agrees.

A mark is one small file, written last, with the names, sizes and checksums of the files and a hash of what they were
made from. Files are written under a temporary name, fsynced and renamed; then the mark is written. So a run that is
killed at any moment holds only whole files, and the next run keeps the work whose marks agree and does the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from synthgen.base.file_lists import LIST_SUFFIX, Entry, read_entries
from synthgen.base.files import remove_temporary, sha256
from synthgen.base.sealed import read_sealed, sha256_json, validated
from synthgen.store.files import Files
from synthgen.store.forms import MARK
from synthgen.store.paths import JOBS, LABELS, MEASURES, StageName


@dataclass(frozen=True, slots=True)
class Mark:
    """Says that a piece of work is done.

    Attributes:
        inputs: hash of what the files were made from.
        files: name in the run folder -> [size in bytes, sha256]. The mark of an export names only its list of files.
        seconds: how long the work took.
        counts, environment, notes: whatever the stage wants to remember.
    """

    inputs: str
    files: Mapping[str, Entry]
    seconds: float = 0.0
    counts: Mapping[str, int] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def outputs(self) -> str:
        """Hash of what the files hold: the next stage's input."""
        return sha256_json({name: checksum for name, (_, checksum) in self.files.items()})

    def record(self) -> dict[str, Any]:
        """The fields as a dictionary. `dataclasses.asdict` would copy their values, which may name many files."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


class Marks:
    """The marks of a run folder."""

    def __init__(self, files: Files) -> None:
        self._files, self._paths = files, files.paths

    # Marks of shards, of exports, and of stages with one mark for the run

    def read(self, stage: StageName, shard: int | str | None = None) -> Mark | None:
        """The mark of a shard's stage, or of an export; None if it is missing or damaged."""
        return read_mark(self._paths.mark(stage, shard))

    def read_all(self) -> Iterator[tuple[StageName, int | str | None, Mark | None]]:
        """Every existing mark: its stage, its shard (for an export, its exporter), and None if it is damaged."""
        for stage, shard, file in self._paths.marks():
            yield stage, shard, read_mark(file)

    def shards(self) -> list[int]:
        """The numbers of the shards that are planned, in order."""
        return sorted(shard for _, shard, _ in self._paths.marks("plan-*") if isinstance(shard, int))

    def is_done(self, stage: StageName, shard: int | str | None, inputs: str) -> bool:
        """Whether the mark exists, has these inputs, and its files exist with the recorded sizes. Checksums are
        compared when a file is read."""
        mark = self.read(stage, shard)
        return (
            mark is not None
            and mark.inputs == inputs
            and all(self._files.has(name, size) for name, (size, _) in self.files_of(mark))
        )

    def files_of(self, mark: Mark) -> Iterator[tuple[str, Entry]]:
        """Every file of a mark: its name and [size, sha256]. If the mark names a list, the files on the list follow."""
        for name, entry in mark.files.items():
            yield name, entry
            if name.endswith(LIST_SUFFIX):
                yield from read_entries(self._paths.root / name)

    def commit(
        self,
        stage: StageName,
        shard: int | str | None,
        inputs: str,
        files: Iterable[Path],
        *,
        seconds: float = 0.0,
        counts: Mapping[str, int] | None = None,
        environment: Mapping[str, Any] | None = None,
        notes: Mapping[str, Any] | None = None,
        known: Mapping[str, Entry] | None = None,
    ) -> Mark:
        """Writes the mark. `known`: sizes and checksums that need not be computed again."""
        entries = self._entries(files, known or {})
        mark = Mark(inputs, entries, round(seconds, 3), counts or {}, environment or {}, notes or {})
        self._write(self._paths.mark(stage, shard), mark)
        return mark

    def withdraw(self, stage: StageName, shard: int | str | None = None) -> None:
        """Marks a piece of work as not done, before its files are replaced or because they are damaged. The mark of an
        export stays, with the list of its files, which the next export replaces."""
        self._files.confirm()
        file = self._paths.mark(stage, shard)
        mark = read_mark(file)
        if mark is not None and stage == "export":
            self._files.write_record(file, replace(mark, inputs="").record())
        else:
            self._files.remove([file])

    def withdraw_exports(self) -> None:
        """Marks all exports as not done, see `withdraw`."""
        for stage, exporter, mark in list(self.read_all()):
            if stage == "export" and (mark is None or mark.inputs):
                self.withdraw("export", exporter)

    # Marks of batches, so that a kill costs one batch at most

    def commit_batch(
        self, shard: int, batch: int, inputs: str, files: Iterable[Path], notes: Mapping[str, Any] | None = None
    ) -> Mark:
        mark = Mark(inputs, self._entries(files), notes=notes or {})
        self._write(self._paths.batch_mark(shard, batch), mark)
        return mark

    def read_batch(self, shard: int, batch: int, inputs: str) -> Mark | None:
        """The mark of a finished batch; None if it is missing, or if its inputs or files differ."""
        mark = read_mark(self._paths.batch_mark(shard, batch))
        if mark is None or mark.inputs != inputs:
            return None
        is_whole = all(
            self._files.has(name, size) and sha256(self._paths.root / name) == checksum
            for name, (size, checksum) in mark.files.items()
        )
        return mark if is_whole else None

    def images_in_batches(self, shard: int) -> int:
        """The number of images in the finished batches of an unfinished shard."""
        marks = (read_mark(file) for other, file in self._paths.batch_marks() if other == shard)
        return len({name for mark in marks if mark for name in mark.files if name.endswith(".png")})

    def clear_batches(self, shard: int) -> None:
        self._files.confirm()
        self._files.remove([file for other, file in self._paths.batch_marks() if other == shard])
        with suppress(OSError):
            self._paths.partial.rmdir()

    # After a kill

    def sweep(self) -> None:
        """Removes temporary files that killed processes left, from folders of unfinished work. The caller holds the
        lock."""
        root = self._paths.root
        folders = [root, *(root / name for name in (JOBS, LABELS, MEASURES)), self._paths.commits]
        folders.append(self._paths.partial)
        folders += [f for shard, f in self._paths.image_folders() if not self._paths.mark("generate", shard).exists()]
        for folder in folders:
            remove_temporary(folder)
        for shard in {shard for shard, _ in self._paths.batch_marks()}:
            if self.read("generate", shard):
                self.clear_batches(shard)

    def _write(self, file: Path, mark: Mark) -> None:
        self._files.write_record(file, mark.record(), self.files_of(mark))

    def _entries(self, files: Iterable[Path], known: Mapping[str, Entry] = MappingProxyType({})) -> dict[str, Entry]:
        entries = {}
        for path in files:
            name = self._paths.name(path)
            entries[name] = known[name] if name in known else (path.stat().st_size, sha256(path))
        return entries


def read_mark(file: Path) -> Mark | None:
    """The mark in a file; None if it is missing or damaged, which means that the work is not done."""
    raw = validated(MARK, read_sealed(file))
    return Mark(**raw) if raw else None
