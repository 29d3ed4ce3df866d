"""What holds for any spec, mask, table or file, tried on many of them."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from itertools import combinations, pairwise
from math import sqrt
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import cv2
import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.extra.numpy import arrays
from judged import of_images, table
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from synthgen.base.files import atomic
from synthgen.base.sealed import SEAL, read_sealed, write_sealed
from synthgen.calibration.truths import Truth, from_coco
from synthgen.errors import SpecError, SynthgenError
from synthgen.judging.counting import quality_of
from synthgen.judging.figures import funnel
from synthgen.judging.precision import sample_size, wilson
from synthgen.judging.reviews import VERDICTS, Review
from synthgen.judging.verdicts import Verdicts
from synthgen.masks import (
    box_iou,
    decode_rle,
    encode_rle,
    mask_areas,
    mask_boxes,
    mask_iou,
    mask_path,
    mask_polygons,
    paired_mask_iou,
    polygon_iou,
)
from synthgen.planning.jobs import plan_round, split_of
from synthgen.planning.rounds import IMAGES_PER_RUN, Round, first_round, next_round
from synthgen.spec import DatasetSpec
from synthgen.store.run import Run
from synthgen.store.tables import JOB_SCHEMA
from synthgen.types import Job

ULP = 1e-12  # what rounding may do

# hypothesis keeps what it has read of the sources, from collection on; not in the tree.
set_hypothesis_home_dir(Path(gettempdir()) / "synthgen-hypothesis")


def examples(number: int) -> settings:
    return settings(
        deadline=None,
        max_examples=number,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )


# The plan

weights = st.one_of(st.just(1.0), st.floats(0.01, 10.0))
TEMPLATES = ["a photo of {objects}", "{objects} on {ground}", "{objects} on {ground} at {time}"]
BACKGROUNDS = ["nothing at all", "a photo of {ground}"]


@st.composite
def raw_specs(draw: st.DrawFn) -> dict[str, Any]:
    """Specs whose layouts surely fit: at most four objects of at most a quarter of the shorter side."""
    low = draw(st.floats(0.1, 0.2))

    def some(texts: list[str]) -> list[dict[str, Any]]:
        chosen = draw(st.lists(st.sampled_from(texts), min_size=1, unique=True))
        return [{"text": text, "weight": draw(weights)} for text in chosen]

    return {
        "name": "any",
        "seed": draw(st.integers(0, 2**63 - 1)),
        "count": draw(st.integers(1, 60)),
        "height": draw(st.sampled_from([64, 96, 128])),
        "width": draw(st.sampled_from([64, 104, 128])),
        "classes": [f"thing {i}" for i in range(draw(st.integers(1, 6)))],
        "objects_per_image": draw(st.dictionaries(st.integers(0, 4), weights, min_size=1)),
        "prompts": {
            "templates": some(TEMPLATES),
            "background_templates": some(BACKGROUNDS),
            "slots": {
                "ground": draw(st.dictionaries(st.text(min_size=1, max_size=5), weights, min_size=1, max_size=5)),
                "time": ["day", "night", "dawn"],
            },
        },
        "layout": draw(
            st.none()
            | st.fixed_dictionaries(
                {
                    "size": st.just([low, low + 0.05]),
                    "max_overlap": st.sampled_from([0.0, 0.1, 0.5, 1.0]),
                    "margin": st.floats(0, 0.1),
                }
            )
        ),
        "filters": {},
    }


specs = raw_specs().map(DatasetSpec.parse)
runs = st.integers(1, 200)


def jobs_of(spec: DatasetSpec, run: int = 1, round: Round | None = None) -> list[Job]:
    return list(plan_round(spec, run, round or first_round(spec)))


def agrees_with_weights(dealt: Sequence[Any], asked: Mapping[Any, float]) -> None:
    """The bounds that the plan's docstring states, after any number of deals."""
    counts: Counter[Any] = Counter()
    total = sum(asked.values())
    equal = len(set(asked.values())) == 1
    for n, key in enumerate(dealt, 1):
        counts[key] += 1
        assert counts.keys() <= asked.keys()
        if equal:
            assert max(counts.values()) - min(counts[k] for k in asked) <= 1
        for k, weight in asked.items():
            share = weight / total
            assert abs(counts[k] - n * share) <= max(0.0, 1 + share * (len(asked) - 2)) + 1e-9


@examples(40)
@given(raw_specs(), runs)
def test_plan_is_pure(raw: dict[str, Any], run: int) -> None:
    """The same spec, run and round give the same jobs, whether or not another plan is made in between."""
    spec = DatasetSpec.parse(raw)
    first = plan_round(spec, run, first_round(spec))
    second = plan_round(DatasetSpec.parse(DatasetSpec.parse(raw).dump()), run, first_round(spec))
    together = list(zip(first, second, strict=True))
    assert all(a == b for a, b in together)
    assert [a for a, _ in together] == jobs_of(spec, run)


