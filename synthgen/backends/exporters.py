"""What exporters do, and what they are given."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Annotated, ClassVar, Literal, Protocol, Self, TypeVar, runtime_checkable

from pydantic import Field, model_validator

from synthgen.backends.config import Config
from synthgen.backends.stages import Request, Stage
from synthgen.base.wording import shown
from synthgen.errors import Problem, WrongValue, listed, nearest
from synthgen.types import Box, Category, DatasetInfo, Record

ImageEncoding = Literal["link", "copy", "jpeg", "webp"]
ENDINGS: Mapping[ImageEncoding, str] = {"link": ".png", "copy": ".png", "jpeg": ".jpg", "webp": ".webp"}
ClassName = Annotated[str, Field(min_length=1, max_length=200)]


class SubsetOptions(Config):
    """Which part of the dataset is exported, and under which names. An exporter need do nothing for it: the records and
    the classes that it gets are that part already. The same dataset and options give the same part."""

    added: ClassVar[frozenset[str]] = frozenset({"classes", "max_per_class", "negatives", "min_area"})

    classes: tuple[ClassName, ...] | dict[ClassName, ClassName | None] | None = Field(
        None,
        description="A list: the classes to keep. A mapping: new names by class, null to leave one out; classes with "
        "the same new name become one, and those that are not named stay as they are.",
    )
    max_per_class: int | None = Field(
        None, ge=1, description="Most objects of a class. Whole images are left out until that holds."
    )
    negatives: float | None = Field(
        None, ge=0, lt=1, description="Greatest share of images without an object; others of them are left out."
    )
    min_area: int | None = Field(
        None, ge=1, description="Objects with fewer pixels become regions to be ignored, as they can still be seen."
    )

    def exported_name(self, name: str) -> str | None:
        """The name under which a class of the spec is exported; None if it is left out."""
        if isinstance(self.classes, Mapping):
            return self.classes.get(name, name)
        return name if self.classes is None or name in self.classes else None

    def exported_names(self, categories: Iterable[Category]) -> list[str]:
        """The names of the classes of an export, each once."""
        return list(dict.fromkeys(name for c in categories if (name := self.exported_name(c.name)) is not None))


class ImageOptions(SubsetOptions):
    """Options of exporters that give images away."""

    images: ImageEncoding = Field(
        "link",
        description="link: hard links to the run's images where the disk can; copy: files of their own; jpeg, webp: "
        "encoded again, smaller and with a little loss.",
    )
    quality: int | None = Field(None, ge=1, le=100, description="Of jpeg and webp; null is 95 for jpeg, 90 for webp.")
    added: ClassVar[frozenset[str]] = SubsetOptions.added | {"quality"}

    @model_validator(mode="after")
    def _quality_counts(self) -> Self:
        if self.quality is not None and self.images in {"link", "copy"}:
            raise WrongValue(f"got {self.quality} with `images: {self.images}`; takes jpeg or webp with it", "quality")
        return self

    @property
    def image_ending(self) -> str:
        """The ending of the names of image files."""
        return ENDINGS[self.images]

    def image_name(self, image_id: int) -> str:
        """The usual name of an image's file: 000000000001.png."""
        return f"{image_id:012d}{self.image_ending}"


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
                encoded again with everything that the image carries beside its pixels, smaller and with a little
                loss (JPEG quality 95, WebP quality 90, unless `ImageOptions.quality` says otherwise). Where the spec
                has exports signed, link and copy give a file of its own with a signature.

        Raises:
            RunError: the image has to be read for this, and is not the image that was made.
        """

    def image_bytes(self, source: Path, *, encoding: ImageEncoding = "link") -> bytes:
        """The bytes of the file that `image` would write, for formats that hold images within other files.

        Raises:
            RunError: the image is not the image that was made.
        """

    def crops(self, source: Path, boxes: Mapping[str, Box], *, encoding: ImageEncoding = "link") -> None:
        """Writes parts of an image of the run, each with everything that the image carries beside its pixels.

        Args:
            source, encoding: as for `image`; link and copy make PNGs.
            boxes: name -> the part, xyxy px, with at least one pixel.

        Raises:
            RunError: the image is not the image that was made, or cannot be decoded.
        """

    def report_loss(self, sentence: str) -> None:
        """Says, in a sentence with numbers, what the format could not hold. The user reads it after the export."""

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
    """The images to export, in order of id, read from disk as they are iterated: as often as wanted, one at a time."""

    def __iter__(self) -> Iterator[Record]: ...

    def split(self, name: str) -> Iterator[Record]:
        """Those of one split."""

    @property
    def content_hash(self) -> str:
        """The version of the dataset: a hash, 64 hex digits, of its images, labels and splits. It is the same in every
        format. It costs nothing once the records have been iterated to their end, so exporters write it last."""


@dataclass(frozen=True, slots=True)
class RecordField:
    """A field of a `RecordSet`.

    Attributes:
        type: Croissant's, such as `sc:Integer`, `cr:BoundingBox`.
        extract: where it is in a file: {"column": …}, {"jsonPath": …} or {"fileProperty": …}; for a value within a
            column, the path in it is added as `transform`, {"jsonPath": …}; for a part of a text, {"regex": …}.
        form: of a bounding box, such as XYWH.
        is_list: whether a record has a list of it.
    """

    name: str
    type: str
    description: str
    extract: Mapping[str, str]
    transform: Mapping[str, str] = field(default_factory=dict)
    form: str = ""
    is_list: bool = False


@dataclass(frozen=True, slots=True)
class RecordSet:
    """Records that readers of Croissant load from an export. `files`: their names, as a pattern with * and ?;
    `media_type`: of the files; `key`: the field that tells records apart; "" if there is none."""

    name: str
    description: str
    files: str
    media_type: str
    key: str
    fields: tuple[RecordField, ...]


C = TypeVar("C", bound=Config)


class Exporter(Stage[C]):
    """Writes the accepted images in a format that others load."""

    def check(self, request: Request) -> Iterable[Problem]:
        yield from super().check(request)
        if isinstance(self.config, SubsetOptions):
            yield from _unknown_classes(self.config.classes, [category.name for category in self.categories])

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

    def record_sets(self, info: DatasetInfo) -> Sequence[RecordSet]:
        """The records that `croissant.json` describes besides the files (http://mlcommons.org/croissant/1.1)."""
        return ()


def _unknown_classes(chosen: Iterable[str] | None, names: Sequence[str]) -> Iterator[Problem]:
    for name in chosen or ():
        if name not in names:
            takes = f"takes classes of the spec: {listed(names)}"
            yield Problem(".classes", f"got {shown(name)}{nearest(name, names)}; {takes}")
    if isinstance(chosen, Mapping) and not any(chosen.get(name, name) for name in names):
        yield Problem(".classes", "leaves no class; takes a mapping that keeps one at least")
