"""The contact sheet: images with their masks, boxes and class names, to be judged by eye."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from synthgen.base.colours import Colour, class_colour
from synthgen.types import Instances

Image8 = NDArray[np.uint8]
Area = tuple[int, int, int, int]

_PAPER: Colour = (20, 22, 27)
_INK: Colour = (232, 234, 238)
_STRIP: Colour = (40, 44, 52)
_RED: Colour = (240, 68, 62)


@dataclass(frozen=True, slots=True)
class Tile:
    """One image of a sheet. `image`: uint8 (H, W, 3), RGB. `rejected` marks it in red, caption and all."""

    image: Image8
    instances: Instances
    caption: str = ""
    rejected: bool = False


def contact_sheet(
    tiles: Sequence[Tile], names: Mapping[int, str], *, title: str = "", columns: int = 8, tile_px: int = 256
) -> Image8:
    """Tiles in rows of `columns` -> uint8 (H, W, 3), RGB.

    Args:
        names: category id -> class name; an id without a name is written as a number.
        title: a line above all; none if empty.
        tile_px: the longer side of each image on the sheet.

    Raises:
        ValueError: `columns` below 1, or `tile_px` below 32.
    """
    if columns < 1 or tile_px < 32:
        raise ValueError(f"`columns` (={columns}) must be at least 1 and `tile_px` (={tile_px}) at least 32")
    pad = max(4, tile_px // 24)
    drawn = [_draw_tile(tile, names, tile_px) for tile in tiles]
    columns = max(1, min(columns, len(drawn)))
    cell_w = max((tile.shape[1] for tile in drawn), default=tile_px)
    cell_h = max((tile.shape[0] for tile in drawn), default=0)
    font = _font(max(13, tile_px // 11))
    top = pad + (_line_height(font) + pad if title else 0)
    rows = -(-len(drawn) // columns)
    sheet = np.full((top + rows * (cell_h + pad), pad + columns * (cell_w + pad), 3), _PAPER, np.uint8)
    for i, tile in enumerate(drawn):
        y, x = top + i // columns * (cell_h + pad), pad + i % columns * (cell_w + pad)
        x += (cell_w - tile.shape[1]) // 2
        sheet[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
    if title:
        canvas = Image.fromarray(sheet)
        text = _shorten(title, font, sheet.shape[1] - 2 * pad)
        ImageDraw.Draw(canvas).text((pad, pad), text, fill=_INK, font=font)
        sheet = np.array(canvas)
    return sheet


def _draw_tile(tile: Tile, names: Mapping[int, str], tile_px: int) -> Image8:
    """The image at its size on the sheet, with what is on it, and the caption's strip below it."""
    source_h, source_w = tile.image.shape[:2]
    scale = tile_px / max(source_h, source_w)
    height, width = max(1, round(source_h * scale)), max(1, round(source_w * scale))
    enlarge = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    image = np.asarray(cv2.resize(tile.image, (width, height), interpolation=enlarge), np.uint8)

    masks = [_enlarged(mask, 2 * height, 2 * width) for mask in tile.instances.masks]
    colours = [class_colour(int(category)) for category in tile.instances.category_id]
    for mask, colour in zip(masks, colours, strict=True):
        _blend(image, mask, colour, 0.18)
    boxes = tile.instances.boxes * np.tile([width / source_w, height / source_h], 2)
    corners: list[Area] = [(int(x1), int(y1), int(x2), int(y2)) for x1, y1, x2, y2 in np.rint(boxes)]
    for (left, top, right, bottom), colour in zip(corners, colours, strict=True):
        cv2.rectangle(image, (left, top), (max(left, right - 1), max(top, bottom - 1)), colour, 1)
    thick = max(2, round(tile_px / 75))
    for mask, colour in zip(masks, colours, strict=True):
        contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        line = np.zeros_like(mask)
        # A shade below the line keeps it visible on an object of the class's own colour.
        _blend(image, cv2.drawContours(line, contours, -1, 1, 2 * thick), (0, 0, 0), 0.45)
        line[:] = 0
        _blend(image, cv2.drawContours(line, contours, -1, 1, thick), colour, 1)

    canvas = Image.fromarray(image)
    taken = np.zeros((height, width), np.float32)
    for mask in masks:
        taken = np.maximum(taken, mask[::2, ::2])
    for box, category, colour in zip(corners, tile.instances.category_id, colours, strict=True):
        _draw_label(canvas, names.get(int(category)) or str(category), colour, box, taken, tile_px)
    return _framed(canvas, tile, tile_px)


