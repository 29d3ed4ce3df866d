"""The filters that look at the shapes of masks, on shapes whose numbers are known."""

from typing import Any

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from synthgen.backends import ThresholdFilter, backend_module
from synthgen.errors import BackendError
from synthgen.types import Instances, Job, Sample

SHAPES = ["mask_components", "mask_holes", "touches_border", "box_fill", "mask_overlap"]
EVERY = [*SHAPES, "box_agreement"]


def build(name: str, **options: Any) -> ThresholdFilter[Any]:
    module = backend_module("filter", name)
    backend: ThresholdFilter[Any] = module.Backend(module.Config(use=name, **options), ())
    return backend


def sample(masks: np.ndarray, scores: dict[str, np.ndarray] | None = None) -> Sample:
    """Boxes are of no use: a number about a mask rests on the mask."""
    count, height, width = masks.shape
    job = Job(1, 1, 0, 0, "f", "train", "a cup", "", {}, (), None, 7, height, width)
    boxes = np.tile(np.float32([0, 0, width, height]), (count, 1))
    instances = Instances(masks, boxes, np.ones(count, np.int64), scores or {})
    return Sample(job, np.zeros((height, width, 3), np.uint8), instances)


def measure(name: str, *drawings: str) -> list[float]:
    """Drawings of one size, `#` being mask; spaces at the ends of lines do not count."""
    masks = np.array([[[c == "#" for c in line] for line in drawing.split()] for drawing in drawings])
    values = build(name).measure(sample(masks))
    assert values.dtype == np.float32
    assert values.shape == (len(drawings),)
    return [float(v) for v in values]


# Components


def test_pixels_outside_the_largest_piece() -> None:
    nine_and_one = """
        .......
        .###...
        .###.#.
        .###...
        ......."""
    equal = """
        ##...##
        ##...##
        .......
        .......
        ......."""
    three = """
        ####...
        .......
        .##....
        .......
        ##....."""
    assert measure("mask_components", nine_and_one, equal, three) == pytest.approx([0.1, 0.5, 0.5])


def test_corners_join_pieces() -> None:
    assert measure("mask_components", "#.#. .#.# #.#. .#.#", "##.. ##.. ..## ..##") == [0, 0]


# Holes


def test_holes() -> None:
    ring = """
        ......
        .####.
        .#..#.
        .#..#.
        .####.
        ......"""  # 12 px around 4
    two = """
        ......
        .#####
        .#.#.#
        .#####
        ......
        ......"""  # 13 px around 2
    island = """
        ######
        #....#
        #.##.#
        #.##.#
        #....#
        ######"""  # 24 px around 12, of which 4 are mask
    assert measure("mask_holes", ring, two, island) == pytest.approx([4 / 16, 2 / 15, 12 / 36])


def test_what_is_open_is_no_hole() -> None:
    bay = "##### #...# #.... #...# #####"
    cut_by_the_border = "#...# #...# ##### ..... ....."
    between_pieces = "#.#.# ..... #.#.# ..... #.#.#"
    assert measure("mask_holes", bay, cut_by_the_border, between_pieces) == [0, 0, 0]


def test_a_corner_closes_a_hole() -> None:
    """Mask pixels join at corners, so the ground between them does not."""
    assert measure("mask_holes", ".#. #.# .#.") == pytest.approx([1 / 5])


# Border


def test_length_of_the_cut() -> None:
    grazes = """
        ..#....
        .####..
        .####..
        .####..
        .......
        ......."""  # 1 of a width of 4
    through = """
        .......
        .......
        .......
        ..##...
        .####..
        .####.."""  # all of it
    whole = """
        .......
        .####..
        .####..
        .####..
        .####..
        ......."""
    l_in_a_corner = """
        .......
        .#.....
        .#.....
        .#.....
        .#.....
        .##...."""  # 2 of a width of 2
    side = """
        .......
        ......#
        ....###
        .....##
        .....#.
        ......."""  # 3 of a height of 4
    assert measure("touches_border", grazes, through, whole, l_in_a_corner, side) == [0.25, 1, 0, 1, 0.75]


def test_the_longest_cut_counts() -> None:
    l_along_two_sides = """
        #...
        #...
        ##..
        ...."""  # 3 of 3 at the left, 1 of 2 at the top
    only_the_foot = """
        ....
        .#..
        .#..
        ###."""  # 3 of 3 at the bottom, 1 of 3 at the left
    tips = """
        #...
        .##.
        .##.
        ...#"""
    assert measure("touches_border", l_along_two_sides, only_the_foot, tips) == [1, 1, 0.25]


# Box


def test_share_of_the_box() -> None:
    diagonal = "....# ...#. ..#.. .#... ....."
    bar = "..... .###. .###. ..... ....."
    l_shape = "..... .#... .#... .###. ....."
    speck_far_off = "##... ##... ..... ..... ....#"
    assert measure("box_fill", diagonal, bar, l_shape, speck_far_off) == pytest.approx([0.25, 1, 5 / 9, 0.2])


@pytest.mark.parametrize(("length", "fails"), [(11, False), (14, True)])
def test_the_default_keeps_askew_bars_up_to_11_times_as_long_as_wide(length: int, fails: bool) -> None:
    canvas = np.zeros((1, 1000, 1000), np.uint8)
    corners = cv2.boxPoints(((500.0, 500.0), (60.0 * length, 60.0), 45.0)).round().astype(np.int32)
    cv2.fillPoly(canvas[0], [corners], 1)
    backend = build("box_fill")
    assert backend.fails(backend.measure(sample(canvas.astype(bool)))).tolist() == [fails]


# Overlap


