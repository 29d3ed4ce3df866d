"""The images and labels of a dataset in one form, whether a run or a COCO file has them, and what changed in them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from synthgen.masks import box_iou, segmentation_rle

SAME_OBJECT = 0.5  # The IoU from which two labels are of one object, as PASCAL VOC and COCO count a detection as right.
SAME_BOX_PX = 0.01  # COCO's own files round boxes to two decimals.
Box = tuple[float, float, float, float]  # xywh, px


class Image(NamedTuple):
    """An image of a dataset.

    Attributes:
        id: unique in its split.
        split: "" if the dataset does not say.
        name: of its file, without folder and ending.
        height, width: px; 0 if the dataset does not say.
        sha256: checksum of its file, hex; "" if nobody asked for it.
    """

    id: int
    split: str
    name: str
    height: int
    width: int
    sha256: str


class Object(NamedTuple):
    """What a label says of an object.

    Attributes:
        category: the name of its class.
        segmentation: as in COCO: an RLE or polygons; None for a box without a mask.
    """

    category: str
    bbox_xywh: Box
    ignore: bool
    segmentation: Any

    def dumps(self) -> bytes:
        return orjson.dumps([*self])

    @classmethod
    def loads(cls, data: bytes) -> Object:
        category, box, ignore, segmentation = orjson.loads(data)
        return cls(category, tuple(box), ignore, segmentation)


def digest(data: bytes) -> int:
    """A hash of 64 bits."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest())


class Label(NamedTuple):
    """An object in an image.

    Attributes:
        split, image_id: those of its image.
        area: of its mask, or of its box without a mask; px.
        scores: name -> number; None for one that could not be measured.
    """

    split: str
    image_id: int
    object: Object
    area: float
    scores: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Change:
    """One object of an image, as A and B have it.

    Attributes:
        a, b: None: it is not there.
        iou: of its masks, or of its boxes if one has no mask; None if one of the objects is not there.
        kinds: how they differ: added, removed, or one or more of class, mask, box and ignore. A box that changes with
            its mask is no change of its own.
    """

    a: Object | None
    b: Object | None
    iou: float | None
    kinds: tuple[str, ...]


def changes(a: Sequence[Object], b: Sequence[Object], height: int, width: int) -> list[Change]:
    """What changed in the labels of one image, from A to B.

    Labels that are equal are set aside first. Of the others, those are taken for one object that overlap most, from an
    IoU of `SAME_OBJECT`.

    Args:
        height, width: of the image, px.
    """
    a, b = _without(a, b), _without(b, a)
    masks_a, masks_b = ([_mask(o.segmentation, height, width) for o in side] for side in (a, b))
    iou = _iou(a, masks_a, b, masks_b)
    # The sort is stable: of pairs that overlap alike, those of one class come first, then those that come first.
    near = sorted(
        np.argwhere(iou >= SAME_OBJECT).tolist(), key=lambda p: (-iou[*p], a[p[0]].category != b[p[1]].category)
    )
    pairs, of_b = dict[int, int](), set[int]()
    for i, j in near:
        if i not in pairs and j not in of_b:
            pairs[i] = j
            of_b.add(j)
    found = []
    for i, before in enumerate(a):
        if i not in pairs:
            found.append(Change(before, None, None, ("removed",)))
        elif kinds := _kinds(before, masks_a[i], b[j := pairs[i]], masks_b[j]):
            found.append(Change(before, b[j], float(iou[i, j]), kinds))
    return found + [Change(None, after, None, ("added",)) for j, after in enumerate(b) if j not in of_b]


def _without(objects: Sequence[Object], others: Sequence[Object]) -> list[Object]:
    """The objects that the others do not have as well, each as often as there are more of it."""
    equal, rest = Counter(o.dumps() for o in others), []
    for o in objects:
        if equal[key := o.dumps()]:
            equal[key] -= 1
        else:
            rest.append(o)
    return rest


def _mask(segmentation: Any, height: int, width: int) -> Any:
    """pycocotools' RLE, the same for the same pixels; None without a mask that can be read and has a pixel."""
    try:
        rle = segmentation_rle(segmentation, height, width)
    except ValueError:
        return None
    return rle if coco_mask.area(rle) else None


def _iou(
    a: Sequence[Object], masks_a: Sequence[Any], b: Sequence[Object], masks_b: Sequence[Any]
) -> NDArray[np.float32]:
    """(N, M), of masks where both objects have one, else of boxes."""
    corners = [np.array([o.bbox_xywh for o in side], np.float32).reshape(-1, 4) for side in (a, b)]
    for boxes in corners:
        boxes[:, 2:] += boxes[:, :2]
    iou = box_iou(*corners)
    rows, columns = ([i for i, mask in enumerate(masks) if mask is not None] for masks in (masks_a, masks_b))
    if rows and columns:
        of_masks = coco_mask.iou([masks_a[i] for i in rows], [masks_b[j] for j in columns], [0] * len(columns))
        iou[np.ix_(rows, columns)] = of_masks
    return iou


def _kinds(a: Object, mask_a: Any, b: Object, mask_b: Any) -> tuple[str, ...]:
    mask = (mask_a or {}).get("counts") != (mask_b or {}).get("counts")
    box = not mask and any(abs(x - y) > SAME_BOX_PX for x, y in zip(a.bbox_xywh, b.bbox_xywh, strict=True))
    differ = {"class": a.category != b.category, "mask": mask, "box": box, "ignore": a.ignore != b.ignore}
    return tuple(kind for kind, is_other in differ.items() if is_other)
