"""Composed scenes: what is drawn, and that the truth is true."""

import subprocess
import sys

import cv2
import numpy as np
import pytest

from synthgen.masks import mask_boxes
from synthgen.mini import scenes
from synthgen.mini.backgrounds import BACKGROUNDS
from synthgen.mini.scenes import CLASSES, COLOURED, COLOURS, Scene, draw

HUES = {"red": (-15, 15), "yellow": (40, 62), "green": (100, 150), "blue": (200, 235), "purple": (258, 295)}
HUES["pink"] = (315, 345)


@pytest.fixture(scope="module")
def drawn() -> list[Scene]:
    rng = np.random.default_rng(11)
    return [draw(rng, most=4) for _ in range(2000)]


def test_names() -> None:
    assert CLASSES[:20] == (
        *("apple", "orange", "banana", "strawberry", "cat", "dog", "duck", "fish", "car", "bus"),
        *("bicycle", "airplane", "chair", "umbrella", "sports ball", "cup", "tree", "sunflower", "mushroom", "rocket"),
    )
    assert BACKGROUNDS[:8] == ("grass", "sand", "water", "snow", "wood", "asphalt", "brick", "sky")
    assert len(set(CLASSES)) == len(CLASSES) >= 28
    assert set(CLASSES) > COLOURED
    assert not {*COLOURS, *BACKGROUNDS} & set(" ".join(CLASSES).split())  # one word, one meaning


def test_same_state_same_bytes() -> None:
    one, two = np.random.default_rng(3), np.random.default_rng(3)
    for _ in range(30):
        a, b = draw(one), draw(two)
        assert a.image.tobytes() == b.image.tobytes()
        assert a.masks.tobytes() == b.masks.tobytes()
        assert (a.background, a.things) == (b.background, b.things)
    assert one.random() == two.random()


def test_shapes(drawn: list[Scene]) -> None:
    for scene in drawn:
        assert scene.image.shape == (128, 128, 3) and scene.image.dtype == np.uint8
        assert scene.masks.shape == (len(scene.things), 128, 128) and scene.masks.dtype == bool
        assert len(scene.things) <= 4


def test_masks_are_disjoint_and_lie_in_their_boxes(drawn: list[Scene]) -> None:
    for scene in drawn:
        assert scene.masks.sum(0).max(initial=0) <= 1
        for item, tight in zip(scene.things, mask_boxes(scene.masks), strict=True):
            x0, y0, x1, y1 = item.box
            assert 0 <= x0 < x1 <= 128 and 0 <= y0 < y1 <= 128
            assert tight[0] >= x0 - 1 and tight[1] >= y0 - 1 and tight[2] <= x1 + 1 and tight[3] <= y1 + 1


def test_an_uncovered_mask_fills_its_box() -> None:
    rng = np.random.default_rng(5)
    for _ in range(200):
        scene = draw(rng, most=1)
        for item, tight in zip(scene.things, mask_boxes(scene.masks), strict=True):
            assert np.abs(tight - item.box).max() <= 2
            w, h = item.box[2] - item.box[0], item.box[3] - item.box[1]
            assert w / h == pytest.approx(scenes.aspect_ratio(item.category), rel=0.06)


