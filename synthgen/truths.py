"""Images whose truth is known: composed scenes, or a COCO file of the user's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from synthgen.errors import Problem, SpecError, listed
from synthgen.spec import DatasetSpec

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
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        message = f"{str(annotations)!r} is no COCO file with `images`, `annotations` and `categories`"
        raise SpecError([Problem("--truth", f"{message}: {type(error).__name__}: {error}")]) from error
    if not labelled:
        there = listed(names.values()) or "none"
        raise SpecError([Problem("--truth", f"has no instance of the spec's classes; its categories: {there}")])
    for file in files.values():
        if not file.is_file():
            raise SpecError([Problem("--images", f"there is no image {str(file)!r}, which {annotations.name} names")])

    def read() -> Iterator[Truth]:
        for image_id, file in files.items():
            image, own = _read(file), labelled[image_id]
            try:
                masks = np.stack([coco.annToMask(a).astype(bool) for a in own])
            except (KeyError, TypeError, ValueError, IndexError) as error:
                message = f"the segmentations of image {image_id!r} in {annotations.name} cannot be read"
                raise SpecError([Problem("--truth", f"{message}: {type(error).__name__}: {error}")]) from error
            if masks.shape[1:] != image.shape[:2]:
                height, width = image.shape[:2]
                said = f"{masks.shape[2]}x{masks.shape[1]} px in {annotations.name}"
                raise SpecError([Problem("--images", f"{str(file)!r} has {width}x{height} px, and {said}")])
            kinds, visible = np.array([known[a["category_id"]] for a in own], np.int64), masks.any((1, 2))
            if visible.any():
                yield Truth(image, masks[visible], kinds[visible], _ground(coco.imgs[image_id].get("prompt")))

    seen = {known[a["category_id"]] for image_id in files for a in labelled[image_id]}
    return Truths(len(files), read(), tuple(c.name for c in spec.categories if c.id not in seen))


def _ground(said: Any) -> str:
    """What the things stand on, by the prompt that our own exports keep: "grass" of "a photo of a cat on grass"."""
    return said.rpartition(" on ")[2] if isinstance(said, str) and " on " in said else ""


def _read(file: Path) -> NDArray[np.uint8]:
    """uint8 (H, W, 3), RGB, as it lies in the file: COCO's truth is about that, not about what a camera's tag says."""
    try:
        with Image.open(file) as opened:
            return np.array(opened.convert("RGB"))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise SpecError([Problem("--images", f"cannot read {str(file)!r}: {error}")]) from error


def _plain(word: str) -> str:
    return " ".join(word.lower().split())
