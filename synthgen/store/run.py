"""A run folder: the only module that knows a path inside one, and what it means for work to be done.

A stage of a shard is done if and only if its commit mark exists and agrees: the mark is one small file, written last,
with the names, sizes and checksums of the files and a hash of what they were made from. Files are written beside
their place, fsynced and renamed; then the mark. So a run that is killed anywhere holds whole files only, and the
next run takes every mark that agrees and makes the rest. A folder that mirrors one in an object store (`mirror`) is
changed there by the same steps, in the same order.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Literal

import cv2
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray

from synthgen.base.files import (
    LIST,
    SEAL,
    Entry,
    atomic,
    digest,
    formed,
    free_bytes,
    listed,
    protect,
    read_bytes,
    read_sealed,
    said_of,
    sha256,
    sweep,
    write_sealed,
)
from synthgen.base.pictures import require_png
from synthgen.base.reading import load_yaml, read_text
from synthgen.base.wording import plain, shown
from synthgen.errors import NotWritable, OutOfRoom, RunError, SpecError
from synthgen.store import lease
from synthgen.store.forms import FACTS, MARK, ROUND
from synthgen.store.mirror import mirror_of
from synthgen.types import Job

SPARE_BYTES = 1_000_000  # left free for marks, tables and the database that Prefect keeps
ROWS = 65_536  # of a table that are read at once, for whoever goes through a long one
FORMAT = 2  # of run folders: how marks and records are written
# What a spec may grow by when it is written with all its keys, and its aliases in full.
SPEC_GROWTH = 8
StageName = Literal["plan", "generate", "label", "measure", "judge", "export", "report"]

JOB_SCHEMA = pa.schema(
    [
        ("image_id", pa.int64()),
        ("run", pa.int32()),
        ("round", pa.int32()),
        ("index", pa.int32()),
        ("family", pa.string()),
        ("prompt", pa.string()),
        ("negative_prompt", pa.string()),
        ("slots", pa.map_(pa.string(), pa.string())),
        ("asked", pa.list_(pa.int32())),
        ("layout", pa.list_(pa.list_(pa.int32(), 4))),
        ("seed", pa.int64()),
        ("height", pa.int32()),
        ("width", pa.int32()),
    ]
)


LABEL_COLUMNS = {
    "image_id": pa.int64(),
    "instance": pa.int32(),
    "category_id": pa.int32(),
    "bbox_xyxy": pa.list_(pa.float32(), 4),
    "area": pa.int64(),
    "height": pa.int32(),
    "width": pa.int32(),
    "rle": pa.string(),
}
VERDICT_SCHEMA = pa.schema(
    [
        ("image_id", pa.int64()),
        ("instance", pa.int32()),
        ("shard", pa.int32()),
        ("split", pa.string()),
        ("category_id", pa.int32()),
        ("verdict", pa.string()),
        ("reasons", pa.list_(pa.string())),
        ("passed", pa.bool_()),
    ]
)
# What a table has at least: folder, or name, of its file -> columns, and those in which null means something.
TABLES = {
    "jobs": (JOB_SCHEMA, {"layout"}),
    "labels": (pa.schema(LABEL_COLUMNS), set()),
    "measures": (pa.schema([("image_id", pa.int64()), ("instance", pa.int32())]), {"instance"}),
    "verdicts": (VERDICT_SCHEMA, {"instance", "split", "category_id"}),
}


# Names that are the store's: what else lies in a run folder, such as the copies of a sync tool, is nobody's.
_SHARD_MARK = re.compile(r"(plan|generate|label|measure)-(\d{5,})")
_BATCH = re.compile(r"generate-(\d{5,})-\d{4,}")
_ROUND = re.compile(r"round-\d{4,}")

_leases: dict[Path, list[lease.Lease]] = {}  # of the run folders that this process holds


@dataclass(frozen=True, slots=True)
class Mark:
    """That a piece of work is done.

    Attributes:
        inputs: hash of what the files were made from.
        files: name in the run folder -> [size in bytes, sha256]; of an export, its list of files alone.
        seconds: it took; `counts`, `environment`, `notes`: whatever the stage wants to remember.
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
        return digest({name: checksum for name, (_, checksum) in self.files.items()})

    def record(self) -> dict[str, Any]:
        """Its fields, as they are: `dataclasses.asdict` copies what they hold, and exports may have a million files."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


class Run:
    """One run of a dataset: `DIR/<name>/run-0001`."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        if mirror := mirror_of(self.root):
            mirror.confirm = self.confirm
        self._mirror = mirror
        self._folders_out: dict[Path, bool] = {}  # folder of this one -> whether it is a link that leads out of it

    @classmethod
    def at(cls, out: Path, name: str, number: int) -> Run:
        return cls(out / name / cls.folder_name(number))

    @staticmethod
    def folder_name(number: int) -> str:
        return f"run-{number:04d}"

    @classmethod
    def existing(cls, root: Path) -> Run:
        """A run folder that a person named.

        Raises:
            RunError: it is none.
        """
        run = cls(root)
        if not run.spec_file.is_file():
            raise RunError(f"{run.address!r} is no run folder; it takes one such as outputs/quickstart/run-0001")
        return run

    # In an object store

    @property
    def is_mirror(self) -> bool:
        return self._mirror is not None

    @property
    def address(self) -> str:
        """The folder as other machines may know it: the URL of one in an object store, else its path."""
        return self._mirror.url if self._mirror else str(self.root)

    def take_up(self, shards: Collection[int] | None = None, *, files: bool = True, drop: bool = True) -> None:
        """Brings a mirror in line with its store, see `Mirror.take_up`; does nothing to other folders."""
        if self._mirror:
            self._mirror.take_up(shards, files, drop)

    def look(self, files: bool = False) -> None:
        """`take_up` for those who only read: without `files`, what they read of single images is fetched as they do.
        Where a process of this machine is at work in the folder, it is in line already."""
        if self._mirror:
            self._mirror.take_up(None, files, drop=True, unless=lambda: bool(lease.holder(self.lock_file)))

    def here(self, path: Path) -> Path:
        """A file of the folder, fetched if it is in the store alone.

        Raises:
            RunError: see `inside`.
        """
        if self._mirror:
            self._mirror.fetch([self.name_of(path)])
        return self.inside(path)

    def inside(self, path: Path) -> Path:
        """A file of the folder that is to be read: a run that came from elsewhere may hold links to any file here.

        Raises:
            RunError: a link on its way leads out of the folder. Exports are not asked: their folders may be moved.
        """
        if self.leads_out(path):
            raise RunError(f"{self.name_of(path)} is not read: a link on its way leads out of {self.root}")
        return path

    def leads_out(self, path: Path) -> bool:
        """Whether a file of the folder lies outside it in truth, by a link."""
        folder = path.parent
        if folder not in self._folders_out:
            self._folders_out[folder] = self._is_outside(folder)
        return self._folders_out[folder] or (path.is_symlink() and self._is_outside(path))

    def _is_outside(self, path: Path) -> bool:
        try:
            return not path.resolve().is_relative_to(self.root)
        except (OSError, RuntimeError):  # links in a circle
            return True

    def publish(self, path: Path) -> None:
        """Puts a file that no mark names into the store, where there is one."""
        if self._mirror:
            self._mirror.put_records([self.name_of(path)])

    @contextmanager
    def _held(self, file: Path, name: str) -> Iterator[list[lease.Lease]]:
        """`lease.held`, here and, by an object of that name, in the store, where there is one."""
        try:
            with said_of(self.root):
                self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise NotWritable(f"{self.root} cannot be made: {error.strerror}") from error
        with ExitStack() as stack:
            held = [stack.enter_context(lease.held(file))]
            if self._mirror:
                held.append(stack.enter_context(lease.leased(self._mirror.slot(name))))
            yield held

    @contextmanager
    def reviewing(self) -> Iterator[None]:
        """Keeps the reviewers of one store apart; those of one folder are by its log.

        Raises:
            RunError: another one is at it.
        """
        if not self._mirror:
            yield
            return
        with self._held(self.root.with_name(f".{self.root.name}.review"), ".review"):
            self.look()
            yield

    # Paths

    @property
    def number(self) -> int:
        """As it is recorded; of a folder in which nothing is yet, by its name.

        Raises:
            RunError: neither says it.
        """
        number = self.recorded_number or self.named_number
        if number is None:
            raise RunError(f"{self.address}: neither its name nor a plan in it says the number of the run")
        return number

    @property
    def named_number(self) -> int | None:
        """By the folder's name; None where that is no name of a run."""
        named = self.root.name.removeprefix("run-")
        return int(named) if named.isdecimal() and self.root.name == self.folder_name(int(named)) else None

    @property
    def recorded_number(self) -> int | None:
        """The number of the run whose images these are: `run.json` says it; where earlier versions wrote that, or it is
        damaged, the first jobs that can be read. None where nothing is planned."""
        with suppress(RunError):
            if number := self.read_facts().get("run"):
                return int(number)
        return self.planned_number

    @property
    def planned_number(self) -> int | None:
        """The number of the run that the first jobs are of that can be read; None where there are none."""
        for shard in self.shards():
            with suppress(RunError):
                for rows in self.read_parts(self.table_file("jobs", shard), ["run"]):
                    if rows.num_rows:
                        return int(rows["run"][0].as_py())
        return None

    @property
    def is_another(self) -> bool:
        """Whether the folder holds another run than its name says: a copy, say."""
        return self.named_number is not None and self.recorded_number not in {None, self.named_number}

    @property
    def lock_file(self) -> Path:
        return self.root / ".lock"

    @property
    def spec_file(self) -> Path:
        return self.root / "spec.yaml"

    @property
    def verdicts_file(self) -> Path:
        return self.root / "verdicts.parquet"

    @property
    def quality_file(self) -> Path:
        return self.root / "quality.json"

    @property
    def reviews_file(self) -> Path:
        return self.root / "reviews.jsonl"

    @property
    def report_file(self) -> Path:
        return self.root / "report.html"

    @property
    def card_file(self) -> Path:
        return self.root / "README.md"

    def name_of(self, path: Path) -> str:
        """What a file of the folder is called in marks."""
        return str(path).removeprefix(f"{self.root}/")

    def image_file(self, shard: int, image_id: int) -> Path:
        return Path(f"{self.root}/images/{shard:05d}/{image_id:012d}.png")

    def table_file(self, kind: Literal["jobs", "labels", "measures"], shard: int) -> Path:
        return self.root / kind / f"{shard:05d}.parquet"

    def export_folder(self, exporter: str) -> Path:
        return self.root / exporter

    def mark_file(self, stage: StageName, shard: int | str | None) -> Path:
        part = "" if shard is None else f"-{shard:05d}" if isinstance(shard, int) else f"-{shard}"
        return self.root / "commits" / f"{stage}{part}.json"

    def list_file(self, exporter: str) -> Path:
        """The list of an export's files: see `files.listed`."""
        return self.root / "commits" / f"export-{exporter}{LIST}"

    def _batch_file(self, shard: int, batch: int) -> Path:
        return self.root / "commits" / "partial" / f"generate-{shard:05d}-{batch:04d}.json"

    # The spec as run

    def read_spec(self) -> Any:
        """
        Raises:
            RunError: it is not what was written.
        """
        try:
            return load_yaml(read_text(self.spec_file, SPEC_GROWTH), SPEC_GROWTH)
        except (OSError, UnicodeDecodeError, SpecError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise RunError(f"{self.spec_file} cannot be read: {reason}; run the spec again to write it anew") from error

    def write_spec(self, spec: Mapping[str, Any]) -> None:
        data = yaml.safe_dump(dict(spec), sort_keys=False, allow_unicode=True, width=120).encode()
        if not self.spec_file.is_file() or read_bytes(self.spec_file) != data:
            with self.writing(self.spec_file) as file:
                file.write(data)
            self.publish(self.spec_file)

    def spec_is_as_recorded(self) -> bool:
        """Whether the spec's file has the checksum that `run.json` says; so it is where nothing is recorded."""
        facts = self.read_facts()
        return not facts or facts.get("spec") == sha256(self.spec_file)

    @property
    def facts_file(self) -> Path:
        return self.root / "run.json"

    def read_facts(self) -> dict[str, Any]:
        """`run.json`: what the images of this folder were made from, and by what; nothing if it is damaged.

        Raises:
            RunError: the folder is of another version of this format.
        """
        facts = read_sealed(self.facts_file)
        if facts is None:
            with suppress(OSError, ValueError, TypeError):
                if "made_from" in (raw := orjson.loads(self.facts_file.read_bytes())) and SEAL not in raw:
                    facts = raw
        if facts and facts.get("format", 1) != FORMAT:
            raise RunError(
                f"{self.root} is a run folder of format {shown(facts.get('format', 1))}, made by synthgen "
                f"{plain(str(facts.get('synthgen')))}; this one reads format {FORMAT}: take that version, or another "
                "--out or --run"
            )
        facts = facts and formed(FACTS, facts)
        return {name: value for name, value in (facts or {}).items() if name != "format"}

    def write_facts(self, facts: Mapping[str, Any]) -> None:
        if facts != self.read_facts():
            self._write_record(self.facts_file, {**facts, "format": FORMAT})

    # Lock

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps two processes out of one folder; the lock dies with its holder, however that ends. See `lease`.

        Raises:
            RunError: another process holds it; or, from what writes, it has been lost to another, or is gone.
        """
        with self._held(self.lock_file, self.lock_file.name) as _leases[self.root]:
            try:
                self.take_up()
                yield
            except Exception:
                self.confirm()  # a folder that is another's now, or gone, is why whatever failed has failed
                raise
            finally:
                del _leases[self.root]

    @contextmanager
    def reading(self) -> Iterator[bool]:
        """`lock`, for who can do without where the folder may not be written; -> whether it is locked.

        Raises:
            RunError: another process holds it.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(self.lock())
                locked = True
            except (NotWritable, OutOfRoom) as error:
                if holder := self.holder():
                    raise RunError(f"another process ({holder}) is at work in {self.root}") from error
                self.look()
                locked = False
            yield locked

    def holder(self) -> str:
        """Who holds the lock, as it says itself; "" for nobody."""
        here = lease.holder(self.lock_file)
        return lease.named(self._mirror.slot(self.lock_file.name)) if self._mirror and not here else here

    def confirm(self) -> None:
        """Called before anything of the folder is changed.

        Raises:
            RunError: the lock that this process held is another's now.
        """
        for held in _leases.get(self.root, ()):
            held.confirm()

    @contextmanager
    def writing(self, path: Path) -> Iterator[IO[bytes]]:
        """`atomic`, for a file of this folder."""
        self.confirm()  # before a folder that is gone would be made anew
        with atomic(path) as file:
            yield file
            self.confirm()

    def sweep(self) -> None:
        """Removes what killed processes left unfinished, where work is still to be done. Call it holding the lock."""
        folders = [self.root, *(self.root / name for name in ("jobs", "labels", "measures", "commits"))]
        folders.append(self.root / "commits" / "partial")
        for folder in (self.root / "images").glob("[0-9]*"):
            if folder.name.isdecimal() and not self.mark_file("generate", int(folder.name)).exists():
                folders.append(folder)
        for folder in folders:
            sweep(folder)
        for shard in {shard for _, shard in self._batches()}:
            if self.mark("generate", shard):
                self.clear_batches(shard)

    # Marks

    def mark(self, stage: StageName, shard: int | str | None = None) -> Mark | None:
        return self._read_mark(self.mark_file(stage, shard))

    def _read_mark(self, file: Path) -> Mark | None:
        raw = formed(MARK, read_sealed(file))  # a mark that cannot be read says nothing is done
        return Mark(**raw) if raw else None

    def is_done(self, stage: StageName, shard: int | str | None, inputs: str) -> bool:
        """Whether the mark exists, was made from these inputs, and its files are there with the sizes it says.
        Checksums are compared when a file is read."""
        mark = self.mark(stage, shard)
        return mark is not None and mark.inputs == inputs and all(self._has(n, s) for n, (s, _) in self.files_of(mark))

    def files_of(self, mark: Mark) -> Iterator[tuple[str, Entry]]:
        """Every file that a mark answers for, those on a list that it names among them: name, and [size, sha256]."""
        for name, entry in mark.files.items():
            yield name, entry
            if name.endswith(LIST):
                yield from listed(self.root / name)

    def _has(self, name: str, size: int) -> bool:
        try:
            if (self.root / name).stat().st_size == size:
                return True
        except OSError:
            pass
        return self._mirror is not None and self._mirror.has(name, size)

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
        """Writes the mark; `known` holds sizes and checksums that need not be computed again."""
        entries = self._entries(files, known or {})
        mark = Mark(inputs, entries, round(seconds, 3), counts or {}, environment or {}, notes or {})
        self._write_mark(self.mark_file(stage, shard), mark)
        return mark

    def _entries(self, files: Iterable[Path], known: Mapping[str, Entry] = MappingProxyType({})) -> dict[str, Entry]:
        entries = {}
        for path in files:
            name = self.name_of(path)
            entries[name] = known[name] if name in known else (path.stat().st_size, sha256(path))
        return entries

    def withdraw(self, stage: StageName, shard: int | str | None = None) -> None:
        """Takes back that a piece of work is done, before its files are replaced or because they are damaged. The mark
        of an export stays, with the list of its files, for the next export to replace."""
        self.confirm()
        file = self.mark_file(stage, shard)
        mark = self._read_mark(file)
        if mark is not None and stage == "export":
            self._write_record(file, replace(mark, inputs="").record())
        else:
            self.remove([file])

    def remove(self, files: Iterable[Path]) -> None:
        """Removes files of the folder: from the store first, where there is one."""
        files = list(files)
        if self._mirror:
            self._mirror.remove(map(self.name_of, files))
        for file in files:
            file.unlink(missing_ok=True)

    @staticmethod
    def made_in(folder: Path) -> dict[str, Entry]:
        """The images in a folder of some run's, as their mark has them: file name -> [size in bytes, sha256]."""
        if folder.parent.name != "images" or not folder.name.isdigit():
            return {}
        mark = Run(folder.parent.parent).mark("generate", int(folder.name))
        return {name.rpartition("/")[2]: entry for name, entry in mark.files.items()} if mark else {}

    def marks(self) -> Iterator[tuple[StageName, int | str | None, Mark | None]]:
        """Every mark that there is, by stage and shard (of exports: their name); None for one that is damaged."""
        for file in sorted((self.root / "commits").glob("*.json")):
            if found := _marked(file.stem):
                yield *found, self._read_mark(file)

    def is_own(self, name: str) -> bool:
        """Whether a file in `commits` has a name of the store's."""
        stem, _, ending = name.removeprefix("commits/").rpartition(".")
        if stem.startswith("partial/"):
            return ending == "json" and _shard_of_batch(stem.removeprefix("partial/")) is not None
        found = _marked(stem)
        if ending == "json":
            return found is not None or bool(_ROUND.fullmatch(stem))
        return f".{ending}" == LIST and found is not None and found[0] == "export"

    def damaged_records(self) -> Iterator[Path]:
        """Files that carry a seal of their own, and are not what was written, but for marks."""
        rounds = (f for f in (self.root / "commits").glob("round-*.json") if _ROUND.fullmatch(f.stem))
        for file, form in ((self.facts_file, FACTS), *((file, ROUND) for file in sorted(rounds))):
            if file.is_file() and formed(form, read_sealed(file)) is None:
                yield file

    def _write_mark(self, file: Path, mark: Mark) -> None:
        """In a store, after the files that it answers for."""
        self._write_record(file, mark.record(), self.files_of(mark))

    def _write_record(self, file: Path, content: Mapping[str, Any], files: Iterable[tuple[str, Entry]] = ()) -> None:
        """`files`: that are to be in the store before it is.

        Raises:
            RunError: it does not read back. What is recorded decides what is done next: without it, a run would do the
                same for ever.
        """
        self.confirm()
        if write_sealed(file, content) != read_bytes(file):
            raise RunError(f"{file} does not read back as it was written a moment ago; see to the disk that it is on")
        if self._mirror:
            self._mirror.put(dict(files))
            self.confirm()  # putting may have taken long
            self.publish(file)

    def commit_batch(
        self, shard: int, batch: int, inputs: str, files: Iterable[Path], notes: Mapping[str, Any] | None = None
    ) -> Mark:
        """A mark for a part of a shard, so that a kill costs one batch at most."""
        mark = Mark(inputs, self._entries(files), notes=notes or {})
        self._write_mark(self._batch_file(shard, batch), mark)
        return mark

    def batch_done(self, shard: int, batch: int, inputs: str) -> Mark | None:
        """The mark of a finished batch, if its files hold what it says."""
        mark = self._read_mark(self._batch_file(shard, batch))
        if mark is None or mark.inputs != inputs:
            return None
        whole = all(self._has(n, s) and sha256(self.root / n) == c for n, (s, c) in mark.files.items())
        return mark if whole else None

    def images_kept(self, shard: int) -> int:
        """Images of finished batches of a shard that is not finished."""
        marks = (self._read_mark(file) for file, own in self._batches() if own == shard)
        return len({name for mark in marks if mark for name in mark.files if name.endswith(".png")})

    def forget_exports(self) -> None:
        """Takes back that exports are done; the marks keep the lists of their files, for the next to replace."""
        for stage, exporter, mark in list(self.marks()):
            if stage == "export" and (mark is None or mark.inputs):
                self.withdraw("export", exporter)

    def clear_batches(self, shard: int) -> None:
        self.confirm()
        self.remove([file for file, own in self._batches() if own == shard])
        with suppress(OSError):
            (self.root / "commits" / "partial").rmdir()

    def _batches(self) -> Iterator[tuple[Path, int]]:
        """The marks of finished batches, each with its shard."""
        for file in sorted((self.root / "commits" / "partial").glob("generate-*.json")):
            shard = _shard_of_batch(file.stem)
            if shard is not None:
                yield file, shard

    # Rounds: what each batch of planning was asked to make up for

    def _round_file(self, number: int) -> Path:
        return self.root / "commits" / f"round-{number:04d}.json"

    def read_rounds(self) -> list[dict[str, Any]]:
        """The recorded rounds in order, as `Round` takes them; keys that were numbers are numbers again. A damaged
        record is read from the marks of its shards, which hold it too; without such shards it had no effect yet."""
        rounds: list[dict[str, Any]] = []
        while True:
            number = len(rounds) + 1
            found = self._read_round(number) or self._planned_round(number)
            if found is None:
                return rounds
            rounds.append(found)

    def _read_round(self, number: int) -> dict[str, Any] | None:
        return _round(read_sealed(self._round_file(number)), number)

    def _planned_round(self, number: int) -> dict[str, Any] | None:
        if self._round_file(number).exists() or self._round_file(number + 1).exists():
            for shard in self.shards():
                mark = self.mark("plan", shard)
                if mark and mark.counts.get("round") == number:
                    return _round(mark.environment, number)
        return None

    def mend_rounds(self) -> None:
        """Writes damaged records of rounds anew."""
        for round in self.read_rounds():
            if self._read_round(round["number"]) is None:
                self.write_round(round["number"], round)

    def write_round(self, number: int, round: Mapping[str, Any]) -> None:
        self._write_record(self._round_file(number), round)

    def shards(self) -> list[int]:
        """Numbers of the shards that are planned, in order."""
        found = (_marked(f.stem) for f in (self.root / "commits").glob("plan-*.json"))
        return sorted(mark[1] for mark in found if mark and isinstance(mark[1], int))

    def images_made(self, shard: int) -> int:
        """Images of a shard on the disk now, for showing progress."""
        return sum(1 for _ in (self.root / "images" / f"{shard:05d}").glob("[0-9]*.png"))

    # Images

    def write_image(self, shard: int, image_id: int, image: NDArray[np.uint8]) -> Path:
        """uint8 (H, W, 3), RGB -> PNG, read-only: exports share it as a hard link.

        Raises:
            RunError: it would not be read again, see `inside`.
        """
        path = self.image_file(shard, image_id)
        self.inside(path.parent)  # the file takes the place of a link of its name
        ok, encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        if not ok:
            raise RunError(f"cannot encode {path.name}: {image.dtype} {image.shape}")
        with self.writing(path) as file:
            file.write(encoded.tobytes())
            protect(Path(file.name))
        return path

    def read_image(self, shard: int, image_id: int, checked_by: Mark | None = None) -> NDArray[np.uint8]:
        """-> uint8 (H, W, 3), RGB.

        Raises:
            RunError: it is not there, or not what the mark says was made.
        """
        data, name = self.read_image_file(shard, image_id), self.name_of(self.image_file(shard, image_id))
        if checked_by and checked_by.files.get(name, (0, ""))[1] != hashlib.sha256(data).hexdigest():
            raise RunError(
                f"{name} is not the image that was made: its checksum differs; delete it and run again to make it anew"
            )
        decoded = None
        with suppress(ValueError):
            require_png(data)
            decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if decoded is None:
            raise RunError(f"{name} is no readable image; delete it and run again to make it anew")
        return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)

    def read_image_file(self, shard: int, image_id: int) -> bytes:
        """An image as it lies there.

        Raises:
            RunError: it cannot be read, or see `inside`.
        """
        path = self.image_file(shard, image_id)
        try:
            return self.here(path).read_bytes()
        except OSError as error:
            raise RunError(f"{self.name_of(path)} cannot be read: {error.strerror}") from error

    # Tables

    def write_table(self, path: Path, table: pa.Table) -> Path:
        with self.writing(path) as file:
            pq.write_table(table, file, compression="zstd", row_group_size=ROWS)
        return path

    def read_table(
        self, path: Path, *, without: Collection[str] = (), image_ids: Collection[int] | None = None
    ) -> pa.Table:
        """`without`: columns that are not wanted; `image_ids`: of the only rows that are."""
        with self._reading(path) as file:
            names = [n for n in file.schema_arrow.names if n not in without]
            if image_ids is None:
                return self._formed(path, file.read(names, use_threads=False), without)
            self._formed(path, file.schema_arrow.empty_table(), without)
        wanted = pa.array(list(image_ids), pa.int64())
        return self.read_rows(path, names, lambda rows: pc.is_in(rows["image_id"], wanted))

    def read_rows(self, path: Path, names: Sequence[str], wanted: Callable[[pa.Table], pa.ChunkedArray]) -> pa.Table:
        """Some columns of those rows of a long table that are `wanted`; of the others, few are held at once."""
        return pa.concat_tables([rows.filter(wanted(rows)) for rows in self.read_parts(path, names)])

    def read_parts(self, path: Path, names: Sequence[str]) -> Iterator[pa.Table]:
        """Some columns of a long table, some ten thousand rows at a time; once at least."""
        with self._reading(path) as file:
            yield self._formed(path, file.schema_arrow.empty_table().select(names))
            for batch in file.iter_batches(columns=names, use_threads=False):
                yield self._formed(path, pa.Table.from_batches([batch]).select(names))

    @contextmanager
    def _reading(self, path: Path) -> Iterator[pq.ParquetFile]:
        try:
            with pq.ParquetFile(self.here(path)) as file:
                yield file
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            why = plain(" ".join(str(error).split()), 300)
            raise RunError(f"{path.relative_to(self.root)} cannot be read: {why}") from error

    def _formed(self, path: Path, table: pa.Table, without: Collection[str] | None = None) -> pa.Table:
        """Some columns of a table, of the types that they have in every run; or all but those that it is `without`.

        Raises:
            ValueError, KeyError, pa.ArrowException: they are of another type, have gaps, or are not there.
        """
        form, gaps = TABLES[path.stem if path.parent == self.root else path.parent.name]
        names = set(table.column_names)
        for name, kind in zip(form.names, form.types, strict=True):
            if name in names or (without is not None and name not in without):
                column = table[name].cast(kind)
                if column.null_count and name not in gaps:
                    raise ValueError(f"the column {name} has gaps")
                table = table.set_column(table.column_names.index(name), name, column)
        return table

    def write_jobs(self, shard: int, jobs: Sequence[Job]) -> Path:
        # By columns: rows of a million jobs take a minute to become a table.
        columns: dict[str, list[Any]] = {
            name: [getattr(job, name) for job in jobs] for name in JOB_SCHEMA.names if name != "image_id"
        }
        columns["image_id"] = [job.id for job in jobs]
        columns["slots"] = [sorted(job.slots.items()) for job in jobs]
        arrays = [pa.array(columns[f.name], f.type) for f in JOB_SCHEMA]
        return self.write_table(self.table_file("jobs", shard), pa.Table.from_arrays(arrays, schema=JOB_SCHEMA))

    def read_jobs(self, shard: int, image_ids: Collection[int] | None = None) -> list[dict[str, Any]]:
        """A row a job, or one of these only, by the names of `JOB_SCHEMA`. The split is not among them: the spec as it
        is now decides it."""
        table = self.read_table(self.table_file("jobs", shard), image_ids=image_ids)
        rows: list[dict[str, Any]] = table.to_pylist()
        return rows

    # Room

    def require_room(self, size: int) -> None:
        """Before `size` bytes more are written.

        Raises:
            OutOfRoom: they would not fit; nothing of them has been begun.
        """
        if (free := free_bytes(self.root)) < size + SPARE_BYTES:
            raise OutOfRoom(
                f"{free / 1e6:.0f} MB are free for {self.root}, too few to go on; what is finished is "
                "kept: free some and run the same command again"
            )


def _marked(stem: str) -> tuple[StageName, int | str | None] | None:
    """The stage and the shard, or exporter, that a mark of this name speaks of; None for a name that no mark has."""
    if stem in {"judge", "report"}:
        return stem, None  # type: ignore[return-value]
    if stem.startswith("export-") and _is_name(exporter := stem.removeprefix("export-")):
        return "export", exporter
    if (found := _SHARD_MARK.fullmatch(stem)) and f"{int(found[2]):05d}" == found[2]:
        return found[1], int(found[2])  # type: ignore[return-value]
    return None


def _round(raw: Any, number: int) -> dict[str, Any] | None:
    """A record of this round; None for what is none."""
    found = formed(ROUND, raw)
    return dict(found) if found and found["number"] == number else None


def _shard_of_batch(stem: str) -> int | None:
    """The shard that a batch's mark of this name speaks of; None for a name that no such mark has."""
    found = _BATCH.fullmatch(stem)
    return int(found[1]) if found and f"{int(found[1]):05d}" == found[1] else None


def _is_name(text: str) -> bool:
    """Whether a spec could have given an exporter this name."""
    return bool(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", text))