def test_things_are_visible(drawn: list[Scene]) -> None:
    covered = 0
    for scene in drawn:
        hidden = False
        for item, mask in zip(scene.things, scene.masks, strict=True):
            # The whole mask, from the sprite at the box's size, either way round.
            x0, y0, x1, y1 = item.box
            sprite = scenes.load_sprite(item.category, item.colour)
            alpha = cv2.resize(sprite[..., 3], (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA)
            assert mask.sum() >= 40
            whole = int((alpha / 255 > 0.5).sum())
            assert mask.sum() >= 0.6 * whole
            hidden |= bool(mask.sum() < 0.95 * whole)
        covered += hidden
    assert 0.05 < covered / len(drawn) < 0.35


def test_no_occlusion_if_not_asked_for() -> None:
    rng = np.random.default_rng(6)
    for _ in range(100):
        boxes = [item.box for item in draw(rng, occlusion=False).things]
        for i, a in enumerate(boxes):
            for b in boxes[:i]:
                assert min(a[2], b[2]) <= max(a[0], b[0]) or min(a[3], b[3]) <= max(a[1], b[1])


def test_balance(drawn: list[Scene]) -> None:
    things = [item for scene in drawn for item in scene.things]
    shares = np.bincount([item.category for item in things], minlength=len(CLASSES)) / len(things)
    assert 0.65 / len(CLASSES) < shares.min() and shares.max() < 1.4 / len(CLASSES)
    for name in BACKGROUNDS:
        assert sum(scene.background == name for scene in drawn) > 0.7 * len(drawn) / len(BACKGROUNDS)
    for colour in COLOURS:
        coloured = [item for item in things if item.colour]
        assert sum(item.colour == colour for item in coloured) > 0.6 * len(coloured) / len(COLOURS)
    assert all(CLASSES[item.category] in COLOURED for item in things if item.colour)
    plain = [item.colour is None for item in things if CLASSES[item.category] in COLOURED]
    assert 0.08 < np.mean(plain) < 0.25
    assert 0.03 < sum(not scene.things for scene in drawn) / len(drawn) < 0.07


@pytest.mark.parametrize("category", range(len(CLASSES)), ids=CLASSES)
def test_sprite(category: int) -> None:
    sprite = scenes.load_sprite(category, None)
    assert sprite.dtype == np.uint8 and sprite.shape[2] == 4
    opaque = (sprite[..., 3] > 127).mean()
    assert 0.2 < opaque < 0.95
    assert (sprite[..., :3] <= sprite[..., 3:]).all()  # premultiplied
    assert 0.3 < scenes.aspect_ratio(category) < 3


def hsv(pixels: np.ndarray) -> np.ndarray:
    """uint8 (N, 3) RGB -> (N, 3): hue in degrees, saturation, value."""
    return cv2.cvtColor(pixels[None].astype(np.float32) / 255, cv2.COLOR_RGB2HSV)[0]


@pytest.mark.parametrize("colour", COLOURS)
def test_recoloured_things_have_their_colour(colour: str) -> None:
    rng, checked = np.random.default_rng(2), set()
    while len(checked) < len(COLOURED):
        scene = draw(rng)
        for item, mask in zip(scene.things, scene.masks, strict=True):
            name = CLASSES[item.category]
            if item.colour != colour or name in checked:
                continue
            checked.add(name)
            hue, saturation, value = hsv(scene.image[mask]).T
            if colour in HUES:
                # Windows, wheels and coffee are not painted: of the vivid pixels, those about the commonest hue.
                vivid = hue[(saturation > 0.3) & (value > 0.3)]
                counts, edges = np.histogram(vivid, bins=36, range=(0, 360))
                turned = (vivid - edges[counts.argmax()] - 5 + 180) % 360 - 180
                mean = edges[counts.argmax()] + 5 + turned[np.abs(turned) < 30].mean()
                low, high = HUES[colour]
                assert low <= mean <= high or low <= mean - 360 <= high, name
                assert (np.abs(turned) < 30).mean() > 0.4, name
            else:
                grey = saturation < 0.25
                right = grey & ((value > 0.62) if colour == "white" else (value < 0.4))
                assert right.mean() > (0.2 if name in ("bus", "car", "cup") else 0.5), name


@pytest.mark.parametrize("size", [32, 64, 96, 200, 256])
def test_other_sizes(size: int) -> None:
    rng, found = np.random.default_rng(4), 0
    for _ in range(20):
        scene = draw(rng, size=size)
        assert scene.image.shape == (size, size, 3) and scene.masks.shape[1:] == (size, size)
        assert all(mask.sum() >= 40 for mask in scene.masks)
        found += len(scene.things)
    assert found >= 15


def test_as_many_things_as_are_asked_for() -> None:
    rng = np.random.default_rng(5)
    counts = [len(draw(rng, most=3, least=3).things) for _ in range(60)]
    assert np.mean([n == 3 for n in counts]) > 0.9 and max(counts) == 3  # now and then one finds no place
    assert min(len(draw(rng, most=2, least=1).things) for _ in range(60)) == 1
    for seed in range(20):  # what is random is drawn as it is without
        first, second = (draw(np.random.default_rng(seed), least=least) for least in (0, 1))
        assert first.background == second.background and (not first.things or first.things == second.things)


@pytest.mark.parametrize(("size", "most", "least"), [(16, 3, 0), (128, 0, 0), (128, 2, 3)])
def test_what_cannot_be_drawn(size: int, most: int, least: int) -> None:
    with pytest.raises(ValueError, match=f"=({size}|{most})"):
        draw(np.random.default_rng(0), size=size, most=most, least=least)


def test_importing_reads_nothing_and_brings_no_torch() -> None:
    code = "import sys, synthgen.mini.scenes as s; assert 'torch' not in sys.modules; print(s.load_sprite.cache_info())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "currsize=0" in done.stdout
