"""COCO instances: `annotations/instances_{split}.json`, and the images of a split in the folder that `images_in` names.

Read by pycocotools, torchvision's `CocoDetection`, detectron2, MMDetection and others, with the split's folder as the
image root. Format: https://cocodataset.org/#format-data
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from shutil import copyfileobj
from typing import IO, Any, ClassVar, Literal

import orjson
from pydantic import Field, field_validator

from synthgen.backends import ExportedFolder, Exporter, Folder, ImageOptions, Records
from synthgen.exporters._coco_reader import SplitReader
from synthgen.masks import decode_rle, mask_polygons, polygon_iou
from synthgen.types import Annotation, DatasetInfo, Record

_NO_HASH = "0" * 64  # holds the place of the dataset's content hash, which is known when all records are read
ANNOTATIONS = re.compile(r"annotations/instances_(.+)\.json")


class Config(ImageOptions):
    """Options of `coco`."""

    segmentation: Literal["rle", "polygon"] = Field(
        "rle", description="rle: compressed RLE; polygon: for loaders that read no RLE. Both keep every pixel."
    )
    added: ClassVar[frozenset[str]] = ImageOptions.added | {"images_in"}

    images_in: str = Field(
        "{split}", description="Folder of a split's images. With images/{split}, datumaro, CVAT and Geti load them too."
    )

    @field_validator("images_in")
    @classmethod
    def _is_a_folder(cls, value: str) -> str:
        parts = value.replace("{split}", "split").split("/")
        if any(p in {"", ".", ".."} or set(p) & set("{}\\\0\n") for p in parts) or parts[0] == "annotations":
            raise ValueError(f"takes a folder within the export such as images/{{split}}, got {value!r}")
        return value


class Backend(Exporter[Config]):
    """Writes one record a line, in order of id, in ASCII and without a date: equal datasets give equal bytes.

    Beyond COCO's keys, `info` has `content_hash`, the version of the dataset; images have `prompt`, `negative_prompt`,
    `seed`, `slots` and `measures`. Annotations have `scores` and, with `segmentation: polygon`, `polygon_iou`: the IoU
    of the mask with the polygons as pycocotools draws them. `area` is always the number of the mask's pixels. Floats
    have 6 significant digits, as many as float32 holds; a number that could not be measured is null.

    Objects to be ignored have `iscrowd` 1 and, as in COCO, an RLE. An empty mask has an RLE too: no polygon can
    express it, and loaders of polygons crash on an empty list. Memory holds one image's annotations.
    """

    def export(self, info: DatasetInfo, records: Records, folder: Folder) -> None:
        with ExitStack() as stack:
            files: dict[str, _SplitFile] = {}
            ids = {category.id: category.exported_id for category in info.categories}
            for split in info.splits:
                file = stack.enter_context(folder.open(f"annotations/instances_{split}.json"))
                files[split] = _SplitFile(info, file, stack.enter_context(folder.scratch()))
            for record in records:
                split, image_name = record.job.split, self._image_name(record)
                path = f"{self._images_folder(split)}/{image_name}"
                folder.image(record.image_path, path, encoding=self.config.images)
                files[split].images.extend([self._image(info, record, image_name)])
                files[split].annotations.extend(self._annotation(record.job.id, ids, a) for a in record.annotations)
            for written in files.values():
                written.finish(records.content_hash)

    def verify(self, folder: ExportedFolder, records: Records) -> Iterator[tuple[str, str]]:
        """Compares images, annotations and classes with the records. Reports the first difference of each split."""
        names = {match[1]: name for name in folder.names() if (match := ANNOTATIONS.fullmatch(name))}
        ids = {category.id: category.exported_id for category in self.categories}
        faults: dict[str, str] = {}  # by file
        readers: dict[str, SplitReader] = {}  # by split
        with ExitStack() as stack:
            for split, name in names.items():
                images, annotations = (stack.enter_context(folder.open(name)) for _ in range(2))
                readers[split] = SplitReader(images, annotations, self.categories)
            for record in records:
                split, image_name = record.job.split, self._image_name(record)
                name = names.setdefault(split, f"annotations/instances_{split}.json")
                if name in faults:
                    continue
                try:
                    if split not in readers:
                        raise ValueError("is not among the exported files")
                    readers[split].compare(record, image_name, ids)
                    if not folder.has(path := f"{self._images_folder(split)}/{image_name}"):
                        raise ValueError(
                            f"has image {record.job.id}, whose file {path} is not among the exported files"
                        )
                except ValueError as error:
                    faults[name] = str(error)
            for split, reader in readers.items():
                try:
                    if names[split] not in faults:
                        reader.finish()
                except ValueError as error:
                    faults[names[split]] = str(error)
        yield from sorted(faults.items())

    def _image_name(self, record: Record) -> str:
        return f"{record.job.id:012d}{self.config.image_ending}"

    def _images_folder(self, split: str) -> str:
        return self.config.images_in.replace("{split}", split)

    def _image(self, info: DatasetInfo, record: Record, name: str) -> dict[str, Any]:
        job = record.job
        return {
            "id": job.id,
            "file_name": name,
            "height": job.height,
            "width": job.width,
            **({"license": 1} if info.licences else {}),
            "prompt": job.prompt,
            "negative_prompt": job.negative_prompt,
            "seed": job.seed,
            "slots": dict(job.slots),
            "measures": _rounded(record.measures),
        }

    def _annotation(self, image_id: int, ids: Mapping[int, int], annotation: Annotation) -> dict[str, Any]:
        return {
            "id": annotation.id,
            "image_id": image_id,
            "category_id": ids[annotation.category_id],
            "bbox": annotation.bbox_xywh,
            "area": annotation.area,
            "iscrowd": int(annotation.ignore),
            **self._segmentation(annotation),
            "scores": _rounded(annotation.scores),
        }

    def _segmentation(self, annotation: Annotation) -> dict[str, Any]:
        if self.config.segmentation == "rle" or annotation.ignore or annotation.area == 0:
            return {"segmentation": dict(annotation.rle)}
        height, width = annotation.rle["size"]
        mask = decode_rle([annotation.rle], height, width)[0]
        polygons = mask_polygons(mask)
        return {"segmentation": polygons, "polygon_iou": _round(polygon_iou(polygons, mask))}


def _info(info: DatasetInfo) -> dict[str, str]:
    subset = {"subset": info.subset} if info.subset else {}
    said = {"description": info.description or info.name, "version": "1.0", "contributor": "synthgen"}
    return {**said, **subset, "content_hash": _NO_HASH}


def _licenses(info: DatasetInfo) -> Iterator[dict[str, Any]]:
    for number, (name, url) in enumerate(info.licences, 1):
        yield {"id": number, "name": name, "url": url}


def _categories(info: DatasetInfo) -> Iterator[dict[str, Any]]:
    for category in info.categories:
        yield {"id": category.exported_id, "name": category.name, "supercategory": category.supercategory}


def _round(value: float) -> float:
    return float(f"{value:.6g}")


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    """Integers, such as hashes, stay as they are."""
    return {name: value if isinstance(value, int) else _round(value) for name, value in values.items()}


def _line(record: Mapping[str, Any]) -> bytes:
    line = orjson.dumps(record)
    # pycocotools opens files in the encoding of the locale, which may be another than UTF-8.
    return line if line.isascii() else json.dumps(orjson.loads(line), separators=(",", ":")).encode("ascii")


class _Lines:
    """A list under a key, written one record a line as it grows."""

    def __init__(self, file: IO[bytes], key: str) -> None:
        self._file, self._before = file, b"\n"
        file.write(b'"' + key.encode() + b'": [')

    def extend(self, records: Iterable[Mapping[str, Any]]) -> None:
        lines = [_line(record) for record in records]
        if lines:
            self._file.write(self._before + b",\n".join(lines))
            self._before = b",\n"

    def end(self, mark: bytes) -> None:
        self._file.write(b"\n]" + mark)


class _SplitFile:
    """A split's file, written as it grows. All images come before the first annotation, so annotations go to a
    scratch file first."""

    def __init__(self, info: DatasetInfo, file: IO[bytes], scratch: IO[bytes]) -> None:
        self._file, self._scratch = file, scratch
        self._file.write(head := b'{\n"info": ' + _line(_info(info)) + b",\n")
        self._hash_at = head.rindex(_NO_HASH.encode())
        for key, records in {"licenses": _licenses(info), "categories": _categories(info)}.items():
            lines = _Lines(self._file, key)
            lines.extend(records)
            lines.end(b",\n")
        self.images = _Lines(self._file, "images")
        self.annotations = _Lines(self._scratch, "annotations")

    def finish(self, content_hash: str) -> None:
        self.images.end(b",\n")
        self.annotations.end(b"\n}\n")
        self._scratch.seek(0)
        copyfileobj(self._scratch, self._file)
        self._file.seek(self._hash_at)
        self._file.write(content_hash.encode())