def test_plan_does_not_hang_on_hash_seed() -> None:
    """Another process with another PYTHONHASHSEED plans the same, several specs at once."""
    grounds = {f"ground {i}": 1.0 + i for i in range(9)}
    raws = [
        {
            "name": "any",
            "seed": seed,
            "count": 40,
            "height": 128,
            "width": 128,
            "classes": [f"thing {i}" for i in range(7)],
            "objects_per_image": {0: 0.3, 1: 1.0, 3: 2.0},
            "prompts": {
                "templates": TEMPLATES,
                "background_templates": BACKGROUNDS,
                "slots": {"ground": grounds, "time": ["day", "night", "dawn"]},
            },
            "layout": {"size": [0.1, 0.2]},
            "filters": {},
        }
        for seed in range(4)
    ]
    code = (
        "import sys, json; from synthgen.planning.jobs import plan_round\n"
        "from synthgen.planning.rounds import first_round\n"
        "from synthgen.spec import DatasetSpec\n"
        "for raw in json.load(sys.stdin):\n"
        "    spec = DatasetSpec.parse(raw)\n"
        "    print(list(plan_round(spec, 3, first_round(spec))))"
    )
    own = os.environ.get("PYTHONHASHSEED")
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(raws),
        env={**os.environ, "PYTHONHASHSEED": "7" if own != "7" else "8"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [str(jobs_of(DatasetSpec.parse(raw), 3)) for raw in raws]


@examples(40)
@given(specs, runs)
def test_plan_is_balanced(spec: DatasetSpec, run: int) -> None:
    """Classes, numbers of objects and slot values keep their shares at every point of the plan."""
    jobs = jobs_of(spec, run)
    agrees_with_weights([c for job in jobs for c in job.asked], {c.id: 1.0 for c in spec.categories})
    agrees_with_weights([len(job.asked) for job in jobs], spec.objects_per_image)
    for name, values in spec.prompts.slots.items():
        agrees_with_weights([job.slots[name] for job in jobs if name in job.slots], values)


@examples(40)
@given(specs, runs, st.integers(1, 30))
def test_plan_has_ids_and_seeds_of_its_own(spec: DatasetSpec, run: int, more: int) -> None:
    """No two images of a run, or of two runs, share an id or a seed; an id says which image of which run it is."""
    first = first_round(spec)
    later = Round(2, spec.count, more, first.classes, first.objects)
    jobs = jobs_of(spec, run) + jobs_of(spec, run, later) + jobs_of(spec, run + 1)
    assert len({job.id for job in jobs}) == len({job.seed for job in jobs}) == len(jobs)
    assert all(divmod(job.id - 1, IMAGES_PER_RUN) == (job.run - 1, job.index) for job in jobs)


@examples(40)
@given(specs, runs)
def test_layouts_keep_their_promises(spec: DatasetSpec, run: int) -> None:
    """A box an object, inside the image and its margin, none covering more of another than `max_overlap`."""
    for job in jobs_of(spec, run):
        if spec.layout is None:
            assert job.layout is None
            continue
        assert job.layout is not None and len(job.layout) == len(job.asked)
        dx, dy = spec.layout.margin * spec.width, spec.layout.margin * spec.height
        for x0, y0, x1, y1 in job.layout:
            assert dx <= x0 < x1 <= spec.width - dx and dy <= y0 < y1 <= spec.height - dy
        for a, b in combinations(job.layout, 2):
            wide, high = (max(0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
            smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
            assert wide * high <= spec.layout.max_overlap * smaller + 1e-9


@examples(40)
@given(raw_specs(), runs, st.integers(1, 40))
def test_plan_is_stable_under_growth(raw: dict[str, Any], run: int, more: int) -> None:
    """A larger count begins with the smaller one's jobs, in any round, and no later round changes an earlier one."""
    spec = DatasetSpec.parse(raw)
    jobs = jobs_of(spec, run)
    assert jobs_of(DatasetSpec.parse({**raw, "count": spec.count + more}), run)[: spec.count] == jobs
    first = first_round(spec)
    skewed = {c: 1.0 + c for c in first.classes}
    short, long = (
        jobs_of(spec, run, Round(2, spec.count, n, skewed, first.objects)) for n in (spec.count, spec.count + more)
    )
    assert long[: spec.count] == short
    assert jobs_of(spec, run) == jobs


@st.composite
def shortfalls(draw: st.DrawFn) -> tuple[DatasetSpec, dict[str, Any]]:
    """A spec and what judging may have left of its images, with quotas or without."""
    raw = {
        **draw(raw_specs()),
        "budget": draw(st.floats(1, 10)),
        "min_instances_per_class": draw(st.sampled_from([0, 0, 1, 20, 1000])),
    }
    spec = DatasetSpec.parse(raw)
    assume(spec.max_objects or not spec.quotas)  # `check` refuses quotas where no image has an object
    made = draw(st.integers(0, spec.max_images + 2))
    accepted = draw(st.integers(0, made))
    asked = {c.id: draw(st.integers(0, 3 * made)) for c in spec.categories}
    objects: Counter[int] = Counter()
    left = accepted
    for k in spec.objects_per_image:
        objects[k] = draw(st.integers(0, left))
        left -= objects[k]
    classes = {c: draw(st.integers(0, n)) for c, n in asked.items()}
    return spec, {"made": made, "accepted": accepted, "asked": asked, "classes": classes, "objects": objects}


@examples(150)
@given(shortfalls())
def test_next_round_stays_within_the_budget(found: tuple[DatasetSpec, dict[str, Any]]) -> None:
    """A round is asked for if and only if something is missing and there is room; it fits into what is left, and it
    can be planned."""
    spec, counts = found
    round = next_round(spec, 2, **counts)
    short = any(counts["classes"][c] < n for c, n in spec.quotas.items())
    wanted = counts["accepted"] < spec.count or short
    assert (round is not None) == (wanted and counts["made"] < spec.max_images)
    if round:
        assert (round.number, round.start) == (2, counts["made"])
        assert 1 <= round.count <= spec.max_images - counts["made"]
        assert round.objects.keys() <= spec.objects_per_image.keys()
        jobs = jobs_of(spec, 1, Round(2, round.start, min(round.count, 5), round.classes, round.objects))
        assert len(jobs) == min(round.count, 5)


# Splits


@st.composite
def shares(draw: st.DrawFn, names: Sequence[str] = ("train", "val", "test", "more")) -> dict[str, float]:
    parts = draw(st.lists(st.integers(1, 100), min_size=1, max_size=len(names)))
    return {name: part / sum(parts) for name, part in zip(names, parts, strict=False)}


families = st.integers(0, 2**64 - 1).map(lambda n: f"{n:016x}")


def place_of(family: str) -> tuple[float, float]:
    """Where in [0, 1) a family lies, as an interval, by asking for it."""
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if split_of(family, {"below": middle, "above": 1 - middle}) == "below" else (
            middle,
            high,
        )  # fmt: skip
    return low, high


def intervals(splits: Mapping[str, float]) -> Iterator[tuple[str, float, float]]:
    edge = 0.0
    for name, share in splits.items():
        yield name, edge, edge + share
        edge += share


@examples(40)
@given(shares(), shares(), st.lists(families, min_size=1, max_size=10))
def test_a_family_leaves_no_split_whose_interval_holds_it(
    before: dict[str, float], after: dict[str, float], some: list[str]
) -> None:
    """Whatever the shares, a family is in the split whose interval holds the one place that it has."""
    for family in some:
        low, high = place_of(family)
        for splits in (before, after):
            for name, start, end in intervals(splits):
                if start + 1e-6 < low and high < end - 1e-6:
                    assert split_of(family, splits) == name


@examples(40)
@given(shares(), st.data())
def test_growing_one_share_moves_families_into_it_alone(splits: dict[str, float], data: st.DataObject) -> None:
    """What a split takes from the one after it comes from there; nothing else moves."""
    assume(len(splits) > 1)
    names = list(splits)
    i = data.draw(st.integers(0, len(names) - 2))
    taken = splits[names[i + 1]] * data.draw(st.floats(0, 0.99))
    grown = {**splits, names[i]: splits[names[i]] + taken, names[i + 1]: splits[names[i + 1]] - taken}
    for n in range(200):
        was, now = split_of(f"family {n}", splits), split_of(f"family {n}", grown)
        assert was == now or (was, now) == (names[i + 1], names[i])


@examples(20)
@given(specs, specs, shares())
def test_split_hangs_on_the_family_alone(a: DatasetSpec, b: DatasetSpec, splits: dict[str, float]) -> None:
    """Of any two jobs of any two specs: of one family, of one split."""
    found: dict[str, str] = {}
    for spec in (a, b):
        for run in (1, 2):
            for job in jobs_of(spec.model_copy(update={"splits": splits}), run):
                assert job.split == found.setdefault(job.family, job.split) == split_of(job.family, splits)


@examples(20)
@given(shares(), st.text(max_size=4))
def test_shares_are_met(splits: dict[str, float], salt: str) -> None:
    """Within five standard deviations of the binomial distribution."""
    n = 1000
    counts = Counter(split_of(f"{salt}{i}", splits) for i in range(n))
    assert counts.keys() <= splits.keys()
    for name, share in splits.items():
        assert abs(counts[name] - n * share) <= 5 * sqrt(n * share * (1 - share)) + 1


# Masks

sides = st.integers(1, 24)


def stacks(most: int = 4) -> st.SearchStrategy[NDArray[np.bool_]]:
    return st.tuples(st.integers(0, most), sides, sides).flatmap(lambda shape: arrays(bool, shape))


@st.composite
def single(draw: st.DrawFn) -> NDArray[np.bool_]:
    """A mask of pixels that hypothesis chooses, or of noise, or of blobs."""
    kind = draw(st.sampled_from(["pixels", "noise", "blobs"]))
    if kind == "blobs":
        return draw(blobs())
    shape = draw(st.tuples(sides, sides))
    if kind == "pixels":
        return draw(arrays(bool, shape))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return rng.random(shape) < draw(st.floats(0, 1))


@st.composite
def blobs(draw: st.DrawFn, least: int = 8) -> NDArray[np.bool_]:
    """Ellipses and their holes, some of them over the image's edge."""
    mask = np.zeros((72, 88), np.uint8)
    whole, hole = st.integers(least, 30), st.integers(1, 6)
    centre = st.tuples(st.integers(0, 87), st.integers(0, 71))
    for _ in range(draw(st.integers(1, 3))):
        axes = draw(whole), draw(whole)
        cv2.ellipse(mask, draw(centre), axes, draw(st.integers(0, 179)), 0, 360, 1, -1)
    for _ in range(draw(st.integers(0, 2))):
        cv2.ellipse(mask, draw(centre), (draw(hole), draw(hole)), 0, 0, 360, 0, -1)
    return mask.astype(bool)


def rings(path: str) -> list[NDArray[np.float64]]:
    """The corners of each part of an SVG path of lines."""
    assert re.fullmatch(r"(M[\d. L]+Z)*", path)
    return [
        np.array([[float(v) for v in corner.split()] for corner in part[1:].split("L")])
        for part in path.split("Z")
        if part
    ]


def coverage(path: str, height: int, width: int) -> NDArray[np.float64]:
    """The share of each pixel that the path's even-odd fill covers, from 4 x 4 points in each."""
    xs, ys = (np.arange(4 * n) / 4 + 0.125 for n in (width, height))
    inside = np.zeros((4 * height, 4 * width), bool)
    for ring in rings(path):
        for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, 0), strict=True):
            crossed = (y0 <= ys) != (y1 <= ys)
            if crossed.any():
                at = x0 + (ys[crossed] - y0) * (x1 - x0) / (y1 - y0)
                inside[crossed] ^= xs[None] < at[:, None]
    return inside.reshape(height, 4, width, 4).mean((1, 3))


def path_iou(mask: NDArray[np.bool_], tolerance_px: float) -> float:
    filled = coverage(mask_path(mask, tolerance_px), *mask.shape)
    return float(np.minimum(filled, mask).sum() / np.maximum(filled, mask).sum())


@examples(100)
@given(stacks())
def test_rle_round_trip(masks: NDArray[np.bool_]) -> None:
    """Masks survive, and what pycocotools says of the RLEs is what is said of the masks."""
    rles = encode_rle(masks)
    back = decode_rle(json.loads(json.dumps(rles)), *masks.shape[1:])
    assert back.dtype == bool and back.shape == masks.shape and (back == masks).all()
    if rles:
        assert coco_mask.area(rles).tolist() == mask_areas(masks).tolist()
        boxes = mask_boxes(masks)
        boxes[:, 2:] -= boxes[:, :2]
        assert coco_mask.toBbox(rles).tolist() == boxes.tolist()


@examples(150)
@given(single())
def test_polygons_keep_every_pixel(mask: NDArray[np.bool_]) -> None:
    """They rasterise to the same mask, lie in the image, and their areas sum to its pixels; none for an empty mask."""
    polygons = mask_polygons(mask)
    assert bool(polygons) == bool(mask.any()) == (polygon_iou(polygons, mask) == 1)
    area = 0.0
    for polygon in polygons:
        x, y = np.array(polygon).reshape(-1, 2).T
        assert len(x) >= 4 and min(x.min(), y.min()) >= 0 and x.max() <= mask.shape[1] and y.max() <= mask.shape[0]
        area += abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
    assert area == mask.sum()


@examples(60)
@given(blobs())
def test_path_follows_blobs(mask: NDArray[np.bool_]) -> None:
    """The even-odd fill of the path is close to the mask."""
    assume(mask.sum() > 100)
    assert mask_path(mask, 0.4)
    assert path_iou(mask, 0.4) > 0.99


@examples(40)
@given(sides, sides, st.floats(0, 100))
def test_path_of_nothing_is_empty(height: int, width: int, tolerance_px: float) -> None:
    """Whatever the tolerance."""
    assert mask_path(np.zeros((height, width), bool), tolerance_px) == ""


@examples(100)
@given(single())
def test_path_of_something_is_not_empty(mask: NDArray[np.bool_]) -> None:
    """At the least tolerance that pages use."""
    assert bool(mask_path(mask, 0.4)) == bool(mask.any())


@examples(30)
@given(*[st.integers(0, 9)] * 2, *[st.integers(3, 20)] * 2)
def test_path_of_a_rectangle_is_its_edges(x: int, y: int, width: int, height: int) -> None:
    """A shape that has nothing to simplify: its edges lie within the tolerance."""
    mask = np.zeros((32, 32), bool)
    mask[y : y + height, x : x + width] = True
    corners = np.concatenate(rings(mask_path(mask, 0.4)))
    off = np.abs([corners.min(0) - (x, y), corners.max(0) - (x + width, y + height)])
    assert off.max() <= 0.4


@examples(80)
@given(st.tuples(sides, sides).flatmap(lambda s: st.tuples(*(arrays(bool, (n, *s)) for n in (2, 3)))))
def test_mask_iou_is_symmetric(pair: tuple[NDArray[np.bool_], NDArray[np.bool_]]) -> None:
    """In [0, 1]; 1 of a mask with itself, 0 for an empty one; each pair as by the paired form."""
    a, b = pair
    iou = mask_iou(a, b)
    assert iou.shape == (2, 3) and (iou >= 0).all() and (iou <= 1).all()
    assert (iou == mask_iou(b, a).T).all()
    assert mask_iou(a, a).diagonal().tolist() == a.any((1, 2)).astype(float).tolist()
    assert iou.diagonal() == pytest.approx(paired_mask_iou(a, b[:2]), abs=1e-6)


boxes = st.lists(st.tuples(*[st.floats(-50, 50, width=32) for _ in range(4)]), max_size=4).map(
    lambda rows: np.array(rows, np.float32).reshape(-1, 4)
)


@examples(150)
@given(boxes, boxes)
def test_box_iou_is_symmetric(a: NDArray[np.float32], b: NDArray[np.float32]) -> None:
    """In [0, 1], of boxes with their corners in any order too; 1 of a box of some size with itself."""
    iou = box_iou(a, b)
    assert iou.shape == (len(a), len(b)) and (iou >= 0).all() and (iou <= 1).all()
    assert (iou == box_iou(b, a).T).all()
    some = a[((a[:, 2:] - a[:, :2]) > 0.01).all(1)]
    assert box_iou(some, some).diagonal() == pytest.approx(np.ones(len(some)))


@examples(60)
@given(stacks(3))
def test_iou_of_boxes_of_masks(masks: NDArray[np.bool_]) -> None:
    """A mask of its whole box has the box's IoU."""
    full = np.zeros_like(masks)
    found = mask_boxes(masks)
    for mask, (x0, y0, x1, y1) in zip(full, found.astype(int), strict=True):
        mask[y0:y1, x0:x1] = True
    assert mask_iou(full, full) == pytest.approx(box_iou(found, found), abs=1e-6)


# The store

contents = st.binary(max_size=200)


def committed(root: Path, held: Sequence[bytes]) -> tuple[Run, list[Path]]:
    run = Run(root / "run-0001")
    paths = [run.root / "labels" / f"{i:05d}.bin" for i in range(len(held))]
    for path, content in zip(paths, held, strict=True):
        with atomic(path) as file:
            file.write(content)
    run.marks.commit("label", 3, "these inputs", paths)
    assert run.marks.is_done("label", 3, "these inputs")
    return run, paths


@examples(25)
@given(st.lists(contents, min_size=1, max_size=3), st.data())
def test_done_is_what_the_mark_says(held: list[bytes], data: st.DataObject) -> None:
    """A byte more, a byte less or no file at all, other inputs, another shard or stage: not done."""
    with TemporaryDirectory() as folder:
        run, paths = committed(Path(folder), held)
        for inputs in ("", "these input", "these inputs "):
            assert not run.marks.is_done("label", 3, inputs)
        assert not run.marks.is_done("label", 2, "these inputs") and not run.marks.is_done("measure", 3, "these inputs")
        i = data.draw(st.integers(0, len(held) - 1))
        for content in (held[i] + b"\0", held[i][:-1]):
            paths[i].write_bytes(content)
            assert run.marks.is_done("label", 3, "these inputs") == (content == held[i])
        paths[i].unlink()
        assert not run.marks.is_done("label", 3, "these inputs")
        paths[i].write_bytes(held[i])
        assert run.marks.is_done("label", 3, "these inputs")


@examples(25)
@given(st.lists(contents, min_size=1, max_size=3), contents, st.data())
def test_a_mark_that_cannot_be_read_says_nothing_is_done(
    held: list[bytes], garbage: bytes, data: st.DataObject
) -> None:
    """Cut short anywhere, or overwritten with anything."""
    with TemporaryDirectory() as folder:
        run, _ = committed(Path(folder), held)
        (file,) = (run.root / "commits").glob("*.json")
        whole = file.read_bytes()
        for cut in (0, 1, len(whole) - 1, *data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=20))):
            file.write_bytes(whole[:cut])
            assert run.marks.read("label", 3) is None and not run.marks.is_done("label", 3, "these inputs")
        for content in (garbage, whole + b"x" + garbage):
            file.write_bytes(content)
            assert not run.marks.is_done("label", 3, "these inputs")


