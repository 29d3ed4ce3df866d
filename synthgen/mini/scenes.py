"""Composed scenes whose truth is known exactly: sprites on procedural backgrounds. The embedded models learn from them.

`draw` makes an image with its background's name, its things and their visible masks. All that is random comes from the
generator passed in, so the same state gives the same bytes.

The sprites are Fluent Emoji (3D style) by Microsoft, under the MIT License; see `sprites/LICENSE`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from synthgen.mini.backgrounds import BACKGROUNDS, draw_background

Floats = NDArray[np.float32]
Box = tuple[int, int, int, int]

SIZE = 128

CLASSES: tuple[str, ...] = (
    *("apple", "orange", "banana", "strawberry", "cat", "dog", "duck", "fish", "car", "bus"),
    *("bicycle", "airplane", "chair", "umbrella", "sports ball", "cup", "tree", "sunflower", "mushroom", "rocket"),
    *("bird", "elephant", "giraffe", "zebra", "donut", "pizza", "carrot", "backpack", "suitcase", "kite"),
    *("clock", "potted plant"),
)

# The pixels of a sprite that are paint: hue from, to (degrees; negative ones lie below 360), saturation from, to, and
# the lowest value, which leaves out tyres.
_PAINT = {
    "car": (-60, 15, 0.3, 1, 0),
    "bus": (-130, 60, 0, 1, 0.6),
    "chair": (-70, 60, 0, 1, 0),
    "umbrella": (225, 300, 0, 1, 0),
    "cup": (180, 350, 0, 0.27, 0),
    "backpack": (-60, 10, 0.3, 1, 0),
    "suitcase": (150, 250, 0.3, 1, 0),
    "kite": (-60, 300, 0.15, 1, 0),
}
COLOURED: frozenset[str] = frozenset(_PAINT)

# Orange is missing, because it is a class: one word should mean one thing to a small text encoder.
_COLOURS = {  # hue (degrees), saturation and value of a colour's middle tone
    "red": (1, 0.90, 0.88),
    "yellow": (49, 0.85, 0.98),
    "green": (128, 0.78, 0.66),
    "blue": (216, 0.85, 0.88),
    "purple": (276, 0.66, 0.68),
    "pink": (331, 0.42, 0.99),
    "white": (240, 0.03, 0.95),
    "black": (240, 0.12, 0.19),
}
COLOURS: tuple[str, ...] = tuple(_COLOURS)

# The share of things of those classes that keep their sprite's colour: wooden chairs, yellow buses.
_UNPAINTED = 0.15

# Things that cover an earlier one leave at least this share of it visible, and at least this many px.
_MIN_VISIBLE, _MIN_VISIBLE_PX = 0.65, 40


@dataclass(frozen=True, slots=True)
class Thing:
    """One thing of a scene. `box`: half-open xyxy px, of the whole sprite, also where others cover it."""

    category: int
    colour: str | None
    box: Box


@dataclass(frozen=True, slots=True)
class Scene:
    """An image and the truth about it.

    Attributes:
        image: uint8 (S, S, 3), RGB.
        background: one of `BACKGROUNDS`.
        things: in the order in which they are drawn; a later one may cover part of an earlier one.
        masks: bool (N, S, S), the visible pixels of each thing; disjoint.
    """

    image: NDArray[np.uint8]
    background: str
    things: tuple[Thing, ...]
    masks: NDArray[np.bool_]


def draw(
    rng: np.random.Generator,
    *,
    size: int = SIZE,
    most: int = 3,
    least: int = 0,
    occlusion: bool = True,
    among: Sequence[int] = range(len(CLASSES)),
) -> Scene:
    """Draws a random scene of `size` x `size` px with `least` to `most` things of the categories in `among`. If `least`
    is 0, 5 % of scenes are empty.

    At least 65 % of each thing's pixels are visible, and at least 40 px. A thing for which there is no room is left
    out. Things of one class touch at most, so that they can be counted. Without `occlusion`, no boxes overlap.

    Raises:
        ValueError: `size` below 32, `most` below 1 or below `least`.
    """
    if size < 32 or most < max(1, least):
        raise ValueError(f"`size` (={size}) must be at least 32, and `most` (={most}) at least 1 and {least}.")
    background = BACKGROUNDS[rng.integers(len(BACKGROUNDS))]
    canvas = draw_background(rng, background, size)
    kinds = _kinds(rng, least, most, among)
    things: list[Thing] = []
    masks: list[NDArray[np.bool_]] = []
    areas: list[int] = []  # px of each mask before anything covered it
    for category, colour in kinds:
        sprite = load_sprite(category, colour)[:, :: rng.choice((-1, 1))]
        cover = occlusion and bool(things) and rng.random() < 0.3
        for attempt in range(40):
            covering = cover and attempt < 15
            box = _propose(rng, sprite.shape, size, len(kinds), attempt, things if covering else ())
            apart = [other.box for other in things if not covering or other.category == category]
            if any(_meet(box, other, size // 32 if occlusion else 0) for other in apart):
                continue
            scaled = cv2.resize(sprite, (box[2] - box[0], box[3] - box[1]), interpolation=cv2.INTER_AREA)
            patch = np.asarray(scaled, np.float32) / np.float32(255)
            mask = np.zeros((size, size), bool)
            mask[box[1] : box[3], box[0] : box[2]] = patch[..., 3] > 0.5
            area = int(mask.sum())
            left = [int((other & ~mask).sum()) for other in masks]
            if area < _MIN_VISIBLE_PX or any(
                seen < max(_MIN_VISIBLE_PX, _MIN_VISIBLE * whole) for seen, whole in zip(left, areas, strict=True)
            ):
                continue
            _paste(rng, canvas, patch, box)
            masks = [*(other & ~mask for other in masks), mask]
            areas.append(area)
            things.append(Thing(category, colour, box))
            break
    return Scene(
        np.rint(np.clip(canvas, 0, 1) * 255).astype(np.uint8),
        background,
        tuple(things),
        np.stack(masks) if masks else np.zeros((0, size, size), bool),
    )


def aspect_ratio(category: int) -> float:
    """The width of the class's sprite over its height."""
    height, width = load_sprite(category, None).shape[:2]
    return float(width / height)


