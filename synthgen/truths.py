"""Images whose truth is known: composed scenes, or a COCO file of the user's."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from synthgen.errors import Problem, SpecError, listed
from synthgen.spec import DatasetSpec
from synthgen.wording import plain, shown

MAX_PIXELS = 50_000_000  # of an image: a few kilobytes can stand for gigabytes
MAX_MASKS = 500_000_000  # pixels of all masks of an image
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")  # not EPS, for which Pillow starts another program
HELD_OUT = 2**41  # of seeds: the embedded models were trained on scenes of [seed, index]


@dataclass(frozen=True, slots=True)
class Truth:
    """An image, uint8 (H, W, 3), RGB, with all that can be seen of the spec's classes: masks bool (N, H, W), none of
    them empty, category ids (N,), and what they stand on, in a word, or "" where it is not known."""

    image: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    category_id: NDArray[np.int64]
    ground: str = ""


@dataclass(frozen=True, slots=True)
class Truths:
    """So many images, read or drawn as they are asked for, once; `left_out`: the spec's classes that they lack."""

    count: int
    images: Iterator[Truth]
    left_out: tuple[str, ...] = ()


def composed(spec: DatasetSpec, count: int, seed: int) -> Truths:
    """Square scenes of the spec's shorter side with its classes, one to three things each.

    Raises:
        SpecError: none of its classes can be composed.
    """
    from synthgen.mini import scenes

    ids = {word: c.id for c in spec.categories for word in (c.name, *c.synonyms) if word in scenes.CLASSES}
    if not ids:
        known = listed(scenes.CLASSES)
        message = f"none of them can be composed; takes --truth with a COCO file of your images, or classes of: {known}"
        raise SpecError([Problem("classes", message)])
    among = [scenes.CLASSES.index(name) for name in ids]

    def drawn() -> Iterator[Truth]:
        side, made, index = min(spec.height, spec.width), 0, 0
        while made < count:
            rng = np.random.default_rng([HELD_OUT, seed, index])
            scene = scenes.draw(rng, size=side, among=among, occlusion=False)
            index += 1
            if scene.things:
                made += 1
                kinds = np.array([ids[scenes.CLASSES[thing.category]] for thing in scene.things], np.int64)
                yield Truth(scene.image, scene.masks, kinds, scene.background)

    return Truths(count, drawn(), tuple(c.name for c in spec.categories if c.id not in ids.values()))


def from_coco(spec: DatasetSpec, annotations: Path, images: Path, count: int) -> Truths:
    """The first `count` images of a COCO file that have instances of the spec's classes. Crowds and other classes are
    left out; names are compared without regard to case, synonyms too.

    Raises:
        SpecError: the file cannot be read, has none of the classes, or an image is missing. What is wrong with one
            image is found when it is read.
    """
    import contextlib
    import io

    from pycocotools.coco import COCO

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(str(annotations))
        names = {c["id"]: str(c["name"]) for c in coco.dataset["categories"]}
        wanted = {_plain(word): c.id for c in spec.categories for word in (c.name, *c.synonyms)}
        known = {own: wanted[_plain(name)] for own, name in names.items() if _plain(name) in wanted}
        labelled: dict[Any, list[dict[str, Any]]] = {}
        for image_id in sorted(coco.imgs):
            for a in coco.imgToAnns[image_id]:
                if a["category_id"] in known and not a.get("iscrowd"):
                    labelled.setdefault(image_id, []).append(a)
        files = {image_id: images / coco.imgs[image_id]["file_name"] for image_id in list(labelled)[:count]}
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SpecError([Problem("--truth", f"cannot read {str(annotations)!r}: {error}")]) from error
    except RecursionError as error:
        raise SpecError([Problem("--truth", f"cannot read {str(annotations)!r}: nested too deeply")]) from error
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        message = f"{str(annotations)!r} is no COCO file with `images`, `annotations` and `categories`"
        raise SpecError([Problem("--truth", f"{message}: {_said(error)}")]) from error
    if not labelled:
        there = plain(listed(names.values()), 300) or "none"
        raise SpecError([Problem("--truth", f"has no instance of the spec's classes; its categories: {there}")])
    for file in files.values():
        _require_inside(file, images, annotations.name)

    def read() -> Iterator[Truth]:
        for image_id, file in files.items():
            entry, own = coco.imgs[image_id], labelled[image_id]
            said = entry.get("width"), entry.get("height")
            image = _read(file, said, annotations.name)
            try:
                for a in own:
                    _require_mask(a["segmentation"], *image.shape[:2])
                if len(own) * image.shape[0] * image.shape[1] > MAX_MASKS:
                    raise ValueError(f"{len(own):,} masks are too many for one image")
                masks = np.stack([coco.annToMask(a).astype(bool) for a in own])
            except (LookupError, TypeError, ValueError, ArithmeticError) as error:
                message = f"the segmentations of image {shown(image_id)} in {annotations.name} cannot be read"
                raise SpecError([Problem("--truth", f"{message}: {_said(error)}")]) from error
            kinds, visible = np.array([known[a["category_id"]] for a in own], np.int64), masks.any((1, 2))
            if visible.any():
                yield Truth(image, masks[visible], kinds[visible], _ground(coco.imgs[image_id].get("prompt")))

    seen = {known[a["category_id"]] for image_id in files for a in labelled[image_id]}
    return Truths(len(files), read(), tuple(c.name for c in spec.categories if c.id not in seen))


