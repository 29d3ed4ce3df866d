"""CVAT for images 1.1: `annotations.xml` with masks, and the images in `images`, for people to correct.

In CVAT, create a task with the labels of `labels.json` (pasted as raw) and the files of `images`, and upload
`annotations.xml` to it as `CVAT 1.1`. Corrected, export it as `CVAT for images 1.1`; then `synthgen review RUN --import
FILE` takes it. Importing a data set into a CVAT project instead loses masks.
Format: https://docs.cvat.ai/docs/manual/advanced/xml_format/
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from shutil import copyfileobj
from typing import IO, Any

import orjson

from synthgen.backends import ExportedFolder, Exporter, Folder, ImageOptions, Records, Request
from synthgen.base.colours import class_colour, hexadecimal
from synthgen.base.label_ids import label_id, ranges
from synthgen.base.wording import shown
from synthgen.base.xml_stream import Element, children_of, escaped
from synthgen.errors import Problem
from synthgen.exporters._row_runs import mask_box, row_runs
from synthgen.exporters._tool_names import refused_names
from synthgen.types import Annotation, Category, DatasetInfo, Record

ANNOTATIONS, LABELS = "annotations.xml", "labels.json"
LONGEST_NAME, LONGEST_VALUE = 64, 4096  # of a label and of an attribute, characters: CVAT's own database
_OWN = ("instance", "ignore", "supercategory")  # attributes of objects beside their scores


class Config(ImageOptions):
    """Options of `cvat`."""


class Backend(Exporter[Config]):
    """Writes images in order of id, one object a line, the largest first, so that `z_order` has small ones on top.

    A mask keeps every pixel. An object without pixels is a box. An object's attributes are `instance`, by which a
    review knows the label again, `ignore` for a region to be ignored, and its scores with 6 significant digits. A tag
    on each image holds its split, its verdict, its prompt and the numbers of its labels, which tell a label that was
    deleted from one that was never shown. Classes have the colours of the report, and their supercategory as an
    attribute. Memory holds one image.
    """

    def check(self, request: Request) -> Iterator[Problem]:
        yield from super().check(request)
        yield from refused_names(self.config, self.categories, _fault)

    def export(self, info: DatasetInfo, records: Records, folder: Folder) -> None:
        lines, sizes, scores = _Lines(info.categories), Counter[str](), set[str]()
        with folder.scratch() as images:
            for index, record in enumerate(records):
                name = self.config.image_name(record.job.id)
                folder.image(record.image_path, f"images/{name}", encoding=self.config.images)
                images.write(lines.image(record, index, name).encode())
                sizes[record.job.split] += 1
                scores.update(*(a.scores for a in record.annotations))
            labels = [*_labels(info.categories, scores), _image_label(lines.tag)]
            with folder.open(ANNOTATIONS) as file:
                file.write(_head(info, sizes, labels, records.content_hash).encode())
                images.seek(0)
                copyfileobj(images, file)
                file.write(b"</annotations>\n")
        with folder.open(LABELS) as file:
            file.write(orjson.dumps(labels, option=orjson.OPT_INDENT_2) + b"\n")

    def verify(self, folder: ExportedFolder, records: Records) -> Iterator[tuple[str, str]]:
        """Compares images, objects and labels with the records. Reports the first difference."""
        if not folder.has(ANNOTATIONS):
            yield ANNOTATIONS, "is not among the exported files"
            return
        try:
            with folder.open(ANNOTATIONS) as file:
                self._compare(folder, file, records)
        except ValueError as error:
            yield ANNOTATIONS, str(error)

    def _compare(self, folder: ExportedFolder, file: IO[bytes], records: Records) -> None:
        lines = _Lines(self.categories)
        found = _checked(children_of(file, "annotations"))
        labels = next((_label_names(e) for e in found if e.tag == "meta"), [])
        if labels[:-1] != [category.name for category in self.categories]:
            raise ValueError(f"has other classes: {shown(labels[:-1])}")
        for index, record in enumerate(records):
            name, what = self.config.image_name(record.job.id), f"image {record.job.id}"
            element = next(found, None)
            (expected,) = children_of(BytesIO(f"<a>{lines.image(record, index, name)}</a>".encode()), "a")
            if element is None or _essence(element) != _essence(expected):
                raise ValueError(f"does not have the accepted images: {what} is missing")
            for number, (a, b) in enumerate(zip(_shapes(expected), [*_shapes(element), ()], strict=False), 1):
                if a != b:
                    raise ValueError(f"does not have the labels that were kept: object {number} of {what} differs")
            if len(_shapes(element)) > len(_shapes(expected)):
                raise ValueError(f"does not have the labels that were kept: {what} has more")
            if not folder.has(path := f"images/{name}"):
                raise ValueError(f"has {what}, whose file {path} is not among the exported files")
        if next(found, None) is not None:
            raise ValueError("does not have the accepted images: it has others besides")


def _fault(name: str) -> str:
    return f"has {len(name)} characters; CVAT takes at most {LONGEST_NAME}" if len(name) > LONGEST_NAME else ""


class _Lines:
    """The elements of images, as text."""

    def __init__(self, categories: Sequence[Category]) -> None:
        self._labels = {category.id: escaped(category.name) for category in categories}
        self.tag = "image"
        while self.tag in self._labels.values():
            self.tag += "_"

    def image(self, record: Record, index: int, name: str) -> str:
        job = record.job
        head = (
            f'<image id="{index}" name="{name}" subset="{escaped(job.split)}" width="{job.width}" '
            f'height="{job.height}">\n'
        )
        largest_first = sorted(record.annotations, key=lambda a: -a.area)
        shapes = [self._shape(job.id, z, annotation) for z, annotation in enumerate(largest_first)]
        shown = ranges(a.instance for a in record.annotations)
        verdict = ", ".join([record.verdict, *record.reasons])
        said = {"split": job.split, "verdict": verdict, "prompt": job.prompt[:LONGEST_VALUE]}
        if len(shown) <= LONGEST_VALUE:
            said["instances"] = shown
        return "".join(
            [head, *shapes, f'<tag label="{self.tag}" source="auto">', *_attributes(said), "</tag>\n</image>\n"]
        )

    def _shape(self, image_id: int, z_order: int, annotation: Annotation) -> str:
        if annotation.area:
            x, y, width, height = mask_box(annotation)
            runs = ", ".join(map(str, row_runs(annotation).tolist()))
            tag, place = "mask", f'rle="{runs}" left="{x}" top="{y}" width="{width}" height="{height}"'
        else:
            x0, y0, wide, high = annotation.bbox_xywh
            tag, place = "box", f'xtl="{x0!r}" ytl="{y0!r}" xbr="{x0 + wide!r}" ybr="{y0 + high!r}"'
        said = {"instance": label_id(image_id, annotation.instance), "ignore": str(annotation.ignore).lower()}
        scores = {n: f"{v:.6g}" for n, v in annotation.scores.items() if math.isfinite(v) and n not in _OWN}
        head = f'<{tag} label="{self._labels[annotation.category_id]}" source="auto" occluded="0" {place}'
        return "".join([f'{head} z_order="{z_order}">', *_attributes({**said, **scores}), f"</{tag}>\n"])


def _attributes(values: Mapping[str, str]) -> Iterator[str]:
    for name, value in values.items():
        yield f'<attribute name="{escaped(name)}">{escaped(value)}</attribute>'


def _labels(categories: Sequence[Category], scores: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The classes as CVAT's constructor of labels takes them."""
    texts = [_attribute("instance", "text"), _attribute("ignore", "checkbox", "false")]
    texts += [_attribute(name, "text") for name in sorted(set(scores) - {*_OWN})]
    for category in categories:
        above = [_attribute("supercategory", "select", category.supercategory)] if category.supercategory else []
        yield {
            "name": category.name,
            "color": hexadecimal(class_colour(category.id)),
            "type": "any",
            "attributes": [*texts, *above],
        }


