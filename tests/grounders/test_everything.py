"""Boxes of everything that can be seen: what becomes of `Discovery`'s finds, and with the embedded models."""

import numpy as np
import pytest

from synthgen.backends import Request
from synthgen.grounders import everything
from synthgen.masks import box_iou
from synthgen.mini import scenes
from synthgen.models.discovery import Discovery, Found
from synthgen.types import Category, Job

CATEGORIES = tuple(Category(i, name) for i, name in enumerate(scenes.CLASSES, 1))
REQUEST = Request(128, 128, has_layout=False, words=frozenset())


def backend(**options):
    return everything.Backend(everything.Config(use="everything", **options), CATEGORIES)


def job(asked=()):
    return Job(7, 1, 0, 0, "f", "train", "a prompt", "", {}, asked, None, 1, 128, 128)


def test_finds_become_boxes(monkeypatch):
    masks = np.zeros((2, 40, 60), bool)
    boxes = np.array([[1, 2, 30, 40], [5, 6, 7, 8]], np.float32)
    found = Found(masks, boxes, np.array([3, 1], np.int64), np.array([0.9, 0.6], np.float32))
    nothing = Found(masks[:0], boxes[:0], found.category_id[:0], found.agreement[:0])
    monkeypatch.setattr(Discovery, "find", lambda self, images: [found, nothing][: len(images)])
    images = [np.zeros((40, 60, 3), np.uint8)] * 2
    first, second = backend().ground([job((1,)), job()], images)
    assert first.boxes.tolist() == boxes.tolist() and first.category_id.tolist() == [3, 1]
    assert list(first.scores) == ["grounding_score"]
    np.testing.assert_array_equal(first.scores["grounding_score"], found.agreement)
    assert len(second) == 0 and second.scores["grounding_score"].shape == (0,)


def test_no_layout_is_needed():
    assert list(backend().check(REQUEST)) == []


def test_models_that_are_not_here():
    told = list(backend(model="vit_b", clip="openai/clip-vit-base-patch32").check(REQUEST))
    assert [(p.field, p.message.rpartition(" ")[2]) for p in told] == [
        (".model", "vit_b"),
        (".clip", "openai/clip-vit-base-patch32"),
    ]
    assert all("is not on this machine" in p.message and "synthgen models --download" in p.message for p in told)


def test_identity_and_licences_are_of_both_models(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert len(backend().identity().split()) == 2
    assert backend(clip=str(tmp_path)).identity() != backend().identity()
    assert len(list(backend().licences())) == 2


@pytest.mark.parametrize("points_per_side", [1, 2])
def test_where_nothing_is_found(points_per_side):
    image = np.full((96, 128, 3), 128, np.uint8)
    (found,) = backend(agreement=1.0, points_per_side=points_per_side).ground([job()], [image])
    assert found.boxes.shape == (0, 4) and found.category_id.shape == (0,)


def test_things_are_found_without_being_asked_for():
    """With the embedded models; jobs ask for nothing."""
    rng = np.random.default_rng([2**40, 93])
    drawn = [scene for _ in range(14) if (scene := scenes.draw(rng, occlusion=False)).things][:12]
    found = backend().ground([job()] * len(drawn), [scene.image for scene in drawn])
    right = []
    for scene, one in zip(drawn, found, strict=True):
        overlap = box_iou(np.array([thing.box for thing in scene.things], np.float32), one.boxes)
        for thing, own in zip(scene.things, overlap, strict=True):
            right.append(bool((own[one.category_id == thing.category + 1] > 0.5).any()))
        scores = one.scores["grounding_score"]
        assert (np.diff(scores) <= 0).all() and (scores >= 0.5).all()
    print(f"{sum(right)} of {len(right)}")
    assert np.mean(right) > 0.8
