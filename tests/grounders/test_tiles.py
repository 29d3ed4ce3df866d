"""Tiles and mirrored images: a stand-in for a detector whose answers are known, and a real one."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import tiny

from synthgen.backends import Request
from synthgen.grounders import _detectors, _views, detector
from synthgen.types import Category, Job

CATEGORIES = (Category(1, "cat"), Category(2, "dog"))
SIZE = (100, 200)


def job(*asked, height=SIZE[0], width=SIZE[1]):
    return Job(1, 1, 0, 0, "f", "train", "a prompt", "", {}, asked, None, 1, height, width)


def drawn(*boxes):
    """A black image with rectangles, each of its own grey."""
    image = np.zeros((*SIZE, 3), np.uint8)
    for shade, (left, top, right, bottom) in enumerate(boxes, 100):
        image[top:bottom, left:right] = shade
    return image


def looks(smallest=0.0, left_half_only=False):
    """Answers of a detector that finds each rectangle exactly, unless it is smaller than this share of the picture's
    width, or not wholly in the picture's left half. Larger ones score more."""

    def answers(_, pictures, texts):
        found = []
        for picture, several in zip(pictures, texts, strict=True):
            boxes, scores = [(0, 0, 0, 0)], [0.01]
            for shade in np.unique(picture[picture > 0]):
                rows, columns = np.nonzero(picture[..., 0] == shade)
                box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
                width = picture.shape[1]
                if (box[2] - box[0]) / width >= smallest and not (left_half_only and box[2] > width / 2):
                    boxes.append(box)
                    scores.append(0.5 + 0.4 * (box[2] - box[0]) / width)
            logits = np.full((len(boxes), len(several)), -9.0, np.float32)
            logits[:, 0] = np.log(np.array(scores) / (1 - np.array(scores)))
            found.append((np.array(boxes, np.float32), logits))
        return found

    return answers


def ground(monkeypatch, image, see, **options):
    made = detector.Backend(detector.Config(use="detector", **options), CATEGORIES)
    monkeypatch.setattr(detector, "answers", see)
    monkeypatch.setattr(made, "load", lambda: SimpleNamespace(family=_detectors.FAMILIES["owlv2"]))
    (found,) = made.ground([job(1)], [image])
    return found


def boxes_of(found):
    return sorted(tuple(map(float, box)) for box in found.boxes)


def test_tiles_find_what_is_small_in_the_whole_image(monkeypatch):
    small, large = (130, 20, 142, 30), (20, 10, 80, 90)  # 12 px are 6 % of the image's width, and 11 % of a tile's
    see = looks(smallest=0.1)
    assert boxes_of(ground(monkeypatch, drawn(small, large), see)) == [large]
    assert boxes_of(ground(monkeypatch, drawn(small, large), see, tiles=2)) == [large, small]


def test_an_object_across_tiles_is_found_once_and_whole(monkeypatch):
    """It is wider than the tiles' overlap, so every tile cuts it; the whole image does not."""
    across = (70, 40, 140, 60)
    assert boxes_of(ground(monkeypatch, drawn(across), looks(), tiles=2)) == [across]


def test_an_object_in_the_overlap_of_tiles_is_found_once_and_whole(monkeypatch):
    """Tiles are 112 px wide and overlap from 88 to 112. The left one cuts the object, and the right one has the whole;
    it is too small for the whole image."""
    small = (106, 5, 118, 20)
    whole = ground(monkeypatch, drawn(small), looks(smallest=0.1), tiles=2)
    assert boxes_of(whole) == [small]
    # The left tile sees half of it. As a box of its own it would stay: its IoU with the whole is 0.5.
    pieces = looks(smallest=0.05)
    assert boxes_of(ground(monkeypatch, drawn(small), pieces, tiles=2)) == [small]


def test_pieces_stay_where_no_view_has_the_whole(monkeypatch):
    """The object is too large for a tile, and the model is blind to it in the whole image. Rows of tiles overlap from
    44 to 56, and the lower tiles see a piece of each piece, which is dropped."""
    across, see = (70, 30, 140, 48), looks()

    def blind(loaded, pictures, texts):
        nothing = (np.zeros((1, 4), np.float32), np.full((1, 1), -9, np.float32))
        return [
            nothing if p.shape[:2] == SIZE else a for p, a in zip(pictures, see(loaded, pictures, texts), strict=True)
        ]

    assert boxes_of(ground(monkeypatch, drawn(across), blind, tiles=2)) == [(70, 30, 112, 48), (88, 30, 140, 48)]


def test_a_mirrored_image_finds_what_the_image_does_not(monkeypatch):
    left, right = (10, 10, 40, 60), (150, 20, 190, 80)
    see = looks(left_half_only=True)
    assert boxes_of(ground(monkeypatch, drawn(left, right), see)) == [left]
    assert boxes_of(ground(monkeypatch, drawn(left, right), see, flip=True)) == [left, right]


