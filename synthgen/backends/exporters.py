"""What exporters do, and what they are given."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Literal, Protocol, TypeVar, runtime_checkable

from synthgen.backends.config import Config
from synthgen.backends.stages import Stage
from synthgen.types import DatasetInfo, Record

ImageEncoding = Literal["link", "copy", "jpeg", "webp"]


class Folder(Protocol):
    """Where an exporter writes. A name is relative, has forward slashes and is given once; an exporter can reach
    nothing outside this folder."""

    def open(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """A new file. It appears under its name only when the block has ended well."""

    def image(self, source: Path, name: str, *, encoding: ImageEncoding = "link") -> None:
        """Gives an image of the run a name here.

        Args:
            source: `Record.image_path`, a PNG.
            encoding: link: a hard link where the disk has them, else a copy; copy: a file of its own; jpeg, webp:
                encoded again, smaller and with a little loss (JPEG quality 95, WebP quality 90).

        Raises:
            RunError: the image has to be read for this, and is not the image that was made.
        """

    def scratch(self) -> AbstractContextManager[IO[bytes]]:
        """A temporary file to write and read back, on the disk of this folder. It is gone when the block ends."""


class ExportedFolder(Protocol):
    """An export to be read back. The run has compared the size and the checksum of each of its files already."""

    def names(self) -> Iterator[str]:
        """The names of all files that the exporter wrote, in the order in which it wrote them."""

    def has(self, name: str) -> bool:
        """Whether the exporter wrote a file of this name."""

    def open(self, name: str) -> IO[bytes]:
        """A file that the exporter wrote, for reading. The caller closes it."""


@runtime_checkable
class Records(Protocol):
    """The accepted images, in order of id, read from disk as they are iterated: as often as wanted, one at a time."""

    def __iter__(self) -> Iterator[Record]: ...

    def split(self, name: str) -> Iterator[Record]:
        """Those of one split."""


C = TypeVar("C", bound=Config)


class Exporter(Stage[C]):
    """Writes the accepted images in a format that others load."""

    @abstractmethod
    def export(self, info: DatasetInfo, records: Records, folder: Folder) -> None:
        """Writes the dataset: the same bytes for the same records."""

    def verify(self, folder: ExportedFolder, records: Records) -> Iterable[tuple[str, str]]:
        """Reads an export back, in bounded memory, and compares it with the records that it was written from.

        An exporter without this method compares nothing: the checksums of its files are compared in any case.

        Returns:
            Names of files, each with what is wrong with it: the end of a sentence that begins with the name.
        """
        return ()
