"""A dataset of hard shapes that are drawn by rule: 300 images, whose labels are known by hand, as a run of its own
generator, grounder and segmenter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HEIGHT, WIDTH = 64, 80
COCO = [
    "person",
    "bicycle",
    "car",
    "motorcycle",
    "airplane",
    "bus",
    "train",
    "truck",
    "boat",
    "traffic light",
    "fire hydrant",
    "stop sign",
    "parking meter",
    "bench",
    "bird",
    "cat",
    "dog",
    "horse",
    "sheep",
    "cow",
    "elephant",
    "bear",
    "zebra",
    "giraffe",
    "backpack",
    "umbrella",
    "handbag",
    "tie",
    "suitcase",
    "frisbee",
    "skis",
    "snowboard",
    "sports ball",
    "kite",
    "baseball bat",
    "baseball glove",
    "skateboard",
    "surfboard",
    "tennis racket",
    "bottle",
    "wine glass",
    "cup",
    "fork",
    "knife",
    "spoon",
    "bowl",
    "banana",
    "apple",
    "sandwich",
    "orange",
    "broccoli",
    "carrot",
    "hot dog",
    "pizza",
    "donut",
    "cake",
    "chair",
    "couch",
    "potted plant",
    "bed",
    "dining table",
    "toilet",
    "tv",
    "laptop",
    "mouse",
    "remote",
    "keyboard",
    "cell phone",
    "microwave",
    "oven",
    "toaster",
    "sink",
    "refrigerator",
    "book",
    "clock",
    "vase",
    "scissors",
    "teddy bear",
    "hair drier",
    "toothbrush",
]
HOSTILE = (
    'chaise "longue"',
    "日本語 😀",
    "a/b",
    "..",
    "C:\\temp",
    "</script><b>&amp;",
    "=1+1",
    "naïve 'quote'",
    "yes",
    "#5: {x}",
    "a,b;c",
    "CON",
)
CLASSES = (*COCO, *HOSTILE)
CROWD, PLAIN = 0.1, 0.9  # predicted IoU of regions to be ignored, and of objects

Object = tuple[int, NDArray[np.bool_], float]  # category id, mask (H, W), predicted IoU


def disc(x: float, y: float, radius: float) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.asarray((columns - x) ** 2 + (rows - y) ** 2 <= radius**2)


def box(x0: int, y0: int, x1: int, y1: int) -> NDArray[np.bool_]:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def masks_of(kind: str, i: int) -> list[NDArray[np.bool_]]:
    """The masks of one kind of image; `i` moves and turns them a little."""
    x, y = 20 + i % 13, 18 + i % 11
    match kind:
        case "plain":
            return [disc(x, y, 9), box(48, 30, 70, 50)]
        case "hole":
            return [disc(40, 32, 24) & ~disc(40 + i % 5, 32, 11)]
        case "holes":
            return [box(8, 8, 70, 56) & ~disc(24, 24, 7) & ~disc(50, 40, 8) & ~box(40, 12, 46, 18)]
        case "parts":
            return [disc(x, y, 8) | box(50, 40, 66, 58) | disc(60, 14, 5)]
        case "nested":
            return [(disc(40, 32, 28) & ~disc(40, 32, 20)) | disc(40, 32, 9)]
        case "pixel":
            return [box(x, y, x + 1, y + 1), box(60, 40, 62, 41), box(70, 50, 71, 53)]
        case "lines":
            return [box(4, 10, 60, 11), box(70, 4, 71, 60), np.eye(HEIGHT, WIDTH, 8, dtype=bool)]
        case "border":
            return [box(0, 0, 17, 12), box(60, 50, WIDTH, HEIGHT), box(30, 0, 40, HEIGHT)]
        case "whole":
            return [box(0, 0, WIDTH, HEIGHT)]
        case "corners":  # Squares that touch at corners alone.
            return [box(10, 10, 20, 20) | box(20, 20, 30, 30) | box(30, 10, 40, 20)]
        case "noise":
            blob = np.random.default_rng(i).random((HEIGHT // 4, WIDTH // 4)) < 0.55
            return [np.kron(blob, np.ones((4, 4), bool)).astype(bool) & disc(40, 32, 27)]
        case "covered":  # The small one lies on the large one; each mask has all its pixels.
            return [disc(40, 32, 25), disc(40 + i % 9, 30, 8), box(52, 28, 78, 36)]
        case "crowd":
            return [disc(x, y, 9), box(40, 4, 76, 60)]
        case "empty mask":
            return [disc(x, y, 9), np.zeros((HEIGHT, WIDTH), bool)]
        case "nothing":
            return []
    raise ValueError(kind)


KINDS = (
    "plain", "hole", "holes", "parts", "nested", "pixel", "lines", "border", "whole", "corners", "noise", "covered",
    "crowd", "empty mask", "nothing",
)  # fmt: skip


def objects_of(index: int) -> list[Object]:
    """The objects of an image, by its index in the run."""
    kind = KINDS[index % len(KINDS)]
    masks = masks_of(kind, index)
    ious = [CROWD if kind == "crowd" and i == 1 else PLAIN for i in range(len(masks))]
    ids = [(3 * index + 31 * i) % len(CLASSES) + 1 for i in range(len(masks))]
    return list(zip(ids, masks, ious, strict=True))


def image_of(index: int) -> NDArray[np.uint8]:
    """uint8 (H, W, 3): a shaded ground with the objects in colours of their classes."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    image = np.stack([90 + rows, 90 + columns, np.full_like(rows, 60 + index % 120)], -1).astype(np.uint8)
    for category_id, mask, _ in objects_of(index):
        image[mask] = np.random.default_rng(category_id).integers(0, 256, 3)
    return image


def spec(exporters: Sequence[str] = ("coco",), count: int = 300) -> dict[str, Any]:
    """Of the dataset, as plain data."""
    return {
        "name": "hard",
        "description": "Hard shapes.",
        "count": count,
        "budget": 1,
        "height": HEIGHT,
        "width": WIDTH,
        "shard_size": 50,
        "classes": list(CLASSES),
        "objects_per_image": {1: 1},
        "prompts": {"templates": ["a photo of {objects}, {n}"], "slots": {"n": [str(i) for i in range(60)]}},
        "generator": {"use": "hard.images"},
        "grounder": {"use": "hard.boxes"},
        "segmenter": {"use": "hard.masks"},
        "filters": {"predicted_iou": {"min": 0.5, "on_fail": "ignore"}, "sharpness": {"min": None}},
        "exporters": {name: {} for name in exporters},
    }


def made(out: Path, **options: Any) -> Any:
    """The finished `Build`. Images with an empty mask are in it, since a person accepted them."""
    from runs import made

    from synthgen.judging.reviews import Review, ReviewLog
    from synthgen.pipeline.export import export_run
    from synthgen.pipeline.judge import judge_run
    from synthgen.pipeline.label import labels_digests
    from synthgen.report.page import write

    build = made(spec(**options), out)
    run = build.run
    with run.lock(), ReviewLog.open(run.paths.reviews) as log:
        for shard in run.marks.shards():
            ids = [j.id for j in build.jobs(shard) if KINDS[j.index % len(KINDS)] == "empty mask"]
            for image_id, labels in labels_digests(build, shard, set(ids)).items():
                log.add(Review(image_id, None, "accept", None, "borderline", labels))
        judge_run(build)
        export_run(build)
        write(build)
    return build
