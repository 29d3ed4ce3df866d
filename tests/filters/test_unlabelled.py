"""Things without a label: by hand, with finds that are given, and with the embedded models on composed scenes."""

import numpy as np
import pytest

from synthgen.backends import Request
from synthgen.filters import unlabelled
from synthgen.masks import mask_boxes
from synthgen.mini import scenes
from synthgen.models.discovery import Discovery, Found
from synthgen.types import Category, Instances, Job, Sample

CATEGORIES = tuple(Category(i, name) for i, name in enumerate(scenes.CLASSES, 1))
REQUEST = Request(128, 128, has_layout=True, words=frozenset())


def backend(**options):
    return unlabelled.Backend(unlabelled.Config(use="unlabelled", **options), CATEGORIES)


def sample(image, masks):
    height, width = image.shape[:2]
    job = Job(1, 1, 0, 0, "f", "train", "", "", {}, (), None, 7, height, width)
    return Sample(job, image, Instances(masks, mask_boxes(masks), np.ones(len(masks), np.int64)))


def blocks(*columns):
    """Masks (N, 10, 40) of 10 px high blocks: (from, to)."""
    masks = np.zeros((len(columns), 10, 40), bool)
    for mask, (first, last) in zip(masks, columns, strict=True):
        mask[:, first:last] = True
    return masks


@pytest.fixture
def finds(monkeypatch):
    """Says what will be found."""

    def say(masks):
        n = len(masks)
        found = Found(masks, mask_boxes(masks), np.ones(n, np.int64), np.ones(n, np.float32))
        monkeypatch.setattr(Discovery, "find", lambda self, images: [found])

    return say


@pytest.mark.parametrize(
    ("found", "labelled", "count"),
    [
        ([(0, 10), (20, 30)], [(0, 10), (20, 30)], 0),
        ([(0, 10), (20, 30)], [(0, 10)], 1),
        ([(0, 10), (20, 30)], [], 2),
        ([], [(0, 10)], 0),
        ([], [], 0),
        ([(0, 10)], [(5, 40)], 0),  # half of it is labelled
        ([(0, 10)], [(6, 40)], 1),
        ([(0, 10)], [(0, 3), (7, 10)], 0),  # by two
        ([(0, 40)], [(0, 10)], 1),
    ],
)
def test_by_hand(found, labelled, count, finds):
    finds(blocks(*found))
    value = backend().measure(sample(np.zeros((10, 40, 3), np.uint8), blocks(*labelled)))
    assert value.shape == () and value.dtype == np.float32 and value == count


def test_none_is_allowed_unless_it_is_said():
    assert backend().fails(np.array([0, 1, 2], np.float32)).tolist() == [False, True, True]
    assert backend(max=1).fails(np.array([0, 1, 2], np.float32)).tolist() == [False, False, True]


def test_thresholds_and_weights_are_no_part_of_the_fingerprint():
    plain = backend().config.fingerprint()
    assert backend(max=3, model="vit_h", clip="other", on_fail="reject").config.fingerprint() == plain
    assert backend(points_per_side=9).config.fingerprint() != plain


def test_models_that_are_not_here():
    told = list(backend(model="vit_l", clip="openai/clip-vit-base-patch32").check(REQUEST))
    assert [problem.field for problem in told] == [".model", ".clip"]
    assert "fetch it with: synthgen models --download vit_l" in told[0].message
    assert "fetch it with: synthgen models --download openai/clip-vit-base-patch32" in told[1].message
    assert list(backend().check(REQUEST)) == []
    assert len(backend().identity().split()) == 2 and len(list(backend().licences())) == 2


def test_composed_scenes():
    """With the embedded models: nothing where all is labelled, and one more where one label is missing."""
    rng = np.random.default_rng([2**40, 94])
    drawn = [scene for _ in range(11) if (scene := scenes.draw(rng, occlusion=False)).things][:10]
    f, clean, planted = backend(), [], []
    for scene in drawn:
        (found,) = Discovery(f.config, CATEGORIES).find([scene.image])
        clean.append(float(f.measure(sample(scene.image, scene.masks))))
        planted.append(float(f.measure(sample(scene.image, scene.masks[1:]))))
        assert planted[-1] <= len(found.masks)
    print(clean, planted)
    assert np.mean(np.array(clean) == 0) >= 0.8
    assert np.mean(np.array(planted) > clean) >= 0.8
