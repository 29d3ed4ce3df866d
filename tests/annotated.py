"""A run whose labels annotators correct, and its export as they would give it back."""

from typing import Any

import numpy as np
from conftest import QUICK

from synthgen.masks import encode_rle
from synthgen.pipeline.build import Build
from synthgen.pipeline.export import accepted_images
from synthgen.review.annotated import AnnotatedImage, AnnotatedObject

# Twelve images of two labels each; all of them pass.
TWO_EACH = {
    **QUICK,
    "name": "many",
    "count": 6,
    "objects_per_image": {2: 1},
    "generator": {"num_inference_steps": 1},
    "filters": {"predicted_iou": {"min": 0.0}, "sharpness": {"min": None}},
}


def square(x: int, y: int, side: int, height: int = 128, width: int = 128) -> dict[str, Any]:
    """The RLE of a square, px."""
    mask = np.zeros((1, height, width), bool)
    mask[0, y : y + side, x : x + side] = True
    return encode_rle(mask)[0]


def exported_images(build: Build) -> dict[int, AnnotatedImage]:
    """The accepted images as a tool gives them back that keeps all, without a change."""
    names = {category.id: category.name for category in build.spec.categories}
    return {
        record.job.id: AnnotatedImage(
            record.job.id,
            tuple(
                AnnotatedObject(a.instance, names[a.category_id], a.rle, None, a.ignore, f"object {a.id}")
                for a in record.annotations
            ),
            where=f"image {record.job.id}",
        )
        for record in accepted_images(build)
    }


def exported_labels(build: Build) -> set[tuple[int, str, str]]:
    """Image id, class and RLE counts of every label that exports get."""
    return {
        (image.image_id, one.category, one.rle["counts"])
        for image in exported_images(build).values()
        for one in image.objects
        if one.rle
    }
