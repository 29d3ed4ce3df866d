"""Reviews: the verdicts of people on labels. They are a log that only grows, with one line for each verdict. A verdict
is on the disk before the next question is asked. All verdicts of an imported file stand in one line, so that a log has
all of them or none.

Every line holds a hash of the line before it, and the mark of judging holds the number of lines and the hash of the
last. So a missing line is noticed, in the middle of the file or at its end.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import IO, Annotated, Any, Literal, get_args

import orjson
from pydantic import ConfigDict, Field, TypeAdapter, with_config

from synthgen.base.sealed import SEAL, sha256_json
from synthgen.errors import FULL, OutOfRoom, RunError

PageVerdict = Literal["accept", "reject", "wrong_class", "bad_mask"]  # of the review page; earlier versions know these
# Of annotators: they removed or added a label, made it a region to be ignored, or corrected labels of an image.
Verdict = Literal[PageVerdict, "removed", "added", "ignored", "corrected"]
Queue = Literal["random", "borderline"]
Number = Annotated[int, Field(ge=0, lt=2**63)]
AFTER = "after"  # the key under which a line has the hash of the line before it
MANY = "reviews"  # the key under which a line has several verdicts, or one that earlier versions would misread
PAGE_VERDICTS: tuple[PageVerdict, ...] = get_args(PageVerdict)
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


def reason(verdict: str) -> str:
    """The reason for which an image or a label with this verdict is not kept."""
    return f"review_{verdict}"


def labels_digest(rows: Sequence[Mapping[str, Any]]) -> str:
    """A hash of the labels of one image, rows of `labels/*.parquet`. A verdict is on these labels only."""
    return sha256_json([[row["instance"], row["category_id"], row["rle"]] for row in rows])[:16]


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, slots=True)
class Review:
    """One verdict.

    Attributes:
        image_id, instance: the label; `instance` None: the image with all its labels. The numbers of labels that people
            added follow those of the image's labels.
        category_id: the right class; None if the label has it, or if the spec does not have the right class.
        queue: the queue that asked for it, or "import". Only the random one counts for precision.
        labels: `labels_digest` of the image's labels when a person looked at them.
        at: time, UTC, ISO 8601.
        by: who gave it; "" if that is not known.
        rle: the right mask, as the counts of its COCO RLE in the whole image; None if the label has it. It is there for
            every label that people added.
    """

    image_id: Number
    instance: Number | None
    verdict: Verdict
    category_id: int | None
    queue: Queue | Literal["import"]
    labels: str
    at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    by: str = ""
    rle: str | None = None

    @property
    def about(self) -> tuple[int, int | None]:
        return self.image_id, self.instance

    @property
    def is_right(self) -> bool:
        """Whether it says that the model's label is right as it is."""
        return self.verdict == "accept" and self.category_id is None and self.rle is None

    def says(self, other: Review) -> bool:
        """Whether it says the same as another one, whoever gave it and when."""
        own, others = (replace(review, queue="import", at="", by="") for review in (self, other))
        return own == others

    def record(self) -> dict[str, Any]:
        """The fields, as plain data. Fields that earlier versions do not know are left out where they are empty."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in fields.items() if value or name not in {"by", "rle"}}


@dataclass(frozen=True, slots=True)
class Reviews:
    """The verdicts that hold: the last one on each label and image.

    Attributes:
        of: (image id, instance or None) -> verdict.
        lines: a hash of each line of the log, in order.
    """

    of: Mapping[tuple[int, int | None], Review] = field(default_factory=dict)
    lines: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.of)

    def digest(self) -> str:
        """A hash of the verdicts without their times; "" without verdicts."""
        rows = [
            [r.image_id, r.instance, r.verdict, r.category_id, r.queue, r.labels, *filter(None, [r.rle])]
            for r in self.of.values()
        ]
        return sha256_json(sorted(rows, key=str)) if rows else ""

    def image_ids(self) -> set[int]:
        return {image_id for image_id, _ in self.of}

    def where(self, keep: Callable[[Review], bool]) -> Reviews:
        return replace(self, of={about: review for about, review in self.of.items() if keep(review)})

    def extent(self) -> list[Any]:
        """The number of lines and the hash of the last one, for `has`."""
        return [len(self.lines), self.lines[-1]] if self.lines else [0, ""]

    def has(self, extent: Sequence[Any]) -> bool:
        """Whether the log still has all the lines that it had at an earlier `extent`."""
        count, last = extent
        return not count or (len(self.lines) >= count and self.lines[count - 1] == last)


class DamagedReviews(RunError):
    """A log of reviews is damaged.

    Attributes:
        what: the line, and what is wrong with it.
    """

    def __init__(self, file: str, what: str) -> None:
        super().__init__(file, what)  # An exception is pickled by its arguments.
        self.what = what

    def __str__(self) -> str:
        return ", ".join(self.args)


_REVIEWS = TypeAdapter(tuple[Review, ...])


def read_reviews(path: Path) -> Reviews:
    """The log of a run, without the verdicts that were taken back. A last line that a crash cut short does not count.

    Raises:
        DamagedReviews: another line is damaged, or lines are missing before it.
    """
    made, names = _lines(path)
    return Reviews(_standing(chain.from_iterable(made)), names)


def _standing(made: Iterable[Review]) -> dict[tuple[int, int | None], Review]:
    """The last verdict on each label and image. A label that the random queue has shown stays in the random sample,
    even if a later verdict on it comes from another queue: otherwise that queue would change the sample."""
    standing: dict[tuple[int, int | None], Review] = {}
    for review in made:
        before = standing.get(review.about)
        sampled = before is not None and before.queue == "random" and before.labels == review.labels
        standing[review.about] = replace(review, queue="random") if sampled else review
    return standing


def _named(line: bytes) -> str:
    """The hash of a line of the log, which the next line holds."""
    return hashlib.sha256(line).hexdigest()[:16]


def _lines(path: Path) -> tuple[list[tuple[Review, ...]], list[str]]:
    """The verdicts that were not taken back, by line, in the order of the log; and the hash of each line."""
    if not path.is_file():
        return [], []
    found: list[tuple[Review, ...]] = []
    names: list[str] = []
    linked = False  # Earlier versions wrote lines without the hash of the line before.
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):  # The last piece is empty, or cut short.
        try:
            raw = orjson.loads(line)
            if raw.pop(SEAL) != sha256_json(raw)[:8]:
                raise ValueError("damaged")
            before = raw.pop(AFTER, None)
            linked = linked or before is not None
            if linked and before != (names[-1] if names else ""):
                what = f"line {number} does not follow the line before it: lines are missing there"
                raise DamagedReviews(path.name, what)
            names.append(_named(line))
            if raw == {"undo": True}:
                found.pop()
                continue
            found.append(_REVIEWS.validate_python(raw[MANY] if raw.keys() == {MANY} else [raw]))
        except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            raise DamagedReviews(path.name, f"line {number} is damaged; restore a copy of the file") from error
    return found, names


def _locked(path: Path) -> IO[bytes]:
    """The file, open for this process alone."""
    while True:
        file = open(path, "ab", buffering=0)  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Before this process got the lock, its holder may have removed the file: then the lock keeps nobody out.
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except FileNotFoundError:
            pass
        except BlockingIOError as error:
            file.close()
            raise RunError(f"another review of {path.parent} is open; end it first") from error
        except OSError:  # a file system without locks
            return file
        file.close()


class ReviewLog:
    """The log of a run, open for one reviewer. Verdicts are on the disk when `add` and `undo` return."""

    def __init__(self, path: Path, file: IO[bytes], publish: Callable[[Path], None]) -> None:
        self._path, self._file, self._publish = path, file, publish
        self._made, names = _lines(path)
        self._last = names[-1] if names else ""
        end = path.read_bytes().rfind(b"\n") + 1
        self._file.truncate(end)  # of a torn last line
        self._file.seek(end)

    @classmethod
    @contextmanager
    def open(cls, path: Path, publish: Callable[[Path], None] = lambda path: None) -> Iterator[ReviewLog]:
        """Opens a log. If it has no verdict when it is closed, it is removed.

        Args:
            publish: called with the log's path after each new line.

        Raises:
            RunError: another reviewer has it open.
        """
        with _locked(path) as file:
            try:
                yield cls(path, file, publish)
            finally:
                if not os.fstat(file.fileno()).st_size:
                    path.unlink(missing_ok=True)

    @property
    def made(self) -> list[Review]:
        """The verdicts, in order."""
        return [*chain.from_iterable(self._made)]

    @property
    def last(self) -> tuple[Review, ...]:
        """What `undo` would take back."""
        return self._made[-1] if self._made else ()

    def standing(self) -> Reviews:
        """The verdicts that hold, without the hashes of lines."""
        return Reviews(_standing(self.made))

    def add(self, *reviews: Review) -> None:
        """Adds verdicts: after a crash, the log has all of them or none."""
        (first, *others) = (review.record() for review in reviews)
        is_known = not others and reviews[0].verdict in PAGE_VERDICTS and reviews[0].rle is None
        self._append(first if is_known else {MANY: [first, *others]})
        self._made.append(reviews)

    def undo(self) -> tuple[Review, ...]:
        """Takes back what the last `add` added, and returns it."""
        if not self._made:
            return ()
        self._append({"undo": True})
        return self._made.pop()

    def _append(self, content: Mapping[str, Any]) -> None:
        """
        Raises:
            OutOfRoom: the disk is full. Nothing of the line is left.
            RunError: the disk fails in another way. Nothing of the line is left.
        """
        content = {**content, AFTER: self._last}
        line = orjson.dumps({**content, SEAL: sha256_json(content)[:8]})
        end = os.fstat(self._file.fileno()).st_size
        try:
            left = memoryview(line + b"\n")
            while left:
                left = left[self._file.write(left) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(end)
            if error.errno in FULL:
                raise OutOfRoom(f"no room left on the disk for {self._path}; the verdict was not saved") from error
            raise RunError(f"{self._path}: {error.strerror}; the verdict was not saved") from error
        self._last = _named(line)
        self._publish(self._path)
