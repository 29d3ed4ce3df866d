"""Boxes: inside the image, apart, and of the sizes that were asked for."""

from itertools import combinations
from typing import Any

import pytest
from planned import jobs_of, spec_of

from synthgen.errors import SpecError
from synthgen.planning.jobs import plan_round
from synthgen.planning.layouts import ASPECT_RATIO, MIN_SIDE_PX, place_boxes
from synthgen.planning.rounds import first_round
from synthgen.spec import LayoutSpec


@pytest.mark.parametrize(
    ("layout", "objects", "size"),
    [
        ({"size": [0.3, 0.5], "margin": 0.02}, 2, (128, 128)),
        ({"size": [0.1, 0.9], "margin": 0.0, "max_overlap": 0.3}, 4, (128, 128)),
        ({"size": [0.2, 0.3], "margin": 0.1}, 4, (96, 256)),
        ({"size": [0.25, 0.25], "margin": 0.05, "max_overlap": 1.0}, 12, (256, 96)),
    ],
)
def test_layouts(layout: dict[str, Any], objects: int, size: tuple[int, int]) -> None:
    height, width = size
    given = LayoutSpec.model_validate(layout)
    ratios = [(0.5, 0.5), (1.0, 1.5), (2.0, 3.0), ASPECT_RATIO] * 3
    least, most = (share * min(size) for share in given.size)
    seen = set()
    for key in range(150):
        boxes = place_boxes(given, ratios[:objects], height, width, key)
        seen.add(boxes)
        assert len(boxes) == objects
        for (x0, y0, x1, y1), (low, high) in zip(boxes, ratios, strict=False):
            assert given.margin * width <= x0 < x1 <= width - given.margin * width
            assert given.margin * height <= y0 < y1 <= height - given.margin * height
            w, h = x1 - x0, y1 - y0
            assert least - 0.5 <= max(w, h) <= most + 0.5
            assert min(w, h) >= MIN_SIDE_PX
            if min(w, h) > MIN_SIDE_PX:  # rounded to px, each side by half at most
                assert (w - 0.5) / (h + 0.5) <= high and (w + 0.5) / (h - 0.5) >= low
        for a, b in combinations(boxes, 2):
            shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
            smaller = min((q[2] - q[0]) * (q[3] - q[1]) for q in (a, b))
            assert shared / smaller <= given.max_overlap
    assert len(seen) == 150


def test_layouts_use_the_whole_image() -> None:
    boxes = [place_boxes(LayoutSpec(size=(0.3, 0.3)), [(1, 1)], 128, 128, key)[0] for key in range(400)]
    assert {min(b[0] for b in boxes), min(b[1] for b in boxes)} == {3}  # ceil(0.02 * 128)
    assert {max(b[2] for b in boxes), max(b[3] for b in boxes)} == {125}


def test_a_class_has_its_own_aspect_ratio(good: dict[str, Any]) -> None:
    classes = [{"name": "apple", "aspect_ratio": [2, 2]}, "tree"]
    spec = spec_of(good, count=20, classes=classes, objects_per_image=1)
    for job in plan_round(spec, 1, first_round(spec), {"apple": (1, 1), "tree": (0.5, 0.5)}):
        assert job.layout is not None
        x0, y0, x1, y1 = job.layout[0]
        ratio = {1: 2, 2: 0.5}[job.asked[0]]  # the spec's before the model's
        assert (x1 - x0) / (y1 - y0) == pytest.approx(ratio, rel=0.05)


@pytest.mark.parametrize(
    ("layout", "objects"),
    [({"size": [0.5, 0.6]}, 9), ({"size": [0.9, 0.9], "margin": 0.1}, 1), ({"size": [0.1, 0.2]}, 64)],
)
def test_a_crowded_layout_is_refused(layout: dict[str, Any], objects: int, good: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=rf"^layout: {objects} objects? .* do(es)? not fit into 128x128 px"):
        jobs_of(spec_of(good, layout=layout, objects_per_image=objects, count=1))


def test_images_without_objects(good: dict[str, Any]) -> None:
    jobs = jobs_of(spec_of(good, objects_per_image=0, count=6))
    assert {(j.asked, j.layout) for j in jobs} == {((), ())}
    assert {j.prompt for j in jobs} == {"a photo of grass", "a photo of sand", "a photo of snow"}


def test_without_a_layout_there_are_no_boxes(good: dict[str, Any]) -> None:
    assert {j.layout for j in jobs_of(spec_of(good, layout=None, grounder="detector"))} == {None}
