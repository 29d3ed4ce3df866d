"""Masks on shapes whose answers are known by hand."""

from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from synthgen.masks import (
    box_iou,
    decode_crop,
    decode_rle,
    encode_rle,
    mask_areas,
    mask_boxes,
    mask_iou,
    mask_polygons,
    paired_mask_iou,
    polygon_iou,
)

Y, X = np.mgrid[:96, :128]


def disc(radius: float, x: float = 60, y: float = 48) -> np.ndarray:
    return (X - x) ** 2 + (Y - y) ** 2 <= radius**2


def comb() -> np.ndarray:
    """A plate with holes in two rows that a single column does not meet."""
    plate = (Y > 10) & (Y < 80) & (X > 5) & (X < 120)
    for k in range(6):
        plate &= ~disc(4, 15 + 16 * k, 30) & ~disc(3, 23 + 16 * k, 60)
    return plate


SHAPES = {
    "disc": disc(40),
    "small disc": disc(3),
    "ring": disc(40) & ~disc(30),
    "thin ring": disc(40) & ~disc(39),
    "ring in a ring": (disc(45) & ~disc(40)) | (disc(30) & ~disc(10)),
    "many holes": comb(),
    "two parts": disc(9, 20, 20) | disc(12, 90, 60),
    "row": (Y == 5) & (X > 3),
    "column": (X == 127),
    "pixel": (Y == 95) & (X == 127),
    "diagonal": Y == X,
    "touching corners round a hole": np.pad(np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], bool), ((3, 90), (3, 122))),
    "whole image": Y >= 0,
    "all but a pixel": (Y != 40) | (X != 40),
    "noise": np.random.default_rng(0).random((96, 128)) < 0.6,
}


@pytest.mark.parametrize("count", [0, 1, 5])
def test_rle_round_trip(count: int) -> None:
    masks = np.random.default_rng(count).random((count, 33, 47)) < 0.5
    rles = encode_rle(masks)
    assert all(rle["size"] == [33, 47] and isinstance(rle["counts"], str) for rle in rles)
    back = decode_rle(rles, 33, 47)
    assert back.dtype == bool
    assert (back == masks).all()
    assert back.shape == masks.shape


@pytest.mark.parametrize("mask", [*SHAPES.values(), np.zeros((96, 128), bool)], ids=[*SHAPES, "empty"])
def test_a_crop_is_the_mask_within_its_box(mask: np.ndarray) -> None:
    (rle,), (box,) = encode_rle(mask[None]), mask_boxes(mask[None])
    x, y, crop = decode_crop(rle)
    assert [x, y, x + crop.shape[1], y + crop.shape[0]] == box.tolist()
    assert crop.dtype == bool and (crop == mask[y : y + crop.shape[0], x : x + crop.shape[1]]).all()


@pytest.mark.parametrize(
    "rle", [{"size": [4, 4], "counts": "1"}, {"size": [4, 5], "counts": "P1"}, {"size": [4, 4], "counts": "o"}]
)
def test_a_crop_of_a_damaged_rle_is_refused(rle: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="an RLE that"):
        decode_crop(rle)


def test_rle_agrees_with_pycocotools() -> None:
    masks = np.stack([disc(20), np.zeros_like(disc(1)), np.ones_like(disc(1))])
    rles = encode_rle(masks)
    assert coco_mask.area(rles).tolist() == mask_areas(masks).tolist()
    assert coco_mask.toBbox(rles)[0].tolist() == [40, 28, 41, 41]


def test_areas_and_boxes() -> None:
    masks = np.zeros((4, 10, 20), bool)
    masks[0, 2:5, 3:7] = True  # 3 rows, 4 columns
    masks[1, 9, 19] = True  # the last pixel
    masks[2] = True
    assert mask_areas(masks).tolist() == [12, 1, 200, 0]
    assert mask_boxes(masks).tolist() == [[3, 2, 7, 5], [19, 9, 20, 10], [0, 0, 20, 10], [0, 0, 0, 0]]
    assert mask_boxes(masks[:0]).shape == (0, 4)


def test_box_iou() -> None:
    a = np.array([[0, 0, 10, 10], [5, 5, 5, 5]], np.float32)
    b = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10]], np.float32)  # same, half, side by side
    assert box_iou(a, b) == pytest.approx(np.array([[1, 1 / 3, 0], [0, 0, 0]]))
    assert box_iou(a[:0], b).shape == (0, 3)


def test_mask_iou() -> None:
    masks = np.zeros((3, 4, 4), bool)
    masks[0, :2] = True  # 8 px
    masks[1, 1:3] = True  # 8 px, 4 shared
    assert mask_iou(masks, masks) == pytest.approx(np.array([[1, 1 / 3, 0], [1 / 3, 1, 0], [0, 0, 0]]))
    assert paired_mask_iou(masks, masks[[1, 1, 2]]) == pytest.approx(np.array([1 / 3, 1, 0]))
    assert mask_iou(masks[:0], masks).shape == (0, 3)
    assert paired_mask_iou(masks[:0], masks[:0]).shape == (0,)


@pytest.mark.parametrize("mask", SHAPES.values(), ids=SHAPES)
def test_polygons_keep_every_pixel(mask: np.ndarray) -> None:
    polygons = mask_polygons(mask)
    assert polygon_iou(polygons, mask) == 1
    corners = [np.array(polygon).reshape(-1, 2) for polygon in polygons]
    assert all(len(c) >= 4 for c in corners)
    assert all((c >= 0).all() and (c <= (128, 96)).all() for c in corners)
    assert sum(cv2.contourArea(c.astype(np.float32)) for c in corners) == mask.sum()  # simple, and none overlap


def test_polygons_of_nothing() -> None:
    empty = np.zeros((8, 8), bool)
    assert mask_polygons(empty) == []
    assert polygon_iou([], empty) == 0


def test_polygon_of_a_rectangle_is_its_edges() -> None:
    mask = np.zeros((10, 20), bool)
    mask[2:5, 3:7] = True
    (polygon,) = mask_polygons(mask)
    assert sorted(zip(polygon[::2], polygon[1::2], strict=True)) == [(3, 2), (3, 5), (7, 2), (7, 5)]


@pytest.mark.parametrize(("name", "parts"), [("disc", 1), ("ring", 2), ("two parts", 2), ("all but a pixel", 2)])
def test_polygons_are_few(name: str, parts: int) -> None:
    assert len(mask_polygons(SHAPES[name])) == parts


def test_polygon_iou_measures_loss() -> None:
    mask = np.zeros((10, 20), bool)
    mask[0:4, 0:4] = True
    assert polygon_iou([[0, 0, 8, 0, 8, 4, 0, 4]], mask) == pytest.approx(0.5)