def test_share_that_another_covers() -> None:
    drawings = (
        "####.. ####.. ...... ......",  # 8 px; 2 are in the next
        "...### ...### ...... ......",  # 6 px; 2 in the one before
        "...... ...... .##... .##...",  # alone
        "...... ...... ..###. ......",  # 3 px; 1 in the one before
    )
    assert measure("mask_overlap", *drawings) == pytest.approx([0.25, 1 / 3, 0.25, 1 / 3])


def test_two_labels_on_one_object_both_fail() -> None:
    masks = np.zeros((3, 20, 20), bool)
    masks[:2, 3:9, 3:9] = True
    masks[2, 12:15, 12:15] = True
    backend = build("mask_overlap")
    values = backend.measure(sample(masks))
    assert values.tolist() == [1, 1, 0]
    assert backend.fails(values).tolist() == [True, True, False]


def test_of_a_part_and_its_whole_the_part_fails() -> None:
    assert measure("mask_overlap", "##### ##### ##### #####", "..... .##.. .##.. .....") == pytest.approx([0.2, 1])


def test_the_most_that_one_covers_not_all_together() -> None:
    assert measure("mask_overlap", "##########", "###.......", "...####...") == pytest.approx([0.4, 1, 1])


def test_overlap_agrees_with_brute_force() -> None:
    """More shared pixels than are looked at at once."""
    rng = np.random.default_rng(0)
    masks = np.zeros((9, 400, 500), bool)
    for mask in masks:
        x, y = rng.integers(0, 200, 2)
        mask[y : y + rng.integers(100, 400), x : x + rng.integers(100, 400)] = True
        mask &= rng.random(mask.shape) < 0.9
    expected = [max((a & b).sum() / a.sum() for j, b in enumerate(masks) if i != j) for i, a in enumerate(masks)]
    assert (masks.sum(0) > 1).sum() > 1 << 16
    assert build("mask_overlap").measure(sample(masks)) == pytest.approx(expected)


# All


def numbers(name: str, masks: np.ndarray) -> list[float]:
    values = build(name).measure(sample(masks))
    assert values.dtype == np.float32
    return [float(v) for v in values]


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("shape", [(0, 10, 20), (1, 1, 1), (3, 7, 5), (2, 1, 9)])
def test_empty_masks(name: str, shape: tuple[int, int, int]) -> None:
    assert numbers(name, np.zeros(shape, bool)) == [0] * shape[0]


@pytest.mark.parametrize("name", SHAPES)
def test_an_empty_mask_beside_others_changes_nothing(name: str) -> None:
    masks = np.zeros((3, 12, 15), bool)
    masks[0, 2:9, 0:7] = True
    masks[0, 4, 3] = False
    masks[2, 5:11, 5:14] = True
    values = numbers(name, masks)
    assert values[1] == 0
    assert values[::2] == numbers(name, masks[::2])


@pytest.mark.parametrize(
    ("name", "inside", "alone"),
    [
        ("mask_components", 0, 0),
        ("mask_holes", 0, 0),
        ("touches_border", 0, 1),
        ("box_fill", 1, 1),
        ("mask_overlap", 0, 0),
    ],
)
def test_one_pixel_and_full_masks(name: str, inside: float, alone: float) -> None:
    """One pixel within an image; an image of one pixel; a mask that is the image."""
    masks = np.zeros((1, 9, 6), bool)
    masks[0, 4, 3] = True
    assert numbers(name, masks) == [inside]
    assert numbers(name, np.ones((1, 1, 1), bool)) == numbers(name, np.ones((1, 9, 6), bool)) == [alone]


@pytest.mark.parametrize("name", SHAPES)
def test_mirrored_and_turned_masks_have_the_same_numbers(name: str) -> None:
    masks = np.random.default_rng(1).random((4, 15, 22)) < np.array([0.1, 0.4, 0.6, 0.9])[:, None, None]
    masks[:2, :3] = False
    values = numbers(name, masks)
    for other in (masks[:, ::-1], masks[..., ::-1], masks.transpose(0, 2, 1), np.asfortranarray(masks)):
        assert numbers(name, other) == values


@pytest.mark.parametrize(
    ("name", "kept", "failing"),
    [
        ("mask_components", [0, 0.25], [0.26, 1]),
        ("mask_holes", [0, 0.5], [0.51, 1]),
        ("touches_border", [0, 0.5, 1], []),
        ("box_fill", [0.15, 1], [0, 0.14]),
        ("mask_overlap", [0, 0.5], [0.51, 1]),
        ("box_agreement", [0.7, 1], [0, 0.69]),
    ],
)
def test_defaults(name: str, kept: list[float], failing: list[float]) -> None:
    backend = build(name)
    assert backend.scope == "instance"
    assert not backend.fails(np.array(kept, np.float32)).any()
    assert backend.fails(np.array([*failing, np.nan], np.float32)).all()


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("options", [{"min": -0.1}, {"max": 1.1}, {"min": 30, "max": 60}])
def test_thresholds_are_shares(name: str, options: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        build(name, **options)


# Agreement of boxes: a score


def test_box_agreement_is_the_score() -> None:
    scores = {"box_iou": np.array([0.7, 0], np.float32), "other": np.ones(2, np.float32)}
    backend = build("box_agreement")
    values = backend.measure(sample(np.ones((2, 5, 5), bool), scores))
    assert values.dtype == np.float32
    assert values == pytest.approx([0.7, 0])
    assert backend.measure(sample(np.zeros((0, 5, 5), bool))).shape == (0,)


def test_box_agreement_of_a_segmenter_without_the_score() -> None:
    with pytest.raises(BackendError, match="filter box_agreement: needs the score 'box_iou'; the labels have: none"):
        build("box_agreement").measure(sample(np.ones((1, 5, 5), bool)))
