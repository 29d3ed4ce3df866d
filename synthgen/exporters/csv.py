"""A table, `objects.csv`: a row for each object, and one for each image without any. The images lie beside it.

Read by pandas, databases and spreadsheets. UTF-8; commas and quotes as in RFC 4180. `pandas.read_csv` takes a class
called `NA` for a gap and one called `1` for a number, unless it gets `na_values=[""], keep_default_na=False` and
`dtype={"class": str}`.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from math import isfinite
from shutil import copyfileobj
from typing import IO, Any, Literal

from pydantic import Field

from synthgen.backends import ExportedFolder, Exporter, Folder, ImageOptions, RecordField, Records, RecordSet
from synthgen.base.wording import shown
from synthgen.types import Annotation, Category, DatasetInfo, Record

TABLE = "objects.csv"
OF_IMAGE = ("split", "file_name", "image_id", "width", "height", "seed", "prompt", "negative_prompt")
OF_OBJECT = (
    "annotation_id", "instance", "class", "category_id", "bbox_x", "bbox_y", "bbox_width", "bbox_height", "area",
    "ignore", "rle",
)  # fmt: skip
TEXTS = {"split", "file_name", "prompt", "negative_prompt", "class", "rle"}
# What a spreadsheet takes for the beginning of a formula (OWASP, "CSV Injection"); and the mark of text itself.
FORMULAS = tuple("=+-@\t\r\n＝＋－＠'")


class Config(ImageOptions):
    """Options of `csv`."""

    formulas: Literal["quote", "keep"] = Field(
        "quote",
        description="Names and prompts that a spreadsheet would compute, such as =1+1. quote: they get a ' in front; "
        "keep: they stay as they are.",
    )


class Backend(Exporter[Config]):
    """Columns: `split`, `file_name` (from the table's folder), `image_id`, `width`, `height`, `seed`, `prompt` and
    `negative_prompt` of the image; `annotation_id`, `instance`, `class`, `category_id`, `bbox_x`, `bbox_y`,
    `bbox_width` and `bbox_height` in px, `area` in pixels, `ignore` (1 for a region to be ignored) and `rle` of the
    object; and a column `score_…` for each of its scores. Cells of an object are empty where an image has none, and
    where a score is not known.

    `{"size": [height, width], "counts": rle}` is the mask for pycocotools. Scores have 6 significant digits. An image's
    slots and measures are in the `coco` export alone.
    """

    def export(self, info: DatasetInfo, records: Records, folder: Folder) -> None:
        scores: dict[str, None] = {}  # names in the order in which they are met
        widths: set[int] = set()
        quoted = 0
        with folder.open(TABLE) as file, folder.scratch() as scratch:
            write = csv.writer(_Encoded(scratch), lineterminator="\n").writerow
            for record in records:
                folder.image(record.image_path, self._image(record), encoding=self.config.images)
                for row, found in self._rows(record, info.categories):
                    if self.config.formulas == "quote":
                        quoted += sum(isinstance(cell, str) and cell.startswith("'") for cell in row)
                    scores.update(dict.fromkeys(found))
                    widths.add(len(scores))
                    write([*row, *(_score(found.get(name)) for name in scores)])
            csv.writer(_Encoded(file), lineterminator="\n").writerow(_header(scores))
            scratch.seek(0)
            if len(widths) > 1:
                _pad(scratch, file, len(OF_IMAGE) + len(OF_OBJECT) + len(scores))
            else:
                copyfileobj(scratch, file)
        if quoted:
            folder.report_loss(
                f"{quoted:,} cells of {TABLE} have a ' in front, since a spreadsheet would compute them; "
                "`formulas: keep` leaves them as they are"
            )

    def record_sets(self, info: DatasetInfo) -> Sequence[RecordSet]:
        fields = [
            RecordField(
                name,
                "sc:Text" if name in TEXTS else "sc:Float" if name.startswith("bbox") else "sc:Integer",
                f"The column `{name}` of the {'image' if name in OF_IMAGE else 'object'}.",
                {"column": name},
            )
            for name in OF_IMAGE + OF_OBJECT
        ]
        return [RecordSet("objects", "A row for each object.", TABLE, "text/csv", "", tuple(fields))]

    def verify(self, folder: ExportedFolder, records: Records) -> Iterator[tuple[str, str]]:
        """Compares the rows with the records, up to the first that differs."""
        if not folder.has(TABLE):
            yield TABLE, "is not among the exported files"
            return
        try:
            with TextIOWrapper(folder.open(TABLE), "utf-8", newline="") as file, _fields_of_any_size():
                fault = self._fault(folder, records, csv.reader(file, strict=True))
        except (csv.Error, UnicodeDecodeError) as error:
            fault = f"is no CSV in UTF-8: {error}"
        if fault:
            yield TABLE, fault

    def _fault(self, folder: ExportedFolder, records: Records, lines: Any) -> str:
        header: list[str] = next(lines, [])
        scores = [name.removeprefix("score_") for name in header[len(OF_IMAGE) + len(OF_OBJECT) :]]
        if header != _header(scores):
            return f"has other columns, expected {', '.join(_header([]))} and scores"
        for record in records:
            if not folder.has(image := self._image(record)):
                return f"has image {record.job.id}, whose file {image} is not among the exported files"
            for row, found in self._rows(record, self.categories):
                if unknown := found.keys() - set(scores):
                    return f"has no column score_{min(unknown)}"
                expected = [*map(str, row), *(_score(found.get(name)) for name in scores)]
                if (line := next(lines, None)) is None:
                    return f"ends before image {record.job.id}"
                if len(line) != len(header):
                    return f"has {len(line)} cells in line {lines.line_num}, expected {len(header)}"
                for column, cell, value in zip(header, line, expected, strict=True):
                    if cell != value:
                        return f"has {shown(cell)} as {column} in line {lines.line_num}, expected {shown(value)}"
        if next(lines, None) is not None:
            return f"has line {lines.line_num} besides, of an object that was not kept"
        return ""

    def _image(self, record: Record) -> str:
        return f"images/{record.job.split}/{self.config.image_name(record.job.id)}"

    def _rows(self, record: Record, categories: Sequence[Category]) -> Iterator[tuple[list[Any], Mapping[str, float]]]:
        """The cells of each row of an image without its scores, and the scores."""
        job, by_id = record.job, {category.id: category for category in categories}
        image = [
            job.split, self._image(record), job.id, job.width, job.height, job.seed, self._text(job.prompt),
            self._text(job.negative_prompt),
        ]  # fmt: skip
        for annotation in record.annotations:
            yield [*image, *self._object(annotation, by_id[annotation.category_id])], annotation.scores
        if not record.annotations:
            yield [*image, *("" for _ in OF_OBJECT)], {}

    def _object(self, a: Annotation, category: Category) -> list[Any]:
        box = [int(v) if v == int(v) else v for v in a.bbox_xywh]
        name = self._text(category.name)
        return [a.id, a.instance, name, category.exported_id, *box, a.area, int(a.ignore), a.rle["counts"]]

    def _text(self, text: str) -> str:
        return f"'{text}" if self.config.formulas == "quote" and text.startswith(FORMULAS) else text


class _Encoded:
    """A file of bytes to which `csv` writes text."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, text: str) -> None:
        self._file.write(text.encode("utf-8"))


def _header(scores: Iterable[str]) -> list[str]:
    return [*OF_IMAGE, *OF_OBJECT, *(f"score_{name}" for name in scores)]


def _score(value: float | None) -> str:
    return "" if value is None or not isfinite(value) else f"{value:.6g}"


def _pad(scratch: IO[bytes], file: IO[bytes], cells: int) -> None:
    """Copies rows and appends cells to those that were written before the last score was met."""
    write = csv.writer(_Encoded(file), lineterminator="\n").writerow
    with _fields_of_any_size():
        text = TextIOWrapper(scratch, "utf-8", newline="")
        for row in csv.reader(text):
            write([*row, *[""] * (cells - len(row))])
        text.detach()


@contextmanager
def _fields_of_any_size() -> Iterator[None]:
    """Python reads no cell above 131,072 characters by default; a mask of noise may have more."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)
