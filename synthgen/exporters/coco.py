"""COCO instances: `annotations/instances_{split}.json`, and the images of a split in the folder that `images_in` names.

Read by pycocotools, torchvision's `CocoDetection`, detectron2, MMDetection and others, with the split's folder as the
image root. Format: https://cocodataset.org/#format-data
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import IO, Any, ClassVar, Literal

from pydantic import Field, field_validator

from synthgen.backends import ClassName, ExportedFolder, Exporter, Folder, ImageOptions, Records, RecordSet, Request
from synthgen.base.wording import shown
from synthgen.errors import Problem, listed, nearest
from synthgen.exporters._coco_file import SplitFile, category_entry, image_entry, label_entry
from synthgen.exporters._coco_panoptic import Panoptic, PanopticReader, panoptic_entries
from synthgen.exporters._coco_reader import SplitReader
from synthgen.exporters._coco_records import record_sets
from synthgen.exporters._coco_stuff import StuffLeftOut, stuff_of, things_of
from synthgen.exporters._painting import Covered
from synthgen.exporters._rounding import rounded
from synthgen.masks import decode_rle, mask_polygons, polygon_iou
from synthgen.types import Annotation, Category, DatasetInfo, Record

ANNOTATIONS = re.compile(r"annotations/(instances|stuff|panoptic)_([^/]+)\.json")


class Config(ImageOptions):
    """Options of `coco`."""

    segmentation: Literal["rle", "polygon"] = Field(
        "rle", description="rle: compressed RLE; polygon: for loaders that read no RLE. Both keep every pixel."
    )
    added: ClassVar[frozenset[str]] = ImageOptions.added | {"images_in", "panoptic", "stuff"}

    images_in: str = Field(
        "{split}", description="Folder of a split's images. With images/{split}, datumaro, CVAT and Geti load them too."
    )

    panoptic: bool = Field(
        False,
        description="Also write the panoptic form: annotations/panoptic_{split}.json, and a folder of that name with a "
        "PNG of segments for each image. detectron2 reads it if `images` is jpeg.",
    )
    stuff: tuple[ClassName, ...] = Field(
        (),
        description="Classes that are stuff, such as sky or road, which has no objects: an image has one segment of "
        "each at most. As in COCO, annotations/stuff_{split}.json has them, and instances_{split}.json the others.",
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
    express it, and loaders of polygons crash on an empty list. Memory holds a few images' annotations.

    An annotation of stuff is the union of all areas of its class in the image. Stuff has no regions to be ignored. In
    the panoptic form, every pixel belongs to one segment at most, and the smaller of two labels is on top; regions of a
    class that are to be ignored are one segment with `iscrowd` 1; pixels without a label are 0, which is void.
    """

    def check(self, request: Request) -> Iterable[Problem]:
        yield from super().check(request)
        names = self.config.exported_names(self.categories)
        for name in self.config.stuff:
            if name not in names:
                takes = f"takes classes of the export: {listed(names)}"
                yield Problem(".stuff", f"got {shown(name)}{nearest(name, names)}; {takes}")

    def export(self, info: DatasetInfo, records: Records, folder: Folder) -> None:
        ids, stuff = {c.id: c.exported_id for c in info.categories}, self._stuff(info.categories)
        covered, left_out = Covered(), StuffLeftOut()
        with ExitStack() as stack:
            files: dict[str, SplitFile] = {}
            for split in info.splits:
                for kind, entries in self._entries(info.categories).items():
                    name = f"annotations/{kind}_{split}.json"
                    file = stack.enter_context(folder.open(name))
                    files[name] = SplitFile(info, entries, file, stack.enter_context(folder.scratch()))
            for record in records:
                split, image_name = record.job.split, self.config.image_name(record.job.id)
                path = f"{self._images_folder(split)}/{image_name}"
                folder.image(record.image_path, path, encoding=self.config.images)
                image = self._image(info, record, image_name)
                for kind, part in self._parts(record, stuff).items():
                    written = files[f"annotations/{kind}_{split}.json"]
                    written.images.extend([image])
                    if kind == "panoptic":
                        segments = Panoptic(record, ids, stuff)
                        written.annotations.extend([segments.entry])
                        with folder.open(f"annotations/panoptic_{split}/{segments.file_name}") as png:
                            png.write(segments.png())
                        covered.add(record.annotations, segments.painting)
                    else:
                        written.annotations.extend([self._annotation(record, ids, a) for a in part.annotations])
                if stuff:
                    left_out.add(record, stuff)
            for written in files.values():
                written.finish(records.content_hash)
        for sentence in [*left_out.sentences(), *covered.sentences("panoptic images")]:
            folder.report_loss(sentence)

    def record_sets(self, info: DatasetInfo) -> Sequence[RecordSet]:
        return list(record_sets("instances", has_rle=self.config.segmentation == "rle"))

    def verify(self, folder: ExportedFolder, records: Records) -> Iterator[tuple[str, str]]:
        """Compares images, annotations and classes with the records. Reports the first difference of each file."""
        ids, stuff = {c.id: c.exported_id for c in self.categories}, self._stuff(self.categories)
        faults: dict[str, str] = {}  # by file
        readers: dict[str, SplitReader] = {}
        with ExitStack() as stack:
            for name in folder.names():
                if match := ANNOTATIONS.fullmatch(name):
                    files = [stack.enter_context(folder.open(name)) for _ in range(2)]
                    readers[name] = self._reader(folder, match[1], match[2], files, stuff)
            for record in records:
                image_name = self.config.image_name(record.job.id)
                for kind, part in self._parts(record, stuff).items():
                    name = f"annotations/{kind}_{record.job.split}.json"
                    if name in faults:
                        continue
                    try:
                        if name not in readers:
                            raise ValueError("is not among the exported files")
                        readers[name].compare(part, image_name, ids)
                        if not folder.has(path := f"{self._images_folder(record.job.split)}/{image_name}"):
                            raise ValueError(
                                f"has image {record.job.id}, whose file {path} is not among the exported files"
                            )
                    except ValueError as error:
                        faults[name] = str(error)
            for name, reader in readers.items():
                try:
                    if name not in faults:
                        reader.finish()
                except ValueError as error:
                    faults[name] = str(error)
        yield from sorted(faults.items())

    def _stuff(self, categories: Sequence[Category]) -> frozenset[int]:
        """The ids of the classes that are stuff."""
        return frozenset(c.id for c in categories if c.name in self.config.stuff)

    def _entries(self, categories: Sequence[Category]) -> dict[str, list[dict[str, Any]]]:
        """For each kind of file, the entries of its classes."""
        stuff = self._stuff(categories)
        entries = {"instances": [category_entry(c) for c in categories if c.id not in stuff]}
        if stuff:
            entries["stuff"] = [category_entry(c) for c in categories if c.id in stuff]
        if self.config.panoptic:
            entries["panoptic"] = panoptic_entries(categories, stuff)
        return entries

    def _parts(self, record: Record, stuff: Collection[int]) -> dict[str, Record]:
        """For each kind of file, the record with the labels that it has."""
        parts = {"instances": things_of(record, stuff)}
        if stuff:
            parts["stuff"] = stuff_of(record, stuff)
        if self.config.panoptic:
            parts["panoptic"] = record
        return parts

    def _reader(
        self, folder: ExportedFolder, kind: str, split: str, files: Sequence[IO[bytes]], stuff: Collection[int]
    ) -> SplitReader:
        images, annotations = files
        entries = self._entries(self.categories)[kind]
        if kind != "panoptic":
            # What else an entry has may be of an earlier version.
            return SplitReader(images, annotations, [{key: entry[key] for key in ("id", "name")} for entry in entries])

        def pixels(name: str) -> bytes:
            if not folder.has(path := f"annotations/panoptic_{split}/{name}"):
                raise ValueError(f"names {path}, which is not among the exported files")
            with folder.open(path) as file:
                return file.read()

        return PanopticReader(images, annotations, entries, stuff, pixels)

    def _images_folder(self, split: str) -> str:
        return self.config.images_in.replace("{split}", split)

    def _image(self, info: DatasetInfo, record: Record, name: str) -> dict[str, Any]:
        job = record.job
        return {
            **image_entry(record, name),
            **({"license": 1} if info.licences else {}),
            "prompt": job.prompt,
            "negative_prompt": job.negative_prompt,
            "seed": job.seed,
            "slots": dict(job.slots),
            "measures": dict(zip(record.measures, rounded([*record.measures.values()]), strict=True)),
        }

    def _annotation(self, record: Record, ids: Mapping[int, int], annotation: Annotation) -> dict[str, Any]:
        return {
            **label_entry(record, annotation, ids),
            "iscrowd": int(annotation.ignore),
            **self._segmentation(annotation),
            "scores": annotation.scores,
        }

    def _segmentation(self, annotation: Annotation) -> dict[str, Any]:
        if self.config.segmentation == "rle" or annotation.ignore or annotation.area == 0:
            return {"segmentation": dict(annotation.rle)}
        height, width = annotation.rle["size"]
        mask = decode_rle([annotation.rle], height, width)[0]
        polygons = mask_polygons(mask)
        return {"segmentation": polygons, "polygon_iou": rounded([polygon_iou(polygons, mask)])[0]}
