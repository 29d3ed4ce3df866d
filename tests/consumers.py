"""Consumers of exports: other people's readers, and what they return of an export."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from readers import run_reader
from torchvision.datasets import ImageFolder, VOCDetection, VOCSegmentation


class Found(NamedTuple):
    """An object as a consumer returns it. `box`: half-open xyxy px; `mask`: bool (H, W); None if there is none."""

    image_id: int
    name: str
    box: tuple[float, float, float, float] | None
    mask: NDArray[np.bool_] | None


Read = Callable[[Path, str], Iterator[Found]]


@dataclass(frozen=True)
class Case:
    """A format with options, and a consumer of it.

    Attributes:
        read: export folder and split -> what the consumer returns.
        images: export folder and split -> the number of images that the consumer counts.
        ignored, empty: whether regions to be ignored, and objects without a pixel, are expected as objects.
        exact: whether every mask is expected to be identical.
        expected: the number of images that are expected; 20 of the 300 have no object.
        box_px: how far a side of a box may lie from the mask's; boxes of what is left of covered objects lie farther.
    """

    exporter: str
    consumer: str
    read: Read
    images: Callable[[Path, str], int]
    options: Mapping[str, Any] = field(default_factory=dict)
    ignored: bool = True
    empty: bool = True
    exact: bool = True
    expected: int = 300
    box_px: float = 1


def coco_file(root: Path, split: str) -> COCO:
    with contextlib.redirect_stdout(None):
        return COCO(str(root / "annotations" / f"instances_{split}.json"))


def coco(root: Path, split: str) -> Iterator[Found]:
    loaded = coco_file(root, split)
    names = {c["id"]: c["name"] for c in loaded.dataset["categories"]}
    for label in loaded.anns.values():
        x, y, width, height = label["bbox"]
        mask = loaded.annToMask(label).astype(bool)
        yield Found(label["image_id"], names[label["category_id"]], (x, y, x + width, y + height), mask)


def coco_images(root: Path, split: str) -> int:
    images = coco_file(root, split).dataset["images"]
    return sum((root / split / image["file_name"]).is_file() for image in images)


def huggingface(root: Path, split: str) -> Iterator[Found]:
    rows = huggingface_rows(root)[split]
    category = rows.features["objects"]["category"].feature
    for row in rows.remove_columns("image"):
        objects = row["objects"]
        for (x, y, width, height), label, rle in zip(
            objects["bbox"], objects["category"], objects["segmentation"], strict=True
        ):
            box = (x, y, x + width, y + height)
            yield Found(row["image_id"], category.int2str(label), box, coco_mask.decode(rle).astype(bool))


def huggingface_images(root: Path, split: str) -> int:
    return sum(row["image"].size == (row["width"], row["height"]) for row in huggingface_rows(root)[split])


def huggingface_rows(root: Path) -> Any:
    import datasets

    datasets.disable_progress_bars()
    return datasets.load_dataset(str(root), cache_dir=str(root.parent / "cache"))


def webdataset_samples(root: Path, split: str) -> Iterator[dict[str, Any]]:
    import webdataset

    tars = sorted(map(str, root.glob(f"{split}-*.tar")))
    yield from webdataset.WebDataset(tars, shardshuffle=False).decode("rgb8")


def webdataset(root: Path, split: str) -> Iterator[Found]:
    for sample in webdataset_samples(root, split):
        for label in sample["json"]["annotations"]:
            x, y, width, height = label["bbox"]
            mask = coco_mask.decode(label["segmentation"]).astype(bool)
            yield Found(int(sample["__key__"]), label["category"], (x, y, x + width, y + height), mask)


def webdataset_images(root: Path, split: str) -> int:
    samples = webdataset_samples(root, split)
    return sum(s["png"].shape[:2] == (s["json"]["height"], s["json"]["width"]) for s in samples)


def panoptic(root: Path, split: str) -> Iterator[Found]:
    said = json.loads((root / "annotations" / f"panoptic_{split}.json").read_bytes())
    names = {c["id"]: c["name"] for c in said["categories"]}
    for image in said["annotations"]:
        with Image.open(root / "annotations" / f"panoptic_{split}" / image["file_name"]) as file:
            pixels = np.asarray(file.convert("RGB")).astype(np.int64) @ [1, 256, 256**2]
        for segment in image["segments_info"]:
            x, y, width, height = segment["bbox"]
            box = (x, y, x + width, y + height)
            yield Found(image["image_id"], names[segment["category_id"]], box, pixels == segment["id"])


def semantic(root: Path, split: str) -> Iterator[Found]:
    names = {c["index"]: c["name"] for c in json.loads((root / "classes.json").read_bytes())["classes"]}
    for path in sorted((root / "masks" / split).iterdir()):
        with Image.open(path) as file:
            indices = np.asarray(file)
        for index in np.setdiff1d(indices, [0, 255]).tolist():
            yield Found(int(path.stem), names[index], None, indices == index)


def semantic_images(root: Path, split: str) -> int:
    return len(
        {p.stem for p in (root / "images" / split).iterdir()} & {p.stem for p in (root / "masks" / split).iterdir()}
    )


def classification(root: Path, split: str) -> Iterator[Found]:
    loaded = ImageFolder(str(root / split))
    names = {c["folder"]: c["name"] for c in json.loads((root / "classes.json").read_bytes())["classes"]}
    for path, index in loaded.samples:
        yield Found(int(Path(path).stem.partition("_")[0]), names[loaded.classes[index]], None, None)


def classification_images(root: Path, split: str) -> int:
    return len({Path(path).stem.partition("_")[0] for path, _ in ImageFolder(str(root / split)).samples})


# Of each image of a split: its id, and the class, box and mask of each object that supervision finds.
SUPERVISION = """
import json, sys
import numpy as np
import supervision as sv
from pycocotools import mask as coco_mask
form, root, split = sys.argv[1:]
if form == "yolo":
    read = sv.DetectionDataset.from_yolo(f"{root}/images/{split}", f"{root}/labels/{split}", f"{root}/data.yaml")
