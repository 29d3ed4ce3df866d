"""Annotation tools: what they make of an export of ours, with edits, and how they give it back."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import numpy as np
from drawn import SHAPES, ListedRecords, drawn
from readers import run_reader

from synthgen.types import Record


def exported_by_cvat(file: Path, edit: Callable[[dict[str, Element]], None], to: Path) -> Path:
    """Reads and writes the file as `load_anno` and `dump_as_cvat_annotation` of CVAT's server do, for a task.

    Args:
        edit: changes the images, by name, in between.
    """
    loaded = ElementTree.parse(file).getroot()
    for image in loaded.iter("image"):
        del image.attrib["subset"]
        for shape in image:
            shape.set("source", "file")
    edit({str(image.get("name")): image for image in loaded.iter("image")})
    root = Element("annotations")
    SubElement(root, "version").text = "1.1"
    task = SubElement(SubElement(root, "meta"), "task")
    for key, value in {"id": "7", "name": "rooms", "size": "3", "mode": "annotation", "subset": "default"}.items():
        SubElement(task, key).text = value
    SubElement(task, "updated").text = "2026-03-01 10:00:00.500000+02:00"
    for role, name in (("owner", "boss"), ("assignee", "ann")):
        SubElement(SubElement(task, role), "username").text = name
    task.append(next(loaded.iter("labels")))
    for number, image in enumerate(loaded.iter("image")):
        image.set("id", str(number))
        for shape in image:
            for key in ("xtl", "ytl", "xbr", "ybr"):
                if key in shape.attrib:
                    shape.set(key, f"{float(shape.attrib[key]):.2f}")
        root.append(image)
    ElementTree.ElementTree(root).write(to, "utf-8", xml_declaration=True)
    return to


def draw(image: Element, tag: str, label: str, **attributes: Any) -> Element:
    """A shape, as an annotator adds it. Its attributes have their defaults."""
    given = {"label": label, "source": "manual", "occluded": "0", **attributes, "z_order": "0"}
    shape = SubElement(image, tag, {key: str(value) for key, value in given.items()})
    for name, value in (("instance", ""), ("ignore", "false"), ("predicted_iou", "")):
        SubElement(shape, "attribute", {"name": name}).text = value
    return shape


def as_cvat(mask: np.ndarray) -> dict[str, Any]:
    """A mask's attributes, as CVAT writes them: of its own box."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    crop = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    runs = [len(list(run)) for _, run in groupby(crop.reshape(-1).tolist())]
    rle = ", ".join(map(str, [0, *runs] if crop[0, 0] else runs))
    return {"rle": rle, "left": columns[0], "top": rows[0], "width": crop.shape[1], "height": crop.shape[0]}


def instances(image: Element) -> dict[str, Element]:
    return {str(shape.findtext("attribute[@name='instance']")): shape for shape in image}


# As Label Studio does: a prediction's regions become those of an annotation, with their ids, `meta` and `score`
# (`addAnnotationFromPrediction` of its editor), and tasks are exported with the ids of their predictions only.
ANNOTATE = """
import json, sys
import numpy as np
from label_studio_sdk.converter.brush import mask2rle
from label_studio_sdk.label_interface import LabelInterface
from label_studio_sdk.label_interface.objects import AnnotationValue, TaskValue
folder, edits, to = sys.argv[1:]
edits = json.load(open(edits))
interface = LabelInterface(open(folder + "/label_config.xml", encoding="utf-8").read())
tasks = []
for number, task in enumerate(json.load(open(folder + "/tasks.json", encoding="utf-8")), 100):
    (prediction,) = TaskValue(**task).predictions
    edit = edits.get(str(task["data"]["image_id"]), {})
    result = []
    for region in prediction.result:
        if region["id"] in edit.get("delete", []):
            continue
        region = {**region, "origin": "prediction"}
        if name := edit.get("rename", {}).get(region["id"]):
            region = {**region, "origin": "prediction-changed", "value": {**region["value"], region["type"]: [name]}}
        if mask := edit.get("paint", {}).get(region["id"]):
            value = {**region["value"], "rle": mask2rle(np.array(mask, np.uint8))}
            region = {**region, "origin": "prediction-changed", "value": value}
        result.append(region)
    drawn = {"image_rotation": 0, "to_name": "image", "origin": "manual"}
    result += [{**drawn, **region} for region in edit.get("add", [])]
    annotation = AnnotationValue(completed_by=3, result=result, result_count=len(result), lead_time=4.5).model_dump()
    assert interface.validate_annotation(annotation)
    annotation |= {"id": number, "created_at": "2026-03-01T08:00:00.000001Z", "updated_at": "2026-03-02T08:00:00.5Z",
                   "prediction": {}, "task": number, "project": 1, "parent_prediction": 9, "updated_by": 3}
    tasks.append({"id": number, "annotations": [annotation], "drafts": [], "predictions": [9], "data": task["data"],
                  "meta": {}, "file_upload": "tasks.json", "project": 1, "total_annotations": 1})
json.dump(tasks, open(to, "w"))
print("null")
"""


def exported_by_label_studio(folder: Path, edits: Mapping[str, Any], to: Path) -> Path:
    """Imports an export's folder, and gives back every task annotated.

    Args:
        edits: image id -> `rename`: region's id -> class; `paint`: region's id -> alpha, (H, W); `delete`: ids of
            regions; `add`: results.
    """
    file = to.with_suffix(".edits")
    file.write_text(json.dumps(edits))
    run_reader(ANNOTATE, folder, file, to)
    return to


def annotated_tasks(folder: Path) -> list[dict[str, Any]]:
    """The tasks of an export's folder, each with its prediction as an annotation that nobody has changed."""
    tasks = json.loads((folder / "tasks.json").read_bytes())
    return [
        {"id": i, "data": t["data"], "annotations": t["predictions"], "predictions": []} for i, t in enumerate(tasks, 1)
    ]


# An image of every shape, an empty one, and one with a region to be ignored and an object without pixels.
OBJECTS = [(1 + i % 4, name) for i, name in enumerate(SHAPES) if name != "empty"]


def shown(folder: Path) -> list[Record]:
    """The images that annotators get, with ids from 12."""
    return drawn(
        folder,
        ("train", OBJECTS),
        ("val", []),
        ("train", [(1, "ring", True), (2, "empty"), (2, "disc")]),
        first=12,
    ).listed


def boxed(folder: Path) -> ListedRecords:
    """The same, where the object without pixels has a box."""
    *others, last = shown(folder)
    ring, empty, disc = last.annotations
    box = replace(empty, bbox_xywh=(4.25, 4.0, 8.5, 7.5))
    return ListedRecords([*others, replace(last, annotations=(ring, box, disc))])
