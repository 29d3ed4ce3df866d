"""A run folder: its number, its lock, and its paths, marks, rounds, tables, images and facts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from synthgen.base.files import naming_errors
from synthgen.errors import NotWritable, OutOfRoom, RunError
from synthgen.store import lease
from synthgen.store.facts import Facts
from synthgen.store.files import Files
from synthgen.store.images import Images
from synthgen.store.location import mirror_of
from synthgen.store.marks import Marks
from synthgen.store.paths import Paths, run_name, run_number
from synthgen.store.rounds import Rounds
from synthgen.store.tables import Tables


class Run:
    """One run of a dataset: `DIR/<name>/run-0001`.

    Attributes:
        root: the folder on this machine.
        paths: of everything in the folder.
        files: how files are written, removed and read, here and in an object store.
        marks: what is done.
        rounds: how many images each round asks for, and of what.
        tables: jobs, labels, measures and verdicts.
        images: the PNG files.
        facts: the spec as it was run, and `run.json`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._leases: Sequence[lease.Lease] = ()  # while this object holds the lock
        self._mirror = mirror_of(self.root, self._confirm)
        self.paths = Paths(self.root)
        self.files = Files(self.paths, self._mirror, self._confirm)
        self.marks = Marks(self.files)
        self.rounds = Rounds(self.files, self.marks)
        self.tables = Tables(self.files)
        self.images = Images(self.files)
        self.facts = Facts(self.files)

    @classmethod
    def at(cls, out: Path, name: str, number: int) -> Run:
        return cls(out / name / run_name(number))

    @classmethod
    def existing(cls, root: Path) -> Run:
        """A run folder that a person named. Syncs it with its store if it mirrors one.

        Raises:
            RunError: it is not a run folder.
        """
        run = cls(root)
        run.refresh()
        if not run.paths.spec.is_file():
            raise RunError(f"{run.address!r} is no run folder; it takes one such as outputs/quickstart/run-0001")
        return run

    # In an object store

    @property
    def is_mirror(self) -> bool:
        return self._mirror is not None

    @property
    def address(self) -> str:
        """The folder's name for other machines: its URL in an object store, else its path."""
        return self._mirror.url if self._mirror else str(self.root)

    def sync(self, shards: Collection[int] | None = None, *, files: bool = True, drop: bool = True) -> None:
        """Brings a mirror in line with its store, see `Mirror.sync`; does nothing to other folders."""
        if self._mirror:
            self._mirror.sync(shards, files, drop)

    def refresh(self, files: bool = False) -> None:
        """`sync` for commands that only read. Without `files`, images are fetched one by one when they are read. Does
        nothing while a process of this machine is at work in the folder, because that process has synced it."""
        if self._mirror:
            self._mirror.sync(None, files, drop=True, unless=lambda: bool(lease.holder(self.paths.lock)))

    # Its number

    @property
    def number(self) -> int:
        """The recorded number; if nothing is recorded yet, the number in the folder's name.

        Raises:
            RunError: there is no number in either.
        """
        number = self.recorded_number or self.named_number
        if number is None:
            raise RunError(f"{self.address}: neither its name nor a plan in it says the number of the run")
        return number

    @property
    def named_number(self) -> int | None:
        """The number in the folder's name; None if it is not the name of a run."""
        return run_number(self.root.name)

    @property
    def recorded_number(self) -> int | None:
        """The number of the run that the folder holds, by `run.json`. If the file is damaged, or by an earlier version
        that did not record the number, it is read from the jobs. None if nothing is planned."""
        with suppress(RunError):
            if number := self.facts.read().get("run"):
                return int(number)
        return self.planned_number

    @property
    def planned_number(self) -> int | None:
        """The number of the run in the first jobs that can be read; None if there are none."""
        for shard in self.marks.shards():
            with suppress(RunError):
                for rows in self.tables.read_batches(self.paths.table("jobs", shard), ["run"]):
                    if rows.num_rows:
                        return int(rows["run"][0].as_py())
        return None

    @property
    def is_another(self) -> bool:
        """Whether the folder holds another run than its name says, for example because it is a copy."""
        return self.named_number is not None and self.recorded_number not in {None, self.named_number}

    # Lock

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps other processes out of the folder. The lock dies with its holder, even if that is killed. See `lease`.

        This object is the handle: while it holds the lock, it and its parts check before each write that they still
        hold it. So code that works under the lock gets this object, not another one of the same folder.

        Raises:
            RunError: another process holds the lock. Later, a write raises it if another process has taken over the
                lock or the folder is gone.
        """
        with self._held(self.paths.lock, self.paths.lock.name) as self._leases:
            try:
                self.sync()
                yield
            except Exception:
                self._confirm()  # if the folder has been taken over or is gone, this is the cause to report
                raise
            finally:
                self._leases = ()

    @contextmanager
    def reading(self) -> Iterator[bool]:
        """`lock` for commands that also work in a folder without write permission. Yields whether it is locked.

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
                self.refresh()
                locked = False
            yield locked

    @contextmanager
    def reviewing(self) -> Iterator[None]:
        """Lets one process at a time review a run in a store. For other folders, the lock on the log of reviews does
        that.

        Raises:
            RunError: another process reviews the run.
        """
        if not self._mirror:
            yield
            return
        with self._held(self.root.with_name(f".{self.root.name}.review"), ".review"):
            self.refresh()
            yield

    def holder(self) -> str:
        """The process that holds the lock, with its host; "" for none."""
        local = lease.holder(self.paths.lock)
        return lease.named(self._mirror.slot(self.paths.lock.name)) if self._mirror and not local else local

    @contextmanager
    def _held(self, file: Path, name: str) -> Iterator[list[lease.Lease]]:
        """`lease.held` for a file and, if there is a store, for the object of this name."""
        try:
            with naming_errors(self.root):
                self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise NotWritable(f"{self.root} cannot be made: {error.strerror}") from error
        with ExitStack() as stack:
            held = [stack.enter_context(lease.held(file))]
            if self._mirror:
                held.append(stack.enter_context(lease.leased(self._mirror.slot(name))))
            yield held

    def _confirm(self) -> None:
        for held in self._leases:
            held.confirm()
