"""Which annotation tool a file comes from, by its content."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from synthgen.errors import RunError
from synthgen.review.annotated import AnnotatedImage
from synthgen.review.coco import read_coco
from synthgen.review.cvat import read_cvat
from synthgen.review.label_studio import read_label_studio

_BEGIN = 4096  # bytes in which something other than white space stands
READERS = {
    b"<": read_cvat,
    b"P": read_cvat,  # `PK`, an archive
    b"[": read_label_studio,
    b"{": read_coco,
}
_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # of XML


def read_annotations(path: Path) -> Iterator[AnnotatedImage]:
    """Yields what annotators made of the images of an export, read by the reader of their tool.

    Raises:
        RunError: the file is of no tool that is known, or its reader refuses it.
    """
    try:
        with open(path, "rb") as file:
            begin = file.read(_BEGIN)
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from error
    reader = read_cvat if begin.startswith(_MARKS) else READERS.get(begin.lstrip()[:1])
    if reader is None:
        takes = "takes CVAT for images 1.1, as XML or in its archive, Label Studio's JSON, and COCO"
        raise RunError(f"{path} is of no annotation tool that is known; {takes}")
    yield from reader(path)
