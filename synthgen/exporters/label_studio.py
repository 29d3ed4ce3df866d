"""Label Studio: `tasks.json` with masks as predictions, `label_config.xml`, and the images, for people to correct.

In Label Studio, create a project with the labelling interface of `label_config.xml`, let it reach the images (see
`image_url`), and import `tasks.json`. Corrected, export it as `JSON`; then `synthgen review RUN --import FILE` takes
it.
Format: https://labelstud.io/guide/predictions
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson
from pydantic import Field

from synthgen.backends import ExportedFolder, Exporter, Folder, ImageOptions, Records, Request
from synthgen.base.brush_rle import encode_brush
from synthgen.base.colours import class_colour, hexadecimal
from synthgen.base.json_stream import entries
from synthgen.base.label_ids import label_id
from synthgen.base.xml_stream import escaped
from synthgen.errors import Problem
from synthgen.exporters._row_runs import row_runs
from synthgen.exporters._tool_names import refused_names
from synthgen.types import Annotation, Category, DatasetInfo, Record

TASKS, CONFIG, DATASET = "tasks.json", "label_config.xml", "dataset.json"
CONTROLS = (("mask", "BrushLabels"), ("box", "RectangleLabels"), ("polygon", "PolygonLabels"))
# Label Studio replaces such a word of a label by the task's data: `parseValue` of its editor.
_VARIABLE = re.compile(r"\$[\w[\].{}]+")


class Config(ImageOptions):
    """Options of `label_studio`."""

    image_url: str = Field(
        "/data/local-files/?d=images/",
        max_length=2000,
        description="What comes before an image's name in its URL. The default is for a Label Studio with local files "
        "and this export's folder as LOCAL_FILES_DOCUMENT_ROOT; others are such as s3://bucket/images/.",
    )
    model_version: str = Field(
        "synthgen", min_length=1, max_length=200, description="The name under which Label Studio shows the predictions."
    )
    score: str = Field(
        "predicted_iou",
        max_length=64,
        description="The labels' score that becomes that of regions. An image has the least of its regions'.",
    )


class Backend(Exporter[Config]):
    """Writes a task a line, in order of id. Each has one prediction, with a region for each object, the largest first.

    A mask is a brush and keeps every pixel. An object without pixels is a rectangle. A region's id is the image's id
    and the label's number, such as 12-3, by which a review knows the label again; its `meta` has `ignore` for a region
    to be ignored, and all scores with 6 significant digits. A task's `data` has `image_id`, `split`, `verdict`,
    `reasons`, `prompt` and `instances`, the numbers of the image's labels. `dataset.json` has the dataset's content
    hash, and its classes with ids and supercategories, for which Label Studio has no place. Memory holds one image.
    """

    def check(self, request: Request) -> Iterator[Problem]:
        yield from super().check(request)
        yield from refused_names(self.config, self.categories, _fault)

    def export(self, info: DatasetInfo, records: Records, folder: Folder) -> None:
        names = {category.id: category.name for category in info.categories}
        with folder.open(CONFIG) as file:
            file.write(_label_config(info.categories).encode())
        with folder.open(TASKS) as file:
            file.write(b"[")
            before = b"\n"
            for record in records:
                name = self.config.image_name(record.job.id)
                folder.image(record.image_path, f"images/{name}", encoding=self.config.images)
                file.write(before + orjson.dumps(self._task(record, name, names)))
                before = b",\n"
            file.write(b"\n]\n")
        with folder.open(DATASET) as file:
            about: dict[str, Any] = {"name": info.name, "description": info.description, "subset": info.subset}
            about["classes"] = [
                {"id": c.exported_id, "name": c.name, "supercategory": c.supercategory} for c in info.categories
            ]
            about["content_hash"] = records.content_hash
            file.write(orjson.dumps(about, option=orjson.OPT_INDENT_2) + b"\n")

    def verify(self, folder: ExportedFolder, records: Records) -> Iterator[tuple[str, str]]:
        """Compares tasks and regions with the records, and the labels with the classes. Reports the first difference
        of each file."""
        config = _label_config(self.categories).encode()
        for name, compare in ((CONFIG, None), (TASKS, self._compare)):
            if not folder.has(name):
                yield name, "is not among the exported files"
                continue
            try:
                with folder.open(name) as file:
                    if compare:
                        compare(folder, _checked(entries(file)), records)
                    elif file.read(len(config) + 1) != config:
                        raise ValueError("does not have the classes of the spec")
            except ValueError as error:
                yield name, str(error)

    def _compare(self, folder: ExportedFolder, found: Iterator[Any], records: Records) -> None:
        names = {category.id: category.name for category in self.categories}
        for record in records:
            name, what = self.config.image_name(record.job.id), f"image {record.job.id}"
            expected = orjson.loads(orjson.dumps(self._task(record, name, names)))
            task = next(found, None)
            if not isinstance(task, dict) or task.get("data") != expected["data"]:
                raise ValueError(f"does not have the accepted images: {what} is missing")
            regions = _regions(task)
            if regions != _regions(expected):
                raise ValueError(f"does not have the labels that were kept: {what} has other regions")
            if not folder.has(path := f"images/{name}"):
                raise ValueError(f"has {what}, whose file {path} is not among the exported files")
        if next(found, None) is not None:
            raise ValueError("does not have the accepted images: it has others besides")

    def _task(self, record: Record, name: str, names: Mapping[int, str]) -> dict[str, Any]:
        job = record.job
        largest_first = sorted(record.annotations, key=lambda a: -a.area)
        regions = [self._region(record, annotation, names[annotation.category_id]) for annotation in largest_first]
        scores = [region["score"] for region in regions if "score" in region]
        prediction = {"model_version": self.config.model_version, "result": regions}
        return {
            "data": {
                "image": self.config.image_url + name,
                "image_id": job.id,
                "split": job.split,
                "verdict": record.verdict,
                "reasons": [*record.reasons],
                "prompt": job.prompt,
                "instances": sorted(a.instance for a in record.annotations),
            },
            "predictions": [{**prediction, **({"score": min(scores)} if scores else {})}],
        }

    def _region(self, record: Record, annotation: Annotation, name: str) -> dict[str, Any]:
        job = record.job
        scores = {n: float(f"{v:.6g}") for n, v in annotation.scores.items() if math.isfinite(v)}
        if annotation.area:
            control, kind = "mask", "brushlabels"
            value: dict[str, Any] = {"format": "rle", "rle": encode_brush(row_runs(annotation, whole=True))}
        else:
            control, kind = "box", "rectanglelabels"
            x, y, width, height = annotation.bbox_xywh
            across, down = 100 / job.width, 100 / job.height
            value = {"x": x * across, "y": y * down, "width": width * across, "height": height * down, "rotation": 0}
        return {
            "id": label_id(job.id, annotation.instance),
            "type": kind,
            "from_name": control,
            "to_name": "image",
            "original_width": job.width,
            "original_height": job.height,
            "image_rotation": 0,
            "value": {**value, kind: [name]},
            **({"score": scores[self.config.score]} if self.config.score in scores else {}),
            "meta": {"ignore": annotation.ignore, **{n: v for n, v in scores.items() if n not in {"ignore", "text"}}},
        }


def _fault(name: str) -> str:
    match = _VARIABLE.search(name)
    return f"has {match[0]}, in which Label Studio sees a variable" if match else ""


def _label_config(categories: Sequence[Category]) -> str:
    labels = [
        f'    <Label value="{escaped(c.name)}" background="{hexadecimal(class_colour(c.id))}"/>\n' for c in categories
    ]
    controls = [f'  <{tag} name="{name}" toName="image">\n{"".join(labels)}  </{tag}>\n' for name, tag in CONTROLS]
    image = '  <Image name="image" value="$image" zoom="true" zoomControl="true"/>\n'
    return f"<View>\n{image}{''.join(controls)}</View>\n"


def _checked(found: Iterator[Any]) -> Iterator[Any]:
    try:
        yield from found
    except ValueError as error:
        raise ValueError(f"is no list of tasks: {error}") from error


def _regions(task: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """What the regions of a task's prediction are: id, class, place and whether they are ignored."""
    try:
        (prediction,) = task["predictions"]
        keys = ("id", "type", "original_width", "original_height", "value")
        return [(*(r.get(key) for key in keys), r["meta"]["ignore"]) for r in prediction["result"]]
    except (LookupError, TypeError, ValueError, AttributeError):
        return [()]