@examples(60)
@given(contents, st.integers(0, 255), st.data())
def test_a_mark_is_itself_or_none(content: bytes, byte: int, data: st.DataObject) -> None:
    """Whatever byte of it becomes whatever other: it says what it said, or nothing is done."""
    with TemporaryDirectory() as folder:
        run, _ = committed(Path(folder), [content])
        (file,) = (run.root / "commits").glob("*.json")
        said, changed = run.marks.read("label", 3), bytearray(file.read_bytes())
        changed[data.draw(st.integers(0, len(changed) - 1))] = byte
        file.write_bytes(changed)
        assert run.marks.read("label", 3) in (said, None)


names = st.text(st.characters(codec="utf-8"), max_size=8)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=5,
)


@examples(60)
@given(plain | st.fixed_dictionaries({"inputs": plain, "files": plain | st.dictionaries(names, plain)}))
def test_a_mark_of_another_hand_is_none(mark: Any) -> None:
    """JSON of any shape that does not carry its own seal."""
    with TemporaryDirectory() as folder:
        run = Run(Path(folder) / "run-0001")
        (run.root / "commits").mkdir(parents=True)
        (run.root / "commits" / "label-00003.json").write_bytes(orjson.dumps(mark))
        assert run.marks.read("label", 3) is None


@examples(40)
@given(st.dictionaries(names.filter(lambda name: name != SEAL), plain, max_size=4))
def test_what_is_sealed_is_read_as_written(content: dict[str, Any]) -> None:
    """Numbers, texts and all they are nested in."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "sealed.json"
        write_sealed(path, content)
        assert repr(read_sealed(path)) == repr(content)


@examples(25)
@given(st.lists(st.binary(min_size=1, max_size=100), min_size=1, max_size=3), st.data())
def test_a_batch_is_held_to_its_checksums(held: list[bytes], data: st.DataObject) -> None:
    """One bit of one byte changed, and it is not done."""
    with TemporaryDirectory() as folder:
        run, paths = committed(Path(folder), held)
        run.marks.commit_batch(3, 0, "these inputs", paths, {})
        assert run.marks.read_batch(3, 0, "these inputs") and not run.marks.read_batch(3, 0, "others")
        i = data.draw(st.integers(0, len(held) - 1))
        changed = bytearray(held[i])
        changed[data.draw(st.integers(0, len(changed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        paths[i].write_bytes(changed)
        assert run.marks.read_batch(3, 0, "these inputs") is None


@st.composite
def any_jobs(draw: st.DrawFn) -> Job:
    whole = st.integers(0, 2**31 - 1)
    layout = draw(st.none() | st.lists(st.tuples(whole, whole, whole, whole), max_size=3).map(tuple))
    asked = (
        st.lists(whole, max_size=3) if layout is None else st.lists(whole, min_size=len(layout), max_size=len(layout))
    )
    return Job(
        id=draw(st.integers(1, 2**63 - 1)), run=draw(whole), round=draw(whole), index=draw(whole),
        family=draw(st.text()), split=draw(st.text()), prompt=draw(st.text()), negative_prompt=draw(st.text()),
        slots=draw(st.dictionaries(st.text(), st.text(), max_size=3)), asked=tuple(draw(asked)), layout=layout,
        seed=draw(st.integers(0, 2**63 - 1)), height=draw(whole), width=draw(whole),
    )  # fmt: skip


@examples(60)
@given(st.lists(any_jobs(), max_size=4))
def test_jobs_are_read_as_written(jobs: list[Job]) -> None:
    """In order, every field but the split, which the spec decides; texts may hold any character."""
    with TemporaryDirectory() as folder:
        run = Run(Path(folder) / "run-0001")
        run.tables.write_jobs(7, jobs)
        rows = run.tables.read_jobs(7)
    assert len(rows) == len(jobs)
    for row, job in zip(rows, jobs, strict=True):
        assert list(row) == JOB_SCHEMA.names
        assert row.pop("image_id") == job.id
        assert dict(row.pop("slots")) == job.slots
        assert tuple(row.pop("asked")) == job.asked
        layout = row.pop("layout")
        assert (layout if layout is None else tuple(map(tuple, layout))) == job.layout
        assert row == {name: getattr(job, name) for name in row}


class _Stopped(BaseException):
    pass


@examples(40)
@given(
    st.none() | contents, st.lists(contents, max_size=4), st.integers(0, 4), st.text("ab .-é", min_size=1, max_size=8)
)
def test_atomic_is_all_or_nothing(old: bytes | None, parts: list[bytes], stop: int, name: str) -> None:
    """What was there, or all that is new; nothing else in the folder, also where the body raises half-way."""
    assume(name.strip(". "))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "in" / name
        if old is not None:
            path.parent.mkdir()
            path.write_bytes(old)
        stopped = False
        try:
            with atomic(path) as file:
                for i, part in enumerate(parts):
                    if i == stop:
                        raise _Stopped
                    file.write(part)
                assert old is None or path.read_bytes() == old
        except _Stopped:
            stopped = True
        expected = old if stopped else b"".join(parts)
        assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == ({} if expected is None else {name: expected})


# Verdicts

numbers = st.sampled_from([None, 0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
limits = st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0])
hashes = st.sampled_from([0, 1, 3, 7, 255, 2**63, 2**64 - 1])  # few bits apart, so that all are alike by chains
objects = st.fixed_dictionaries(
    {
        "class": st.integers(1, 2),
        "area": st.sampled_from([9, 9, 9, 9, 9, 0]),
        "predicted_iou": numbers,
        "mask_area": numbers,
    }
)
pictures = st.lists(
    st.fixed_dictionaries(
        {"objects": st.lists(objects, max_size=3), "sharpness": numbers, "near_duplicate": hashes},
        optional={"asked": st.lists(st.integers(1, 2), max_size=3)},
    ),
    min_size=1,
    max_size=8,
)


@st.composite
def filter_sets(draw: st.DrawFn, whole: bool = True) -> dict[str, Any]:
    fates = st.sampled_from(["reject", "drop", "ignore"])
    given = {
        "predicted_iou": {"min": draw(limits), "on_fail": draw(fates)},
        "mask_area": {"min": None, "max": draw(limits), "on_fail": draw(fates)},
        "sharpness": {"min": draw(limits)},
        "near_duplicate": {"max_distance": draw(st.integers(0, 3))},
    }
    taken = draw(st.sets(st.sampled_from(sorted(given))))
    return {name: f for name, f in given.items() if name in taken and (whole or name != "near_duplicate")}


def reviews_of(
    images: Sequence[Mapping[str, Any]], verdicts: Sequence[Any] = VERDICTS
) -> st.SearchStrategy[list[Review]]:
    """At most one on each thing: on images and on labels that there are."""
    things = [(i, k) for i, image in enumerate(images, 1) for k in (None, *range(len(image["objects"])))]

    def on(thing: tuple[int, int | None]) -> st.SearchStrategy[Review]:
        verdict = st.sampled_from([v for v in verdicts if thing[1] is not None or v in {"accept", "reject"}])
        category = st.sampled_from([None, 1, 2])
        queue = st.sampled_from(["random", "borderline"])
        return st.builds(
            lambda v, c, q: Review(*thing, v, c if v == "wrong_class" else None, q, "", "now"), verdict, category, queue
        )

    chosen = st.lists(st.sampled_from(things), unique=True, max_size=6)
    return chosen.flatmap(lambda some: st.tuples(*map(on, some)).map(list))


Case = tuple[list[dict[str, Any]], dict[str, Any], list[Review], dict[str, Any]]


@st.composite
def judged(draw: st.DrawFn) -> Case:
    """Images, filters, reviews, and what else the spec says."""
    images = draw(pictures)
    changes = {"count": draw(st.integers(1, 6)), "min_instances_per_class": draw(st.sampled_from([0, 0, 3]))}
    return images, draw(filter_sets()), draw(st.just([]) | reviews_of(images)), changes


def verdict_of(found: Verdicts) -> dict[int, str]:
    return dict(zip(found.images["image_id"].tolist(), found.images["verdict"], strict=True))


@examples(60)
@given(judged())
def test_every_image_has_one_verdict(case: Case) -> None:
    """Accepted, surplus or rejected, and rejected where there are reasons; what is asked for holds at most `count`
    images without quotas, and none is left over while images or classes are missing."""
    images, filters, reviews, changes = case
    found = table(images, filters, reviews, **changes)
    assert found.images["image_id"].tolist() == list(range(1, len(images) + 1))
    for verdict, reasons in of_images(found):
        assert verdict in {"accepted", "surplus", "rejected"}
        assert (verdict == "rejected") == bool(reasons)
    quality = quality_of(found)
    assert quality.accepted + quality.surplus + quality.rejected == quality.made == len(images)
    assert not (quality.missing and quality.surplus)
    if not changes["min_instances_per_class"]:
        assert quality.accepted <= changes["count"]


@examples(60)
@given(judged())
def test_reasons_are_the_filters_own(case: Case) -> None:
    """Without reviews, every reason is of a filter, and given once; `passed` says that there is none."""
    images, filters, _, changes = case
    found = table(images, filters, **changes)
    assert found.images["passed"].tolist() == [not reasons for reasons in found.images["reasons"]]
    for _, reasons in of_images(found):
        assert len(set(reasons)) == len(reasons) and {*reasons} <= {"empty_mask", *filters}


@examples(60)
@given(judged(), pictures)
def test_later_images_change_no_verdict(case: Case, more: list[dict[str, Any]]) -> None:
    """Verdicts, splits and reasons of images and labels are those of the beginning of a larger table."""
    images, filters, reviews, changes = case
    few, many = table(images, filters, reviews, **changes), table([*images, *more], filters, reviews, **changes)
    assert many.images.head(len(few.images)).to_dict("list") == few.images.to_dict("list")
    assert many.instances.head(len(few.instances)).to_dict("list") == few.instances.to_dict("list")


@examples(60)
@given(pictures, filter_sets(whole=False), limits, limits, st.sampled_from(["predicted_iou", "sharpness"]))
def test_a_stricter_threshold_lets_no_more_through(
    images: list[dict[str, Any]], filters: dict[str, Any], a: float, b: float, name: str
) -> None:
    """What passes is among what passed; so is what is accepted in number. Filters of the whole dataset are left out:
    an image that another hid may come up when that one goes."""
    loose, strict = (
        table(images, {**filters, name: {**filters.get(name, {}), "min": value}}, count=3) for value in sorted((a, b))
    )
    passed, stricter = (set(f.images.loc[f.images["passed"], "image_id"]) for f in (loose, strict))
    assert stricter <= passed
    assert quality_of(strict).accepted <= quality_of(loose).accepted
    labels, fewer = (f.instances["passed"].to_numpy(bool) for f in (loose, strict))
    assert not (fewer & ~labels).any()


@examples(60)
@given(pictures, filter_sets(whole=False), st.data())
def test_accepting_rejects_nothing(images: list[dict[str, Any]], filters: dict[str, Any], data: st.DataObject) -> None:
    """However many are accepted, whatever passes the filters of single images stays, and so does what was accepted as
    an image."""
    reviews = data.draw(reviews_of(images, ["accept"]))
    found = verdict_of(table(images, filters, reviews))
    before = verdict_of(table(images, filters))
    kept = {i for i, verdict in before.items() if verdict != "rejected"}
    assert all(found[i] != "rejected" for i in kept | {r.image_id for r in reviews if r.instance is None})


@examples(60)
@given(pictures, filter_sets(), st.data())
def test_accepting_one_image_keeps_it(
    images: list[dict[str, Any]], filters: dict[str, Any], data: st.DataObject
) -> None:
    """With filters of the whole dataset too: one that passes is not rejected for being accepted, nor is any before."""
    image_id = data.draw(st.integers(1, len(images)))
    review = Review(image_id, None, "accept", None, "random", "", "now")
    before, after = verdict_of(table(images, filters)), verdict_of(table(images, filters, [review]))
    assert all(after[i] != "rejected" for i in range(1, image_id + 1) if before[i] != "rejected")
    assert all(after[i] == before[i] for i in range(1, image_id))


@examples(60)
@given(judged())
def test_funnel_telescopes(case: Case) -> None:
    """From all images to the accepted ones, each step less by those that leave at it."""
    images, filters, reviews, changes = case
    found = table(images, filters, reviews, **changes)
    steps = list(funnel(found))
    assert (steps[0]["step"], steps[0]["left"]) == ("made", len(images))
    assert (steps[-1]["step"], steps[-1]["left"]) == ("accepted", quality_of(found).accepted)
    for before, step in pairwise(steps):
        assert step["left"] == before["left"] - step["first"] >= 0
    assert len({step["step"] for step in steps}) == len(steps)
    assert all(step["alone"] <= step["first"] <= step["images"] for step in steps if step["step"] != "surplus")


@examples(60)
@given(judged())
def test_quality_counts_images(case: Case) -> None:
    """The splits sum to the accepted images, the classes to their labels; no class loses more than was asked for."""
    images, filters, reviews, changes = case
    found = table(images, filters, reviews, **changes)
    quality = quality_of(found)
    assert sum(quality.splits.values()) == quality.accepted
    assert sum(c.accepted for c in quality.classes.values()) == quality.instances
    assert all(0 <= c.lost <= c.asked for c in quality.classes.values())
    assert found.table().num_rows == len(found.images) + len(found.instances)


def test_a_reason_is_given_once() -> None:
    """Where an image and a label of it are both rejected by people."""
    images = [{"objects": [{}]}]
    reviews = [Review(1, instance, "reject", None, "random", "", "now") for instance in (None, 0)]
    quality = quality_of(table(images, {}, reviews))
    assert (quality.reasons["review_reject"].images, quality.reasons["review_reject"].alone) == (1, 1)


@pytest.mark.parametrize("name", ["empty_mask", "not_made", "not_found", "review_reject"])
def test_no_filter_has_the_name_of_a_reason(name: str) -> None:
    """Else the funnel would count it twice."""
    with pytest.raises(SpecError, match="is the name of a reason"):
        table([], {name: {"use": "sharpness"}})


# Precision


@st.composite
def samples(draw: st.DrawFn) -> tuple[int, int, int]:
    population = draw(st.integers(0, 10**7))
    verdicts = draw(st.integers(0, min(population, draw(st.sampled_from([10, 400, 10**7])))))
    return draw(st.integers(0, verdicts)), verdicts, population


@examples(300)
@given(samples())
def test_wilson_holds_the_estimate(sample: tuple[int, int, int]) -> None:
    """The interval lies in [0, 1], and the share found lies in it, but for rounding."""
    right, verdicts, population = sample
    low, high = wilson(right, verdicts, population)
    assert 0 <= low <= high <= 1
    if verdicts:
        assert low - ULP <= right / verdicts <= high + ULP
    mirrored = wilson(verdicts - right, verdicts, population)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-9)


@examples(300)
@given(
    st.integers(0, 20), st.integers(1, 20), st.lists(st.integers(1, 500), min_size=2, max_size=5), st.integers(0, 10**6)
)
def test_wilson_narrows(right: int, verdicts: int, times: list[int], more: int) -> None:
    """More verdicts at the same share and of the same population leave less open; so do as many of a smaller one."""
    right = min(right, verdicts)
    times = sorted(times)
    population = times[-1] * verdicts + more
    ends = [wilson(k * right, k * verdicts, population) for k in times]
    widths = [high - low for low, high in ends]
    assert all(b <= a + ULP for a, b in pairwise(widths))
    larger = wilson(right, verdicts, population + 1 + more)
    smaller = wilson(right, verdicts, population)
    assert smaller[1] - smaller[0] <= larger[1] - larger[0] + ULP


@examples(150)
@given(*[st.floats(0.005, 0.4)] * 2, *[st.integers(0, 10**7)] * 2, st.floats(0, 1))
def test_sample_size_is_monotone(a: float, b: float, some: int, more: int, share: float) -> None:
    """A narrower interval, a larger population or a share nearer to a half takes no fewer; never more than all."""
    narrow, wide = sorted((a, b))
    small, large = sorted((some, more))
    assert sample_size(wide, large) <= sample_size(narrow, large) <= large
    assert sample_size(narrow, small) <= sample_size(narrow, large)
    assert sample_size(narrow, large, share) <= sample_size(narrow, large)


@examples(60)
@given(st.floats(0.01, 0.3), st.integers(1, 10**6), st.data())
def test_a_sample_of_that_size_does(half_width: float, population: int, data: st.DataObject) -> None:
    """Whatever comes out of it."""
    n = sample_size(half_width, population)
    low, high = wilson(data.draw(st.integers(0, n)), n, population)
    assert high - low <= 2 * half_width + 1e-6


# Truth

THING = [5.0, 2.0, 20.0, 2.0, 20.0, 12.0, 5.0, 12.0]
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 700), st.sampled_from([2**31, 2**63, 10**400, -(10**400)]), st.floats(),
    st.text(max_size=5), st.sampled_from(["apple", "1.png", "../1.png", "04", "oooo", ""]),
    st.lists(st.integers(-2, 40), max_size=8), st.just({}), st.just([[]]), st.just({"size": [20, 30], "counts": "0"}),
)  # fmt: skip


def coco_file() -> dict[str, Any]:
    square = np.zeros((1, 20, 30), bool)
    square[0, 2:12, 5:20] = True
    runs = [102, *[10, 10] * 14, 10, 600 - 102 - 14 * 20 - 10]
    shapes: list[Any] = [encode_rle(square)[0], [[*THING]], {"size": [20, 30], "counts": runs}, None]
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 30, "height": 20} for i in (1, 2)],
        "categories": [{"id": 1, "name": "apple"}, {"id": 2, "name": "pear"}],
        "annotations": [
            {"id": i, "image_id": 1 + i % 2, "category_id": 1, "iscrowd": 0, "segmentation": shape}
            for i, shape in enumerate(shapes)
        ],
    }


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Of what stands in plain data, of lists the first four: the keys that lead there."""
    yield at
    if isinstance(value, dict | list):
        for key, child in value.items() if isinstance(value, dict) else list(enumerate(value))[:4]:
            yield from places(child, (*at, key))


