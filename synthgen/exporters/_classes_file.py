"""`classes.json`: the classes of an export, for readers of folders and of pixels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from synthgen.backends import ExportedFolder, Folder
from synthgen.types import DatasetInfo

CLASSES = "classes.json"


def write_classes(
    folder: Folder, info: DatasetInfo, content_hash: str, classes: Sequence[Mapping[str, Any]], **more: Any
) -> None:
    """`more`: what else the file says, before the classes."""
    subset = {"subset": info.subset} if info.subset else {}
    said = {"name": info.name, "content_hash": content_hash, **subset, **more, "classes": classes}
    with folder.open(CLASSES) as file:
        file.write(orjson.dumps(said, option=orjson.OPT_INDENT_2) + b"\n")


def faults_of_classes(folder: ExportedFolder, classes: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """What is wrong with the file, if something is: see `Exporter.verify`."""
    if not folder.has(CLASSES):
        yield CLASSES, "is not among the exported files"
        return
    with folder.open(CLASSES) as file:
        try:
            found = orjson.loads(file.read())
        except ValueError as error:
            yield CLASSES, f"is no JSON: {error}"
            return
    if not isinstance(found, dict) or found.get("classes") != classes:
        yield CLASSES, "does not have the classes of the spec"