def _kinds(rng: np.random.Generator, least: int, most: int, among: Sequence[int]) -> list[tuple[int, str | None]]:
    """The category and colour of each thing. Some things repeat the one before, so that captions count."""
    share = rng.random()
    count = 0 if share < 0.05 else 1 if share < 0.45 or most == 1 else 2 if share < 0.75 or most == 2 else 3
    if count == 3:
        count = int(rng.integers(3, most + 1))
    count = max(count, least)
    kinds: list[tuple[int, str | None]] = []
    for _ in range(count):
        if kinds and rng.random() < 0.3:
            kinds.append(kinds[-1])
            continue
        category = among[int(rng.integers(len(among)))]
        painted = CLASSES[category] in COLOURED and rng.random() >= _UNPAINTED
        kinds.append((category, COLOURS[rng.integers(len(COLOURS))] if painted else None))
    return kinds


def _propose(
    rng: np.random.Generator, shape: tuple[int, ...], size: int, count: int, attempt: int, near: Sequence[Thing]
) -> Box:
    """A random box for a sprite of `shape`, smaller with every attempt. If `near` has things, it is centred in the box
    of one of them."""
    low, high = (0.35, 0.8) if count == 1 else (0.25, 0.62)
    scale = rng.uniform(low, high - (high - low) * attempt / 50) * size / max(shape[:2])
    w, h = max(8, round(shape[1] * scale)), max(8, round(shape[0] * scale))
    if near:
        left, top, right, bottom = near[int(rng.integers(len(near)))].box
        x, y = round(rng.uniform(left, right) - w / 2), round(rng.uniform(top, bottom) - h / 2)
        x, y = min(max(x, 0), size - w), min(max(y, 0), size - h)
    else:
        x, y = int(rng.integers(0, size - w + 1)), int(rng.integers(0, size - h + 1))
    return x, y, x + w, y + h