else:
    read = sv.DetectionDataset.from_pascal_voc(f"{root}/JPEGImages", f"{root}/Annotations")
found = []
for path, _, objects in read:
    drawn = [] if objects.mask is None else objects.mask
    masks = [coco_mask.encode(np.asfortranarray(mask, np.uint8)) for mask in drawn]
    names = [read.classes[i] for i in objects.class_id]
    rles = [[*rle["size"], rle["counts"].decode()] for rle in masks] or [None] * len(names)
    found.append([int(path.rsplit("/", 1)[1][:12]), names, objects.xyxy.tolist(), rles])
print(json.dumps(found))
"""


@functools.cache
def supervision_rows(form: str, root: Path, split: str) -> list[Any]:
    return run_reader(SUPERVISION, form, root, split)  # type: ignore[no-any-return]


def supervision(form: str) -> Read:
    def read(root: Path, split: str) -> Iterator[Found]:
        for image_id, names, boxes, rles in supervision_rows(form, root, split):
            for name, box, rle in zip(names, boxes, rles, strict=True):
                mask = rle and coco_mask.decode({"size": rle[:2], "counts": rle[2]}).astype(bool)
                yield Found(image_id, name, tuple(box), mask)

    return read


def supervision_images(form: str) -> Callable[[Path, str], int]:
    return lambda root, split: len(supervision_rows(form, root, split))


LVIS_API = """
import json, sys
from lvis import LVIS
loaded = LVIS(sys.argv[1])
found = []
for label in loaded.anns.values():
    rle = loaded.ann_to_rle(label)
    if isinstance(rle["counts"], bytes):
        rle["counts"] = rle["counts"].decode()
    found.append([label["image_id"], loaded.cats[label["category_id"]]["name"], label["bbox"], rle])
print(json.dumps({"labels": found, "images": [image["coco_url"] for image in loaded.imgs.values()]}))
"""


def lvis(root: Path, split: str) -> Iterator[Found]:
    for image_id, name, (x, y, width, height), rle in run_reader(LVIS_API, root / f"lvis_v1_{split}.json")["labels"]:
        yield Found(image_id, name, (x, y, x + width, y + height), coco_mask.decode(rle).astype(bool))


def lvis_images(root: Path, split: str) -> int:
    return sum((root / url).is_file() for url in run_reader(LVIS_API, root / f"lvis_v1_{split}.json")["images"])


# Of each image of an export for CVAT: its id, its split, and class, box and mask of each object, as datumaro has them.
DATUMARO = """
import json, sys
import datumaro as dm
import numpy as np
from pycocotools import mask as coco_mask
dataset = dm.Dataset.import_from(sys.argv[1], "cvat")
labels = dataset.categories()[dm.AnnotationType.label]
found = []
for item in dataset:
    assert item.media.data.shape[:2] == item.media.size
    objects = []
    for a in item.annotations:
        if a.type != dm.AnnotationType.label:  # the tag of the image
            x, y, width, height = map(float, a.get_bbox())
            rle = a.type == dm.AnnotationType.mask and coco_mask.encode(np.asfortranarray(a.image, np.uint8))
            rle = rle and [*rle["size"], rle["counts"].decode()]
            objects.append([labels[a.label].name, [x, y, x + width, y + height], rle])
    found.append([int(item.id), item.subset, objects])