def _enlarged(mask: NDArray[np.bool_], height: int, width: int) -> Image8:
    """bool mask -> uint8 0 or 1 at another size, its pixel steps rounded off."""
    soft = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    rounding = 0.4 * height / len(mask)  # px here; small enough that a line of one pixel stays
    return np.asarray((cv2.GaussianBlur(soft, (0, 0), rounding) if rounding > 0.5 else soft) > 0.5, np.uint8)


def _blend(image: Image8, doubled: Image8, colour: Colour, opacity: float) -> None:
    """Lays a colour over `image` (H, W, 3), in place, where `doubled` (2H, 2W) is 1, with smooth edges."""
    height, width = image.shape[:2]
    cover = cv2.resize(doubled.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)[..., None] * opacity
    image[:] = np.rint(image * (1 - cover) + np.array(colour) * cover)


def _draw_label(
    canvas: Image.Image, name: str, colour: Colour, box: Area, taken: NDArray[np.float32], tile_px: int
) -> None:
    """Writes a class's name beside its box, where it hides least, and marks the place in `taken` (H, W)."""
    font = _font(max(9, tile_px // 19))
    margin = max(2, tile_px // 80)
    text = _shorten(name, font, canvas.width - 2 * margin)
    wide, high = _text_width(text, font) + 2 * margin, _line_height(font) + margin
    left, top, right, bottom = box
    places = [
        (x, y)
        for y in (top - high, bottom, top, bottom - high)
        for x in (left, right - wide, (left + right - wide) // 2)
    ]
    places += [(x, y) for x in (left - wide, right) for y in (top, bottom - high)]

    def hidden(place: tuple[int, int]) -> float:
        return float(taken[place[1] : place[1] + high, place[0] : place[0] + wide].sum())

    inside = [(_within(x, canvas.width - wide), _within(y, canvas.height - high)) for x, y in places]
    x, y = min(inside, key=hidden)  # the first of equals
    draw = ImageDraw.Draw(canvas)
    draw.rounded_rectangle((x, y, x + wide - 1, y + high - 1), radius=max(2, high // 5), fill=colour)
    draw.text((x + margin, y + high / 2), text, fill=_readable_on(colour), font=font, anchor="lm")
    # A label over a label is worse than one over an object.
    taken[y : y + high, x : x + wide] = 4


def _framed(canvas: Image.Image, tile: Tile, tile_px: int) -> Image8:
    """The caption below the image; for a rejected one a red frame, and the caption on red with a cross."""
    draw = ImageDraw.Draw(canvas)
    if tile.rejected:
        draw.rectangle((0, 0, canvas.width - 1, canvas.height - 1), outline=_RED, width=max(2, tile_px // 64))
    if not tile.caption and not tile.rejected:
        return np.array(canvas)
    font = _font(max(9, tile_px // 19))
    high = _line_height(font) + max(4, tile_px // 32)
    framed = Image.new("RGB", (canvas.width, canvas.height + high), _RED if tile.rejected else _STRIP)
    framed.paste(canvas, (0, 0))
    draw = ImageDraw.Draw(framed)
    x, y = max(3, tile_px // 40), canvas.height + high / 2
    if tile.rejected:
        arm = max(3, tile_px // 52)
        for slope in (-arm, arm):
            draw.line((x, y - slope, x + 2 * arm, y + slope), fill=(255, 255, 255), width=max(2, tile_px // 100))
        x += 2 * arm + max(4, tile_px // 36)
    text = _shorten(tile.caption, font, canvas.width - x - max(3, tile_px // 40))
    draw.text((x, y), text, fill=(255, 255, 255) if tile.rejected else _INK, font=font, anchor="lm")
    return np.array(framed)


def _within(value: int, most: int) -> int:
    return max(0, min(value, most))


@lru_cache
def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size_px)


def _line_height(font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    return int(font.getbbox("Ég")[3]) + 1


def _text_width(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    return int(np.ceil(font.getlength(text)))


def _shorten(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width_px: int) -> str:
    """On one line, of printable characters, no wider than `width_px`; cut with an ellipsis."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text[:500]).split())
    if _text_width(text, font) <= width_px:
        return text
    while text and _text_width(text + "…", font) > width_px:
        text = text[:-1].rstrip()
    return text + "…" if text else ""


def _readable_on(colour: Colour) -> Colour:
    """Black or white, whichever contrasts more by WCAG 2.1's relative luminance."""
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in colour)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (12, 12, 14) if (luminance + 0.05) ** 2 > 0.05 * 1.05 else (255, 255, 255)