def _image_label(name: str) -> dict[str, Any]:
    attributes = [_attribute(key, "text") for key in ("split", "verdict", "prompt", "instances")]
    return {"name": name, "color": "#808080", "type": "tag", "attributes": attributes}


def _attribute(name: str, input_type: str, default: str = "") -> dict[str, Any]:
    return {"name": name, "mutable": False, "input_type": input_type, "default_value": default, "values": [default]}


def _head(info: DatasetInfo, sizes: Mapping[str, int], labels: Sequence[Mapping[str, Any]], content_hash: str) -> str:
    """All that comes before the images. Splits are subsets, each with a task, as in the export of a CVAT project."""
    tasks = [
        f"<task><id>{number}</id><name>{escaped(split)}</name><size>{sizes.get(split, 0)}</size><mode>annotation</mode>"
        f"<overlap>0</overlap><subset>{escaped(split)}</subset></task>\n"
        for number, split in enumerate(info.splits, 1)
    ]
    subset = f"<subset_of_dataset>{escaped(info.subset)}</subset_of_dataset>\n" if info.subset else ""
    return "".join(
        [
            '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n<meta>\n<project>\n',
            f"<id>1</id>\n<name>{escaped(info.name)}</name>\n<content_hash>{content_hash}</content_hash>\n{subset}",
            "<tasks>\n",
            *tasks,
            f"</tasks>\n<subsets>{escaped(chr(10).join(info.splits))}</subsets>\n<labels>\n",
            *map(_label, labels),
            "</labels>\n</project>\n</meta>\n",
        ]
    )


def _label(label: Mapping[str, Any]) -> str:
    attributes = [
        f"<attribute><name>{escaped(a['name'])}</name><mutable>{a['mutable']}</mutable>"
        f"<input_type>{a['input_type']}</input_type><default_value>{escaped(a['default_value'])}</default_value>"
        f"<values>{escaped(chr(10).join(a['values']))}</values></attribute>"
        for a in label["attributes"]
    ]
    head = f"<label><name>{escaped(label['name'])}</name><color>{label['color']}</color><type>{label['type']}</type>"
    return "".join([head, "<attributes>", *attributes, "</attributes></label>\n"])


def _checked(found: Iterator[Element]) -> Iterator[Element]:
    try:
        yield from found
    except ValueError as error:
        raise ValueError(f"is no file of CVAT: {error}") from error


def _label_names(meta: Element) -> list[str]:
    labels = meta.find("project", "labels")
    names = [label.find("name") for label in labels.children] if labels else []
    return [name.text if name else "" for name in names]


def _essence(image: Element) -> tuple[str | None, ...]:
    return (image.tag, *(image.attributes.get(key) for key in ("name", "subset", "width", "height")))


def _shapes(image: Element) -> list[tuple[Any, ...]]:
    """What the objects of an image are: shape, class, place, label and whether it is ignored."""
    keys = ("label", "rle", "left", "top", "width", "height", "xtl", "ytl", "xbr", "ybr")
    found: list[tuple[Any, ...]] = []
    for shape in image.children:
        if shape.tag != "tag":
            said = {a.attributes.get("name"): a.text for a in shape.children}
            place = (shape.attributes.get(key) for key in keys)
            found.append((shape.tag, *place, said.get("instance"), said.get("ignore")))
    return found