print(json.dumps(found))
"""
# The same of an export for Label Studio: its own library checks the tasks, and decodes their brushes.
LABEL_STUDIO = """
import json, sys
import numpy as np
from label_studio_sdk.converter.brush import decode_rle
from label_studio_sdk.label_interface import LabelInterface
from pycocotools import mask as coco_mask
interface = LabelInterface(open(sys.argv[1] + "/label_config.xml", encoding="utf-8").read())
interface.validate()
found = []
for task in json.load(open(sys.argv[1] + "/tasks.json", encoding="utf-8")):
    (prediction,) = task["predictions"]
    assert interface.validate_prediction(prediction, return_errors=True) == []
    objects = []
    for region in prediction["result"]:
        value, height, width = region["value"], region["original_height"], region["original_width"]
        (name,) = value[region["type"]]
        box = rle = None
        if region["type"] == "brushlabels":
            alpha = decode_rle(value["rle"]).reshape(height, width, 4)[..., 3]
            rle = coco_mask.encode(np.asfortranarray(alpha > 127, np.uint8))
            rle = [height, width, rle["counts"].decode()]
        else:
            x, y = value["x"] / 100 * width, value["y"] / 100 * height
            box = [x, y, x + value["width"] / 100 * width, y + value["height"] / 100 * height]
        objects.append([name, box, rle])
    found.append([task["data"]["image_id"], task["data"]["split"], objects])
print(json.dumps(found))
"""
TOOLS = {"cvat": DATUMARO, "label_studio": LABEL_STUDIO}


@functools.cache
def tool_rows(tool: str, root: Path) -> list[Any]:
    return run_reader(TOOLS[tool], root)  # type: ignore[no-any-return]


def annotation_tool(tool: str) -> Read:
    def read(root: Path, split: str) -> Iterator[Found]:
        for image_id, of, objects in tool_rows(tool, root):
            for name, box, rle in objects if of == split else ():
                mask = rle and coco_mask.decode({"size": rle[:2], "counts": rle[2]}).astype(bool)
                yield Found(image_id, name, box and tuple(box), mask if rle else None)

    return read


def annotation_tool_images(tool: str) -> Callable[[Path, str], int]:
    def images(root: Path, split: str) -> int:
        ids = [image_id for image_id, of, _ in tool_rows(tool, root) if of == split]
        return sum((root / "images" / f"{image_id:012d}.png").is_file() for image_id in ids)

    return images


def voc(root: Path, split: str) -> Iterator[Found]:
    """An image of the test data has no two objects of a class, so the mask of a class is that of an object."""
    devkit = root / "VOCdevkit" / "VOC2007"
    loaded = VOCSegmentation(str(root), year="2007", image_set=split)
    names = json.loads((devkit / "dataset_meta.json").read_bytes())["label_map"]
    for path, (_, target) in zip(loaded.images, loaded, strict=True):
        indices = np.asarray(target)
        for index in np.setdiff1d(indices, [0, 255]).tolist():
            yield Found(int(Path(path).stem), names[str(index)], None, indices == index)


def voc_images(root: Path, split: str) -> int:
    return len(VOCDetection(str(root), year="2007", image_set=split))


def voc_boxes(root: Path, split: str) -> Iterator[Found]:
    """supervision reads all images; those of a split are listed."""
    listed = VOCDetection(str(root), year="2007", image_set=split).images
    ids = {int(Path(path).stem) for path in listed}
    for image_id, names, boxes, _ in supervision_rows("voc", root / "VOCdevkit" / "VOC2007", ""):
        for name, box in zip(names, boxes, strict=True):
            if image_id in ids:
                yield Found(image_id, name, tuple(box), None)


NOT_ALL = {"ignored": False, "empty": False}
# Name in docs/formats.json -> format, options and consumer.
CASES = {
    "coco": Case("coco", "pycocotools", coco, coco_images),
    "coco, polygons": Case("coco", "pycocotools", coco, coco_images, {"segmentation": "polygon"}),
    "coco, panoptic": Case(
        "coco", "Pillow", panoptic, coco_images, {"panoptic": True}, empty=False, exact=False, box_px=8
    ),
    "yolo": Case("yolo", "supervision", supervision("yolo"), supervision_images("yolo"), **NOT_ALL, exact=False),
    "yolo, boxes": Case(
        "yolo", "supervision", supervision("yolo"), supervision_images("yolo"), {"task": "detect"}, **NOT_ALL
    ),
    "voc": Case("voc", "torchvision", voc, voc_images, {"year": 2007}, **NOT_ALL, exact=False),
    "voc, boxes": Case("voc", "supervision", voc_boxes, voc_images, {"year": 2007}, empty=False),
    "lvis": Case("lvis", "lvis-api", lvis, lvis_images, **NOT_ALL),
    "semantic": Case("semantic", "Pillow", semantic, semantic_images, **NOT_ALL, exact=False),
    "classification": Case(
        "classification", "torchvision", classification, classification_images, **NOT_ALL, expected=280
    ),
    "huggingface": Case("huggingface", "datasets", huggingface, huggingface_images),
    "huggingface, image folder": Case(
        "huggingface", "datasets", huggingface, huggingface_images, {"layout": "imagefolder"}
    ),
    "webdataset": Case("webdataset", "webdataset", webdataset, webdataset_images, {"max_shard_bytes": 100_000}),
    "cvat": Case("cvat", "datumaro", annotation_tool("cvat"), annotation_tool_images("cvat")),
    "label_studio": Case(
        "label_studio", "label-studio-sdk", annotation_tool("label_studio"), annotation_tool_images("label_studio")
    ),
}
