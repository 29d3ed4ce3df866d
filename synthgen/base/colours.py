"""The colours in which classes are drawn."""

from __future__ import annotations

import colorsys

Colour = tuple[int, int, int]

# The first classes' colours, far apart in hue, light enough to show on grass and dark enough to show on snow.
_PALETTE: tuple[Colour, ...] = (
    (255, 76, 76), (38, 132, 255), (255, 176, 0), (20, 184, 120), (190, 80, 255), (0, 190, 220), (255, 105, 180),
    (140, 200, 30), (255, 125, 40), (95, 95, 235), (0, 150, 136), (215, 40, 130),
)  # fmt: skip


def class_colour(category_id: int) -> Colour:
    """A class's RGB colour, the same everywhere; beyond the first dozen, hues by the golden angle."""
    if 1 <= category_id <= len(_PALETTE):
        return _PALETTE[category_id - 1]
    light = 0.55 + 0.1 * (category_id % 2)
    red, green, blue = colorsys.hls_to_rgb(category_id * 0.6180339887 % 1, light, 0.85)
    return round(red * 255), round(green * 255), round(blue * 255)


def hexadecimal(colour: Colour) -> str:
    """As CSS writes it, such as `#ff4c4c`."""
    return "#{:02x}{:02x}{:02x}".format(*colour)
