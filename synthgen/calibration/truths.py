"""Images whose truth is known: composed scenes, or a COCO file of the user's."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from synthgen.base.pictures import MAX_PIXELS, SizeError, read_picture
from synthgen.base.wording import plain, shown
from synthgen.errors import Problem, SpecError, listed
from synthgen.masks import decode_rle, segmentation_rle
from synthgen.spec import DatasetSpec

MAX_MASK_PIXELS = 500_000_000  # The most pixels that all masks of an image may have together.
HELD_OUT = 2**41  # Starts the seeds of scenes that no training has seen: trainings use [seed, index].


@dataclass(frozen=True, slots=True)
class Truth:
    """An image with all of its visible objects of the spec's classes.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        masks: bool (N, H, W); none is empty.
        category_id: int64 (N,), the spec's category ids.
        ground: what the objects stand on, such as "grass"; "" if it is not known.
    """

    image: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    category_id: NDArray[np.int64]
    ground: str = ""


@dataclass(frozen=True, slots=True)
class Truths:
    """Images of known truth.

    Attributes:
        count: the number of images.
        images: the images, read or drawn one by one; they can be iterated once.
        left_out: the spec's classes that no image has.
        unusable: the reason for leaving out objects -> how many.
    """

    count: int
    images: Iterator[Truth]
    left_out: tuple[str, ...] = ()
    unusable: Mapping[str, int] = field(default_factory=dict)


def composed(spec: DatasetSpec, count: int, seed: int) -> Truths:
    """Composes square scenes with the spec's shorter side, each with one to three objects of the spec's classes.

    Raises:
        SpecError: none of the spec's classes can be composed.
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
    """The first `count` images of a COCO file that have objects of the spec's classes.

    Compares the names of categories with names and synonyms of classes, in any case. Leaves out crowds and other
    categories. Leaves out and counts objects whose entry gives no mask.

    Raises:
        SpecError: the file cannot be read, repeats an id or an image file, or has no usable object; or an image is
            missing. A damaged image raises when it is read.
    """
    try:
        coco = json.loads(annotations.read_bytes())
        entries, categories = _by_id(coco, "images", annotations), _by_id(coco, "categories", annotations)
        names = {category_id: str(c["name"]) for category_id, c in categories.items()}
        wanted = {_normalized(word): c.id for c in spec.categories for word in (c.name, *c.synonyms)}
        known = {i: wanted[_normalized(name)] for i, name in names.items() if _normalized(name) in wanted}
        labelled: dict[Any, list[dict[str, Any]]] = {}
        for a in _by_id(coco, "annotations", annotations).values():
            if (a["category_id"] in known or a["category_id"] not in names) and not a.get("iscrowd"):
                labelled.setdefault(a["image_id"], []).append(a)
        chosen: dict[Any, _Labelled] = {}
        unusable: Counter[str] = Counter()
        for image_id in sorted(entries):
            if image_id in labelled and len(chosen) < count:
                entry = _labelled(entries[image_id], labelled[image_id], known, images, annotations.name, unusable)
                if entry.rles:
                    chosen[image_id] = entry
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SpecError([Problem("--truth", f"cannot read {str(annotations)!r}: {error}")]) from error
    except RecursionError as error:
        raise SpecError([Problem("--truth", f"cannot read {str(annotations)!r}: nested too deeply")]) from error
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        message = f"{str(annotations)!r} is no COCO file with `images`, `annotations` and `categories`"
        raise SpecError([Problem("--truth", f"{message}: {type(error).__name__}: {plain(str(error), 200)}")]) from error
    if not chosen and unusable:
        message = f"{annotations.name} has nothing to calibrate on; {objects_left_out(unusable)}"
        raise SpecError([Problem("--truth", message)])
    if not chosen:
        there = plain(listed(names.values()), 300) or "none"
        raise SpecError([Problem("--truth", f"has no instance of the spec's classes; its categories: {there}")])
    _require_different((entry.file for entry in chosen.values()), annotations.name)
    for entry in chosen.values():
        _require_inside(entry.file, images, annotations.name)

    def read() -> Iterator[Truth]:
        for entry in chosen.values():
            image = _read(entry, annotations.name)
            masks = decode_rle(entry.rles, entry.height, entry.width)
            yield Truth(image, masks, np.array(entry.category_id, np.int64), entry.ground)

    seen = {category for entry in chosen.values() for category in entry.category_id}
    left_out = tuple(c.name for c in spec.categories if c.id not in seen)
    return Truths(len(chosen), read(), left_out, unusable)


def objects_left_out(unusable: Mapping[str, int]) -> str:
    """`Truths.unusable` as one line."""
    reasons = ", ".join(f"{number:,} with {reason}" for reason, number in unusable.items())
    return f"objects left out: {sum(unusable.values()):,}, of them {reasons}"


@dataclass(frozen=True, slots=True)
class _Labelled:
    """An image of a COCO file with the RLEs and the spec's category ids of its usable objects."""

    file: Path
    height: int
    width: int
    rles: list[dict[str, Any]]
    category_id: list[int]
    ground: str