def _meet(a: Box, b: Box, slack: int) -> bool:
    """Whether two boxes overlap by more than `slack` px both ways."""
    return min(a[2], b[2]) - max(a[0], b[0]) > slack and min(a[3], b[3]) - max(a[1], b[1]) > slack


def _paste(rng: np.random.Generator, canvas: Floats, patch: Floats, box: Box) -> None:
    """Draws a patch, premultiplied RGBA, and its soft shadow into `canvas`, float32 (S, S, 3)."""
    size, (x0, y0, x1, y1) = len(canvas), box
    sigma = max(1.0, (x1 - x0) / 20)
    pad, drop = int(3 * sigma) + 1, max(2, (y1 - y0) // 14)
    shadow = cv2.copyMakeBorder(patch[..., 3], pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=0)
    shadow = cv2.GaussianBlur(shadow, (0, 0), sigma) * np.float32(rng.uniform(0.22, 0.4))
    left, top = max(0, x0 - pad), max(0, y0 - pad + drop)
    right, bottom = min(size, x1 + pad), min(size, y1 + pad + drop)
    dx, dy = x0 - pad, y0 - pad + drop
    canvas[top:bottom, left:right] *= 1 - shadow[top - dy : bottom - dy, left - dx : right - dx, None]

    alpha = patch[..., 3:]
    gain = (rng.uniform(0.85, 1.12) * rng.uniform(0.97, 1.03, 3)).astype(np.float32)
    canvas[y0:y1, x0:x1] *= 1 - alpha
    canvas[y0:y1, x0:x1] += np.minimum(patch[..., :3] * gain, alpha)


@cache
def load_sprite(category: int, colour: str | None) -> NDArray[np.uint8]:
    """Reads a class's sprite, cropped to the pixels that are more than half opaque: premultiplied RGBA, uint8
    (h, w, 4)."""
    name = CLASSES[category]
    path = Path(__file__).with_name("sprites") / f"{name.replace(' ', '_')}.webp"
    with Image.open(path) as file:
        rgba = np.asarray(file.convert("RGBA"), np.float32) / np.float32(255)
    ys, xs = np.nonzero(rgba[..., 3] > 0.5)
    rgba = rgba[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1].copy()
    if colour is not None:
        rgba[..., :3] = _recolour(rgba, name, colour)
    rgba[..., :3] *= rgba[..., 3:]
    sprite: NDArray[np.uint8] = np.rint(rgba * 255).astype(np.uint8)
    sprite.flags.writeable = False
    return sprite


def _recolour(rgba: Floats, name: str, colour: str) -> Floats:
    """Repaints a sprite: RGB, float32 (h, w, 3), with its shading kept and the hue of its paint changed."""
    low, high, dull, vivid, dark = _PAINT[name]
    hsv = cv2.cvtColor(rgba[..., :3], cv2.COLOR_RGB2HSV)
    turn = (hsv[..., 0] - low) % 360
    chosen = (turn <= high - low) & (hsv[..., 1] >= dull) & (hsv[..., 1] <= vivid) & (hsv[..., 2] >= dark)
    paint = chosen.astype(np.float32)
    solid = chosen & (rgba[..., 3] > 0.5)

    # The shading is the luma. HSV's value hardly changes over a vivid colour, as one channel stays near its maximum.
    luma = rgba[..., :3] @ np.array((0.299, 0.587, 0.114), np.float32)
    shade = (luma / np.median(luma[solid])) ** np.float32(0.75)
    hue, saturation, value = _COLOURS[colour]
    drift = (turn - np.median(turn[solid]) + 180) % 360 - 180
    bright = value * shade
    painted = np.stack(
        [
            (hue + np.clip(0.2 * drift, -6, 6)) % 360,
            np.clip(saturation * (1 - np.clip(bright - 1, 0, 0.6)), 0, 1),  # a highlight above the maximum gets paler
            np.clip(bright, 0, 1),
        ],
        -1,
    ).astype(np.float32)
    soft = cv2.GaussianBlur(paint, (0, 0), 0.7)[..., None]
    return np.asarray(rgba[..., :3] * (1 - soft) + cv2.cvtColor(painted, cv2.COLOR_HSV2RGB) * soft, np.float32)
