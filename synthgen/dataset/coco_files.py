"""Anybody's COCO files as a side of a diff, read one image and one annotation at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from synthgen.base.files import sha256
from synthgen.base.json_stream import items
from synthgen.base.pictures import MAX_PIXELS
from synthgen.base.wording import plain, shown
from synthgen.dataset.labels import Box, Image, Label, Object
from synthgen.errors import RunError

SPLIT = re.compile(r"instances_(.+)\.json")
KEYS = ("categories", "images", "annotations")
FOLDERS = ("{split}", "images/{split}", "images", "")  # where the images of a split may be, beside its annotations
T = TypeVar("T", int, str)


def coco_files(path: Path) -> list[Path]:
    """The COCO files that a path names: one file, or those of all splits in the folder of an export."""
    if path.is_file() and path.suffix == ".json":
        return [path]
    return sorted(path.glob("annotations/instances_*.json"))


class CocoSide:
    """The images and annotations of some COCO files, see `Side`.

    The name of a file says the split: `instances_train.json`. A file of another name has no split.

    Raises:
        RunError: a file cannot be read, or is no COCO file.
    """

    content_hash = ""  # The one in the file is that of the run's export, whatever the file holds by now.

    def __init__(self, address: str, files: Sequence[Path]) -> None:
        self.address = address
        self._files = {(match[1] if (match := SPLIT.fullmatch(f.name)) else ""): f for f in files}
        self._names = {split: _categories(file) for split, file in self._files.items()}
        self._folders = {split: _folder(split, file) for split, file in self._files.items()}
        self.categories = tuple(dict.fromkeys(name for names in self._names.values() for name in names.values()))
        self.has_files = None not in self._folders.values()

    def read(self, *, checksums: bool) -> Iterator[Image | Label]:
        for split, file in self._files.items():
            folder = self._folders[split] if checksums else None
            for key, entry in _entries(file, KEYS):
                if key == "images":
                    yield _image(file, entry, split, folder)
                elif key == "annotations":
                    yield _label(file, entry, split, self._names[split])


def _categories(file: Path) -> dict[int, str]:
    """Category id -> name."""
    names: dict[int, str] = {}
    for key, entry in _entries(file, KEYS):
        if key == "categories":
            names[_value(file, key, entry, "id", int)] = _value(file, key, entry, "name", str)
        elif names:
            break  # The rest of the file is long.
    return names


def _folder(split: str, file: Path) -> Path | None:
    """The folder of a split's images; None if they are not there."""
    first = next((entry for _, entry in _entries(file, ("images",))), None)
    root = file.parent.parent if file.parent.name == "annotations" else file.parent
    if first is None:
        return root
    name = _file_name(file, first)
    folders = (root / place.replace("{split}", split) for place in FOLDERS)
    return next((folder for folder in folders if (folder / name).is_file()), None)


def _entries(file: Path, keys: Sequence[str]) -> Iterator[tuple[str, Any]]:
    try:
        with open(file, "rb") as opened:
            yield from items(opened, keys)
    except OSError as error:
        raise RunError(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise RunError(f"{file} is no COCO file: {error}") from error


def _value(file: Path, key: str, entry: Any, name: str, kind: type[T]) -> T:
    value = entry.get(name) if isinstance(entry, dict) else None
    if type(value) is not kind:
        what = "a whole number" if kind is int else "text"
        raise RunError(f"{file}: {name!r} of an entry of {key!r} is {shown(value)}; takes {what}")
    return value


def _file_name(file: Path, entry: Any) -> str:
    name = _value(file, "images", entry, "file_name", str)
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise RunError(f"{file} names the image {shown(name)}; takes names of files within its folder")
    return name


def _image(file: Path, entry: Any, split: str, folder: Path | None) -> Image:
    name, checksum = _file_name(file, entry), ""
    if folder is not None:
        if not (path := folder / name).is_file():
            raise RunError(f"{file} names the image {plain(name)}, which is not in {folder}; add --match name")
        checksum = sha256(path)
    height, width = (entry.get(side) for side in ("height", "width"))
    if not (type(height) is type(width) is int and height > 0 and width > 0 and height * width <= MAX_PIXELS):
        height = width = 0
    return Image(_value(file, "images", entry, "id", int), split, PurePosixPath(name).stem, height, width, checksum)


def _label(file: Path, entry: Any, split: str, names: Mapping[int, str]) -> Label:
    image_id, category = (_value(file, "annotations", entry, key, int) for key in ("image_id", "category_id"))
    if category not in names:
        raise RunError(f"{file} has an annotation of category {category}, which its 'categories' lack")
    box, area, scores = _box(entry.get("bbox")), entry.get("area"), entry.get("scores")
    of_object = Object(names[category], box, entry.get("iscrowd") == 1, entry.get("segmentation") or None)
    numbers = {n: v for n, v in scores.items() if v is None or _is_number(v)} if isinstance(scores, dict) else {}
    return Label(split, image_id, of_object, area if _is_number(area) else box[2] * box[3], numbers)


def _box(value: Any) -> Box:
    """Four zeros for what is no box."""
    if not isinstance(value, list) or len(value) != 4 or not all(map(_is_number, value)):
        return 0.0, 0.0, 0.0, 0.0
    x, y, width, height = map(float, value)
    return x, y, width, height


def _is_number(value: Any) -> bool:
    return type(value) in {int, float} and abs(value) < 1e9