class _UnusableError(Exception):
    """The reason for leaving out an object, in the form "1 with <reason>"."""


def _by_id(coco: Any, key: str, file: Path) -> dict[Any, dict[str, Any]]:
    """The entries of a list in the file, by id.

    Raises:
        SpecError: an id is there twice, so that labels could get the wrong image or class.
    """
    entries: dict[Any, dict[str, Any]] = {}
    for entry in coco[key]:
        if entry["id"] in entries:
            message = f"{str(file)!r} has two `{key}` with the id {shown(entry['id'])}; takes each id once"
            raise SpecError([Problem("--truth", message)])
        entries[entry["id"]] = entry
    return entries


def _labelled(
    entry: Mapping[str, Any],
    objects: Iterable[Mapping[str, Any]],
    known: Mapping[Any, int],
    images: Path,
    named_by: str,
    unusable: Counter[str],
) -> _Labelled:
    """One image with its usable objects. Counts the others in `unusable`.

    Raises:
        SpecError: the image has no size, or the image or its masks have too many pixels.
    """
    width, height = (_side(entry.get(key)) for key in ("width", "height"))
    if not width or not height or width * height > MAX_PIXELS:
        got = plain(f"{shown(entry.get('width'))}x{shown(entry.get('height'))}", 100)
        message = f"image {shown(entry['id'])} in {named_by} has {got} px; takes sizes of at most {MAX_PIXELS:,} px"
        raise SpecError([Problem("--truth", message)])
    labelled = _Labelled(images / entry["file_name"], height, width, [], [], ground_of(entry.get("prompt")))
    for a in objects:
        try:
            if a["category_id"] not in known:
                raise _UnusableError("a category that the file does not have")
            labelled.rles.append(_rle(a.get("segmentation"), height, width))
            labelled.category_id.append(known[a["category_id"]])
        except _UnusableError as error:
            unusable[str(error)] += 1
    if len(labelled.rles) * height * width > MAX_MASK_PIXELS:
        message = (
            f"image {shown(entry['id'])} in {named_by} has {len(labelled.rles):,} masks, which are too many for one"
        )
        raise SpecError([Problem("--truth", message)])
    return labelled


def _side(value: Any) -> int:
    """A side of an image, px; 0 if the value is no side. Some tools write whole numbers as floats."""
    return int(value) if type(value) in {int, float} and 1 <= value <= MAX_PIXELS and value == int(value) else 0


def ground_of(prompt: Any) -> str:
    """What the objects stand on, read from the prompt in an export: "a photo of a cat on grass" -> "grass"."""
    return prompt.rpartition(" on ")[2] if isinstance(prompt, str) and " on " in prompt else ""


def _require_inside(file: Path, images: Path, named_by: str) -> None:
    """Raises SpecError if there is no such file, or if it lies outside the folder after links are followed."""
    try:
        is_there = file.is_file()
        is_inside = file.resolve().is_relative_to(images.resolve())
    except (OSError, ValueError, RuntimeError):  # The path is too long, or its links form a circle.
        is_there = is_inside = False
    if is_there and not is_inside:
        message = f"{named_by} names {shown(str(file))}, which lies outside {str(images)!r}; takes files in it"
        raise SpecError([Problem("--images", message)])
    if not is_there:
        raise SpecError(
            [Problem("--images", f"there is no image {plain(repr(str(file)), 300)}, which {named_by} names")]
        )


def _require_different(files: Iterable[Path], named_by: str) -> None:
    """Raises SpecError if two images are one file, since each would lack the other's labels."""
    for file, times in Counter(files).items():
        if times > 1:
            message = f"{named_by} has {times} `images` with the file {shown(str(file))}; takes each file once"
            raise SpecError([Problem("--truth", message)])


def _rle(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """COCO's compressed RLE of an object's segmentation; it has at least one pixel.

    Raises:
        _UnusableError: the segmentation is neither polygons nor RLE of an image of this size, px.
    """
    try:
        rle = segmentation_rle(segmentation, height, width)
    except ValueError as error:
        raise _UnusableError(str(error)) from error
    if not coco_mask.area(rle):
        raise _UnusableError("no pixel")
    return rle


def _read(entry: _Labelled, named_by: str) -> NDArray[np.uint8]:
    """uint8 (H, W, 3), RGB.

    Raises:
        SpecError: the file cannot be read, or has another size than in `named_by`.
    """
    try:
        return read_picture(entry.file, entry.width, entry.height)
    except SizeError as error:
        message = f"{str(entry.file)!r} {error}, and {entry.width}x{entry.height} px in {named_by}"
        raise SpecError([Problem("--images", message)]) from error
    except Exception as error:  # A decoder may raise anything on a damaged file.
        message = f"cannot read {str(entry.file)!r}: {plain(str(error), 300)}"
        raise SpecError([Problem("--images", message)]) from error


def _normalized(word: str) -> str:
    return " ".join(word.lower().split())
