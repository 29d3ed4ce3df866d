"""LVIS v1: `lvis_v1_{split}.json`, and the images of a split in a folder of its name.

Read by lvis-api, detectron2 and MMDetection, with the export's folder as the image root. Format:
https://www.lvisdataset.org/dataset
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from synthgen.backends import ExportedFolder, Exporter, Folder, ImageOptions, Records
from synthgen.exporters._coco_file import SplitFile, image_entry, label_entry
from synthgen.exporters._coco_reader import SplitReader
from synthgen.masks import decode_rle, mask_polygons
from synthgen.types import Annotation, Category, DatasetInfo, Record

NAME = re.compile(r"lvis_v1_([^/]+)\.json")


class Config(ImageOptions):
    """Options of `lvis`."""

    segmentation: Literal["polygon", "rle"] = Field(
        "polygon",
        description="polygon: as in LVIS, the only form that detectron2 takes; rle: compressed RLE, smaller and "
        "faster. Both keep every pixel.",
    )


class Backend(Exporter[Config]):
    """LVIS says of each image what is known of the classes that it does not show. Here,

    - `neg_category_ids` are classes that the grounder looked for and did not find: it would have given them a label.
      The `detector` looks for the classes that an image was to show, `everything` for all, `layout` for none.
    - `not_exhaustive_category_ids` are classes of which an object may have no annotation: they have a region to be
      ignored, a label that a filter or a reviewer dropped, or a label without pixels; or the grounder found them
      without looking for all of their objects. Detections of these count neither as right nor as wrong.

    `frequency`, `image_count` and `instance_count` of a class are of the split `train`, or else of the first in the
    alphabet: r (rare) is at most 10 images, c (common) at most 100, f (frequent) more. A spec knows neither WordNet
    synsets nor definitions, so `synset` and `def` are empty. The format has no regions to be ignored.
    """

    def export(self, info: DatasetInfo, records: Records, folder: Folder) -> None:
        ids = {category.id: category.exported_id for category in info.categories}
        counts, left_out = _Counts(info.splits), _LeftOut()
        licence = {"license": 1} if info.licences else {}
        with ExitStack() as stack:
            files: dict[str, SplitFile] = {}
            for split in info.splits:
                file = stack.enter_context(folder.open(f"lvis_v1_{split}.json"))
                files[split] = SplitFile(info, None, file, stack.enter_context(folder.scratch()))
            for record in records:
                counts.add(record)
                left_out.add(record)
                folder.image(record.image_path, self._path(record), encoding=self.config.images)
                written = files[record.job.split]
                written.images.extend([{**self._image(record, ids), **licence}])
                written.annotations.extend(
                    {**label_entry(record, a, ids), "segmentation": self._segmentation(a)} for a in _shown(record)
                )
            for written in files.values():
                written.finish(records.content_hash, counts.entries(info.categories))
        for sentence in left_out.sentences():
            folder.report_loss(sentence)

    def verify(self, folder: ExportedFolder, records: Records) -> Iterator[tuple[str, str]]:
        """Compares images, annotations and classes with the records. Reports the first difference of each split."""
        ids = {category.id: category.exported_id for category in self.categories}
        names = {match[1]: name for name in folder.names() if (match := NAME.fullmatch(name))}
        counts, faults, readers = _Counts(list(names)), dict[str, str](), dict[str, SplitReader]()
        for record in records:
            counts.add(record)
        with ExitStack() as stack:
            for split, name in names.items():
                images, annotations = (stack.enter_context(folder.open(name)) for _ in range(2))
                readers[split] = SplitReader(images, annotations, counts.entries(self.categories))
            for record in records:
                split = record.job.split
                name = names.setdefault(split, f"lvis_v1_{split}.json")
                if name in faults:
                    continue
                try:
                    if split not in readers:
                        raise ValueError("is not among the exported files")
                    readers[split].compare_image(self._image(record, ids))
                    for a in _shown(record):
                        readers[split].compare_label(label_entry(record, a, ids), a.rle)
                    if not folder.has(path := self._path(record)):
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

    def _path(self, record: Record) -> str:
        return f"{record.job.split}/{self.config.image_name(record.job.id)}"

    def _image(self, record: Record, ids: Mapping[int, int]) -> dict[str, Any]:
        shown = {a.category_id for a in _shown(record)}
        doubtful = record.dropped | {a.category_id for a in record.annotations if a.ignore or not a.area}
        absent = record.looked_for - shown - doubtful
        partly = doubtful | (shown - record.looked_for)
        return {
            **image_entry(record, Path(self._path(record)).name),
            # Readers take the last two parts of this, under the image root.
            "coco_url": self._path(record),
            "neg_category_ids": sorted(ids[i] for i in absent),
            "not_exhaustive_category_ids": sorted(ids[i] for i in partly),
        }

    def _segmentation(self, annotation: Annotation) -> Any:
        if self.config.segmentation == "rle":
            return dict(annotation.rle)
        return mask_polygons(decode_rle([annotation.rle], *annotation.rle["size"])[0])


class _Counts:
    """How many images and objects of each class there are in the split by which LVIS would count."""

    def __init__(self, splits: Sequence[str]) -> None:
        self._split = "train" if "train" in splits else min(splits, default="")
        self._images, self._objects = Counter[int](), Counter[int]()

    def add(self, record: Record) -> None:
        if record.job.split == self._split:
            classes = [a.category_id for a in _shown(record)]
            self._images.update(set(classes))
            self._objects.update(classes)

    def entries(self, categories: Sequence[Category]) -> list[dict[str, Any]]:
        return [
            {
                "id": c.exported_id,
                "name": c.name,
                "synset": "",
                "synonyms": [c.name, *c.synonyms],
                "def": "",
                "frequency": "r" if self._images[c.id] <= 10 else "c" if self._images[c.id] <= 100 else "f",
                "image_count": self._images[c.id],
                "instance_count": self._objects[c.id],
            }
            for c in categories
        ]


def _shown(record: Record) -> list[Annotation]:
    """The objects that get an annotation."""
    return [a for a in record.annotations if a.area and not a.ignore]


class _LeftOut:
    """Counts the labels that the format cannot hold."""

    def __init__(self) -> None:
        self._objects = self._ignored = self._empty = 0

    def add(self, record: Record) -> None:
        ignored = sum(a.ignore for a in record.annotations)
        self._ignored += ignored
        self._objects += len(record.annotations) - ignored
        self._empty += sum(not a.ignore and not a.area for a in record.annotations)

    def sentences(self) -> Iterator[str]:
        where = "the images name their classes in `not_exhaustive_category_ids`"
        if self._ignored:
            yield f"regions to be ignored are left out, {self._ignored:,} in all; {where}"
        if self._empty:
            yield f"{self._empty:,} of {self._objects:,} objects are left out, since their masks are empty; {where}"