def _ground(said: Any) -> str:
    """What the things stand on, by the prompt that our own exports keep: "grass" of "a photo of a cat on grass"."""
    return said.rpartition(" on ")[2] if isinstance(said, str) and " on " in said else ""


def _require_inside(file: Path, images: Path, named_by: str) -> None:
    """Raises: SpecError: no file in this folder, whatever links lead there."""
    try:
        is_there = file.is_file()
        is_inside = file.resolve().is_relative_to(images.resolve())
    except (OSError, ValueError, RuntimeError):  # too long, links in a circle
        is_there = is_inside = False
    if is_there and not is_inside:
        message = f"{named_by} names {shown(str(file))}, which lies outside {str(images)!r}; takes files in it"
        raise SpecError([Problem("--images", message)])
    if not is_there:
        raise SpecError(
            [Problem("--images", f"there is no image {plain(repr(str(file)), 300)}, which {named_by} names")]
        )


def _require_mask(segmentation: Any, height: int, width: int) -> None:
    """pycocotools takes sizes, counts and corners at their word, and asks for the memory that they call for.

    Raises:
        ValueError, TypeError, KeyError: no polygons or RLE of an image of this size.
    """
    if isinstance(segmentation, list):
        for polygon in segmentation:
            if len(polygon) < 6 or len(polygon) % 2:
                raise ValueError(f"got a polygon of {len(polygon)} numbers; takes pairs, at least 3")
            for x, y in zip(polygon[::2], polygon[1::2], strict=True):
                # Annotation tools leave corners a little outside.
                if not (
                    math.isfinite(x) and math.isfinite(y) and -width <= x <= 2 * width and -height <= y <= 2 * height
                ):
                    raise ValueError(f"got the corner {shown((x, y))} of an image of {width}x{height} px")
        if not segmentation:
            raise ValueError("got no polygon")
        return
    if list(segmentation["size"]) != [height, width]:
        raise ValueError(f"got RLE of size {shown(segmentation['size'])}; takes {[height, width]}")
    counts = segmentation["counts"]
    runs = _runs(counts) if isinstance(counts, str) else counts
    if not all(type(run) is int and run >= 0 for run in runs) or sum(runs) != height * width:
        raise ValueError(f"got RLE {shown(counts)}; takes runs of 0 or more that sum to {height * width:,} px")


def _runs(counts: str) -> list[int]:
    """The runs of COCO's compressed RLE, as `rleFrString` in its maskApi.c reads them."""
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        part = ord(character) - 48
        if not 0 <= part < 64 or shift > 30:
            raise ValueError(f"got RLE {shown(counts)}, which is garbled")
        value |= (part & 31) << shift
        shift += 5
        if not part & 32:
            if part & 16:
                value -= 1 << shift
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    if shift:
        raise ValueError(f"got RLE {shown(counts)}, which is cut short")
    return runs


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {plain(str(error), 200)}"


def _read(file: Path, said: tuple[Any, Any], said_by: str) -> NDArray[np.uint8]:
    """uint8 (H, W, 3), RGB, as it lies in the file: COCO's truth is about that, not about what a camera's tag says.
    `said`: width and height by `said_by`; nothing is decoded of an image of another size."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
            opened = Image.open(file, formats=FORMATS)
        with opened:
            width, height = opened.size
            if said != (width, height):
                sizes = f"{width}x{height} px, and {plain(f'{said[0]}x{said[1]}')} px in {said_by}"
                raise SpecError([Problem("--images", f"{str(file)!r} has {sizes}")])
            if width * height > MAX_PIXELS:
                raise ValueError(f"it has {width}x{height} px, and at most {MAX_PIXELS:,} are taken")
            return np.array(opened.convert("RGB"))
    except SpecError:
        raise
    except Exception as error:  # whatever a decoder makes of a damaged file
        raise SpecError([Problem("--images", f"cannot read {str(file)!r}: {plain(str(error), 300)}")]) from error


def _plain(word: str) -> str:
    return " ".join(word.lower().split())