def test_boxes_of_all_views_are_merged(monkeypatch):
    """An object in one tile is seen in the image, in the tile, and in both mirrored; the best score stays."""
    found = ground(monkeypatch, drawn((10, 5, 40, 30)), looks(), tiles=2, flip=True)
    assert boxes_of(found) == [(10, 5, 40, 30)]
    assert found.scores["grounding_score"] == pytest.approx(0.5 + 0.4 * 30 / 112)


@pytest.mark.parametrize(("tiles", "overlap"), [(1, 0.2), (2, 0.0), (2, 0.2), (3, 0.5), (8, 0.8), (7, 0.33)])
@pytest.mark.parametrize("size", [(64, 64), (100, 203), (1024, 768)])
def test_tiles_cover_the_image_and_overlap(tiles, overlap, size):
    found = _views.views(size, tiles, overlap, flip=False)
    assert found[0] == _views.View(0, 0, size[1], size[0])
    assert len(found) == 1 + (tiles**2 if tiles > 1 else 0)
    assert len({view.shape for view in found[1:]}) <= 1  # of one size, so that they go through the model together
    columns = sorted({(view.left, view.right) for view in found[1:]})
    for (left, right), (next_left, _) in pairwise(columns):
        assert right - next_left >= overlap * (right - left) - 1
    covered = np.zeros(size, bool)
    for view in found[1:] or found:
        assert min(view.left, view.top) >= 0 and view.right <= size[1] and view.bottom <= size[0]
        covered[view.top : view.bottom, view.left : view.right] = True
    assert covered.all()


def test_views_are_mirrored_too():
    found = _views.views((64, 64), 2, 0.2, flip=True)
    assert len(found) == 10 and [view.mirrored for view in found] == [False] * 5 + [True] * 5
    picture = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)
    np.testing.assert_array_equal(found[5].picture(picture), picture[:, ::-1])


def test_a_real_detector_sees_each_view_as_an_image_of_its_own(tmp_path):
    folder = tiny.save_owlv2(tmp_path)
    keep = {"score_threshold": 0.0, "nms_iou": 1.0, "cross_class_nms_iou": 1.0, "max_boxes": 1000}
    options = {"use": "detector", "model": str(folder), "device": "cpu", "torch_dtype": "float32", **keep}

    def ground(image, **more):
        made = detector.Backend(detector.Config(**options, **more), CATEGORIES)
        (found,) = made.ground([job(1, 2, height=image.shape[0], width=image.shape[1])], [image])
        return np.column_stack([found.boxes, found.scores["grounding_score"], found.category_id])

    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    expected = [ground(image)]
    for top, left in ((0, 0), (0, 88), (44, 0), (44, 88)):
        expected.append(ground(image[top : top + 56, left : left + 112]))
        expected[-1][:, :4] += [left, top, left, top]
    mirrored = ground(np.ascontiguousarray(image[:, ::-1]))
    mirrored[:, [0, 2]] = 200 - mirrored[:, [2, 0]]
    found = ground(image, tiles=2, flip=True)
    once = ground(image, flip=True)
    assert len(once) == len(expected[0]) + len(mirrored)
    for row in (*expected[0], *mirrored):
        assert np.abs(once - row).max(1).min() < 1e-3
    missing = [row for row in np.concatenate(expected) if np.abs(found - row).max(1).min() > 1e-3]
    assert len(found) > len(once) and len(missing) < len(np.concatenate(expected)) / 2
    for left, top, right, bottom, _, category in missing:  # each is cut, and another has the whole
        assert min(abs(left - 88), abs(right - 112)) <= 1.2 or min(abs(top - 44), abs(bottom - 56)) <= 1
        same = found[found[:, 5] == category]
        width = np.minimum(same[:, 2], right) - np.maximum(same[:, 0], left)
        height = np.minimum(same[:, 3], bottom) - np.maximum(same[:, 1], top)
        assert (np.clip(width, 0, None) * np.clip(height, 0, None)).max() >= 0.8 * (right - left) * (
            bottom - top
        ) - 1e-2


def test_views_stand_in_the_fingerprint_if_they_are_used():
    plain = detector.Config(use="detector").fingerprint()
    assert not {"tiles", "tile_overlap", "flip"} & set(plain)
    used = detector.Config(use="detector", tiles=3, tile_overlap=0.3, flip=True).fingerprint()
    assert {k: v for k, v in used.items() if k not in plain} == {"tiles": 3, "tile_overlap": 0.3, "flip": True}


def test_an_overlap_without_tiles_is_said():
    made = detector.Backend(detector.Config(use="detector", model="/no/where", tile_overlap=0.3), CATEGORIES)
    (note,) = made.advice(Request(64, 64, has_layout=False, words=frozenset()))
    assert note.field == ".tile_overlap" and "`tiles` is 1" in note.message