@st.composite
def hostile_coco(draw: st.DrawFn) -> Any:
    """A good COCO file in which some things are gone, stand twice, or are something else; or text that is cut."""
    data: Any = coco_file()
    for _ in range(draw(st.integers(1, 4))):
        *way, last = draw(st.sampled_from([place for place in places(data) if place] or [("images",)]))
        parent = data
        for key in way:
            parent = parent[key]
        change = draw(st.sampled_from(["else", "gone", "twice"]))
        if change == "else":
            parent[last] = deepcopy(draw(ODD))
        elif change == "gone":
            del parent[last]
        elif isinstance(parent, list):
            parent.append(deepcopy(parent[last]))
        if not data:
            break
    text = json.dumps(data)
    return text[: draw(st.integers(0, len(text)))] if draw(st.integers(0, 9)) == 0 else text


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images of 30x20 px, in a folder beside which there is room."""
    folder = tmp_path_factory.mktemp("truth") / "images"
    folder.mkdir()
    for i in (1, 2):
        assert cv2.imwrite(str(folder / f"{i}.png"), np.full((20, 30, 3), 40 * i, np.uint8))
    return folder


def truth_of(text: str, folder: Path) -> tuple[list[Truth], dict[str, int]]:
    """What is read of a COCO file; and looks at each image that it is one."""
    file = folder.with_name("truth.json")
    file.write_text(text, encoding="utf-8")
    raw = {
        "name": "n",
        "count": 1,
        "height": 64,
        "width": 64,
        "classes": ["apple"],
        "prompts": {"templates": ["{objects}"]},
    }
    found = from_coco(DatasetSpec.parse({**raw, "layout": {}}), file, folder, 5)
    read = list(found.images)
    assert len(read) == found.count > 0
    for one in read:
        assert one.image.shape == (20, 30, 3) and one.masks.shape == (len(one.category_id), 20, 30)
        assert len(one.masks) and one.masks.any((1, 2)).all() and set(one.category_id.tolist()) == {1}
    return read, dict(found.unusable)


def test_the_truth_that_is_made_hostile_is_good(photos: Path) -> None:
    read, unusable = truth_of(json.dumps(coco_file()), photos)
    assert [len(one.masks) for one in read] == [2, 1] and unusable == {"no segmentation": 1}
    assert all(one.masks[0, 2:12, 5:20].all() and one.masks.sum() == 150 * len(one.masks) for one in read)


@examples(400)
@given(hostile_coco())
def test_a_hostile_coco_file_is_read_or_refused_in_a_line(photos: Path, text: str) -> None:
    try:
        truth_of(text, photos)
    except SynthgenError as error:
        assert len(str(error).splitlines()) == 1 and str(error).isprintable() and len(str(error)) < 1000
    else:
        for entries in map(json.loads(text).get, ("images", "annotations", "categories")):
            assert len({entry["id"] for entry in entries}) == len(entries)  # else labels would be merged


@examples(300)
@given(st.one_of(st.text(st.characters(min_codepoint=48, max_codepoint=111), max_size=12), st.text(max_size=4)))
def test_any_string_of_runs_is_the_mask_that_pycocotools_sees_or_is_left_out(photos: Path, counts: str) -> None:
    data = coco_file()
    whole = data["annotations"][1]["segmentation"]
    data["annotations"] = data["annotations"][:2]
    data["annotations"][0]["segmentation"] = {"size": [20, 30], "counts": counts}
    read, unusable = truth_of(json.dumps(data), photos)
    assert len(read) + sum(unusable.values()) == 2 and whole == [THING]
    if not unusable:
        (expected,) = decode_rle([{"size": [20, 30], "counts": counts}], 20, 30)
        np.testing.assert_array_equal(read[0].masks[0], expected)


@examples(100)
@given(arrays(bool, (1, 20, 30)))
def test_a_mask_s_runs_are_read_whole(photos: Path, mask: NDArray[np.bool_]) -> None:
    data = coco_file()
    data["annotations"][0]["segmentation"] = encode_rle(mask)[0]
    read, unusable = truth_of(json.dumps(data), photos)
    assert unusable.get("no pixel", 0) == (not mask.any())
    if mask.any():
        np.testing.assert_array_equal(read[0].masks[0], mask[0])
