"""The backgrounds of composed scenes: ten procedural textures.

All that is random comes from the generator passed in, so the same state gives the same bytes.
"""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# A background is a colour plus a texture. The functions make the texture, float32 (S, S), from the generator and the
# coordinates x (1, S) and y (S, 1), in [0, 1].


def _noise(rng: np.random.Generator, size: int, cells: int, amplitude: float) -> Floats:
    """Smooth noise, float32 (S, S), of standard deviation about `amplitude`."""
    grid = rng.standard_normal((cells, cells), np.float32) * np.float32(amplitude)
    return np.asarray(cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC), np.float32)


def _brick(rng: np.random.Generator, x: Floats, y: Floats) -> Floats:
    row, along = np.divmod(y * 10.7, 1)
    mortar = (along < 0.17) | ((x * 5.35 + row % 2 / 2) % 1 < 0.085)
    return np.where(mortar, np.float32(0.22), np.float32(0)) + _noise(rng, x.size, 20, 0.03)


def _sand(rng: np.random.Generator, x: Floats, y: Floats) -> Any:
    return 0.04 * np.sin((y + _noise(rng, x.size, 6, 0.05)) * 60) + _noise(rng, x.size, 50, 0.015)


def _carpet(rng: np.random.Generator, x: Floats, y: Floats) -> Any:
    return 0.07 * np.sign(np.sin(x * 38) * np.sin(y * 38)) * np.abs(np.sin(y * 76)) + _noise(rng, x.size, 64, 0.03)


def _tiles(rng: np.random.Generator, x: Floats, y: Floats) -> Any:
    return (np.floor(x * 5.99) + np.floor(y * 5.99)) % 2 * np.float32(-0.2) + _noise(rng, x.size, 12, 0.01)


_TEXTURES: dict[str, tuple[tuple[float, float, float], Callable[[np.random.Generator, Floats, Floats], Floats]]] = {
    "grass": ((0.36, 0.58, 0.22), lambda rng, x, y: _noise(rng, x.size, 40, 0.06)),
    "sand": ((0.86, 0.75, 0.52), _sand),
    "water": ((0.18, 0.45, 0.70), lambda rng, x, y: 0.06 * np.sin(y * 40 + _noise(rng, x.size, 8, 2))),
    "snow": ((0.92, 0.95, 0.98), lambda rng, x, y: _noise(rng, x.size, 20, 0.015)),
    "wood": ((0.62, 0.42, 0.24), lambda rng, x, y: 0.07 * np.sin(x * 50 + _noise(rng, x.size, 4, 2))),
    "asphalt": ((0.36, 0.37, 0.40), lambda rng, x, y: _noise(rng, x.size, 64, 0.05)),
    "brick": ((0.66, 0.32, 0.24), _brick),
    "sky": ((0.50, 0.74, 0.95), lambda rng, x, y: np.clip(_noise(rng, x.size, 6, 0.18), 0, 0.3) + (y - 0.5) * 0.2),
    "tiles": ((0.80, 0.84, 0.80), _tiles),
    "carpet": ((0.48, 0.22, 0.42), _carpet),
}
BACKGROUNDS: tuple[str, ...] = tuple(_TEXTURES)


def draw_background(rng: np.random.Generator, name: str, size: int) -> Floats:
    """Draws a background as RGB, float32 (S, S, 3), in [0, 1]: its colour, varied at random, its texture and a gradient
    of light."""
    colour, texture = _TEXTURES[name]
    base = np.array(colour) * (1 + rng.uniform(-0.12, 0.12)) + rng.uniform(-0.03, 0.03, 3)
    x = np.linspace(0, 1, size, dtype=np.float32)[None]
    y = x.T
    angle = rng.uniform(0, 2 * np.pi)
    light = (np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y - 0.5) * np.float32(rng.uniform(0, 0.18))
    tone = light + _noise(rng, size, 5, 0.035) + texture(rng, x, y)
    return np.clip(base.astype(np.float32) + tone[..., None].astype(np.float32), 0, 1)
