"""Planted faults: one by one on a drawn sample, the numbers by hand, and all of it by the command line."""

import json
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from PIL import Image
from rich.console import Console

from synthgen.backends import Config, Filter, FilterConfig, Segmenter, ThresholdConfig, ThresholdFilter
from synthgen.calibration import calibrate as calibration
from synthgen.calibration import faults, findings, truths
from synthgen.calibration.calibrate import Calibration, Measured
from synthgen.calibration.faults import FAULTS, POOR, Planted, Planter
from synthgen.calibration.truths import Truth, Truths
from synthgen.errors import BackendError, SpecError
from synthgen.masks import encode_rle, mask_boxes
from synthgen.mini.backgrounds import BACKGROUNDS
from synthgen.spec import DatasetSpec
from synthgen.types import Grounding, Instances, Job, Sample

NAMES = {1: "apple", 2: "orange", 3: "tree"}
HEIGHT, WIDTH = 60, 90


class Boxes(Segmenter[Config]):
    """Masks are the boxes, cut to the image."""

    def __init__(self) -> None:
        super().__init__(Config(use="boxes"), ())
        self.asked: list[Grounding] = []

    def segment(self, images: Any, groundings: Any) -> list[Instances]:
        self.asked += groundings
        return [self._one(*image.shape[:2], g) for image, g in zip(images, groundings, strict=True)]

    def _one(self, height: int, width: int, g: Grounding) -> Instances:
        ys, xs = np.mgrid[:height, :width] + 0.5
        masks = np.array([(xs > a) & (ys > b) & (xs < c) & (ys < d) for a, b, c, d in g.boxes])
        scores = {"box_iou": np.full(len(g), 0.9, np.float32)}
        return Instances(masks.reshape(len(g), height, width), g.boxes, g.category_id, scores)


class Stubborn(Boxes):
    """Whatever the box, it finds the same thing."""

    def _one(self, height: int, width: int, g: Grounding) -> Instances:
        return super()._one(height, width, Grounding(np.array([[10, 20, 30, 40]], np.float32), g.category_id))


def truth(shade: int = 0) -> Truth:
    """Two things on noise: 20x20 px at the upper left, 40x20 at the lower right."""
    image = np.random.default_rng(shade).integers(0, 200, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    masks = np.zeros((2, HEIGHT, WIDTH), bool)
    masks[0, 2:22, 4:24] = masks[1, 35:55, 45:85] = True
    return Truth(image, masks, np.array([1, 2], np.int64), "sand")


def sample(shade: int = 0) -> Sample:
    t = truth(shade)
    boxes = mask_boxes(t.masks)
    layout = tuple(tuple(map(int, box)) for box in boxes)
    job = Job(9, 1, 1, 8, "8", "test", "a photo", "", {}, (1, 2), layout, 8, HEIGHT, WIDTH)
    scores = {"box_iou": np.full(2, 0.9, np.float32), "stability_score": np.full(2, 0.8, np.float32)}
    return Sample(job, t.image, Instances(t.masks, boxes, t.category_id, scores))


def planter(seed: int = 0, segmenter: Segmenter | None = None) -> Planter:
    return Planter(segmenter or Boxes(), NAMES, np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(8))
def test_a_shifted_box_lies_beside_its_object(seed):
    before = sample()
    found = planter(seed).shifted(before, "sand")
    i, others = int(found.bad.argmax()), ~found.bad
    assert found.bad.sum() == 1 and found.bad_image
    old, new = before.instances.boxes[i], found.sample.instances.boxes[i]
    near = [0, 1] if i == 0 else [2, 3]  # the corner that moves away from the nearer border is not cut
    assert all(move > 0 for move in (new - old)[near] * (1 if i == 0 else -1))
    share = np.abs((new[2:] if i else new[:2]) - (old[2:] if i else old[:2])) / (old[2:] - old[:2])
    assert ((share >= 0.4) & (share <= 0.7)).all()
    assert (new >= 0).all() and (new <= [WIDTH, HEIGHT, WIDTH, HEIGHT]).all()
    np.testing.assert_array_equal(mask_boxes(found.sample.instances.masks[[i]])[0], new.round())
    np.testing.assert_array_equal(found.sample.instances.masks[others], before.instances.masks[others])
    np.testing.assert_array_equal(found.sample.instances.boxes[others], before.instances.boxes[others])
    assert found.sample.job == before.job


def test_large_and_small_boxes_stay_in_the_image():
    share = np.array([0.7, 0.4])
    for box, moved in [
        ((0, 0, 90, 60), (0, 0, 27, 36)),  # the whole image: to the left and up, as there is no more room elsewhere
        ((0, 0, 1, 1), (0.7, 0.4, 1.7, 1.4)),
        ((80, 50, 90, 60), (73, 46, 83, 56)),
        ((5, 0, 75, 40), (54, 16, 90, 56)),
    ]:
        found = faults.beside(np.array(box, np.float32), share, HEIGHT, WIDTH)
        np.testing.assert_allclose(found, moved, rtol=1e-5)
        assert found.dtype == np.float32


def test_an_object_found_again_from_a_shifted_box_is_no_fault():
    before = sample()
    before.instances.masks[:, :] = False
    before.instances.masks[:, 20:40, 10:30] = True
    segmenter = Stubborn()
    assert planter(0, segmenter).shifted(before, "sand") is None
    assert len(segmenter.asked) == faults.SHIFTS


@pytest.mark.parametrize("seed", range(4))
def test_a_swapped_class_is_asked_for(seed):
    before = sample()
    found = planter(seed).swapped(before, "sand")
    ids, old = found.sample.instances.category_id, before.instances.category_id
    np.testing.assert_array_equal(ids != old, found.bad)
    assert found.bad.sum() == 1 and set(ids.tolist()) <= set(NAMES)
    assert found.sample.job.asked == tuple(ids.tolist())
    assert found.sample.job.prompt == faults.prompt([NAMES[i] for i in ids], "sand")
    assert before.instances.category_id.tolist() == [1, 2]


def test_one_class_cannot_be_swapped():
    before = sample()
    before.instances.category_id[:] = 1
    assert Planter(Boxes(), {1: "apple"}, np.random.default_rng(0)).swapped(before, "") is None


@pytest.mark.parametrize("seed", range(8))
def test_a_cut_mask_has_half_its_pixels(seed):
    before = sample()
    found = planter(seed).cut(before, "sand")
    i, after = int(found.bad.argmax()), found.sample.instances
    assert after.masks[i].sum() == before.instances.masks[i].sum() / 2
    assert not (after.masks[i] & ~before.instances.masks[i]).any()
    np.testing.assert_array_equal(after.boxes, mask_boxes(after.masks))
    assert after.scores["box_iou"][i] == pytest.approx(0.5) and after.scores["box_iou"][1 - i] == np.float32(0.9)
    assert after.scores["stability_score"].tolist() == before.instances.scores["stability_score"].tolist()
    assert before.instances.masks.sum() == 400 + 800 and before.instances.scores["box_iou"].min() > 0.8


def test_thin_masks_are_cut_too():
    before = sample()
    before.instances.masks[:] = False
    before.instances.masks[:, 10:40, 20] = True
    for seed in range(8):
        found = planter(seed).cut(before, "")
        assert found.sample.instances.masks[found.bad].sum() == 15


def test_blank_and_blurred_images_are_labelled_anew():
    before, segmenter = sample(), Boxes()
    blank = planter(0, segmenter).blanked(before, "sand")
    assert len(np.unique(blank.sample.image.reshape(-1, 3), axis=0)) == 1
    assert abs(blank.sample.image.mean() - before.image.mean()) < 1
    blurred = planter(0, segmenter).blurred(before, "sand")
    assert blurred.sample.image.std() < before.image.std() / 3
    assert blurred.sample.image.mean() == pytest.approx(before.image.mean(), abs=1)
    for found in (blank, blurred):
        assert found.bad_image and not found.bad.any() and len(found.bad) == 2
    for grounding in segmenter.asked:
        np.testing.assert_array_equal(grounding.boxes, before.job.layout)


def test_a_duplicate_repeats_an_earlier_image():
    p, now, earlier = planter(), sample(1), sample(2)
    assert p.duplicated(now, "sand") is None
    p.others.append((4, earlier))
    found = p.duplicated(now, "sand")
    apart = np.abs(found.sample.image.astype(int) - earlier.image)
    assert 0 < apart.max() <= faults.NOISE
    assert found.twin == 4 and found.bad_image and not found.bad.any()
    assert found.sample.instances is earlier.instances
    assert (found.sample.job.id, found.sample.job.index) == (now.job.id, now.job.index)


@pytest.mark.parametrize("seed", range(4))
def test_an_unlabelled_thing_is_neither_labelled_nor_asked_for(seed):
    before = sample()
    found = planter(seed).unlabelled(before, "sand")
    assert len(found.sample.instances) == len(found.sample.job.asked) == len(found.bad) == 1
    assert found.sample.job.asked == tuple(found.sample.instances.category_id.tolist())
    assert found.sample.job.prompt == faults.prompt([NAMES[found.sample.job.asked[0]]], "sand")
    assert found.bad_image and not found.bad.any()
    np.testing.assert_array_equal(found.sample.image, before.image)


@pytest.mark.parametrize(
    ("names", "ground", "text"),
    [
        (["cat", "umbrella"], "grass", "a photo of a cat and an umbrella on grass"),
        (["cat"], "", "a photo of a cat"),
        ([], "grass", "a photo of grass"),
        ([], "", "a photo"),
    ],
)
def test_prompts(names, ground, text):
    assert faults.prompt(names, ground) == text


def spec_of(**more: Any) -> DatasetSpec:
    raw = {
        "name": "fruit", "count": 8, "height": 64, "width": 96, "classes": ["apple", "orange", "tree"],
        "prompts": {"templates": ["{objects}"]}, "layout": {},
    }  # fmt: skip
    return DatasetSpec.parse({**raw, **more})


def planted(count: int = 40, share: float = 0.5, segmenter: Segmenter | None = None) -> list[Planted]:
    known = Truths(count, (truth(i) for i in range(count)))
    return list(faults.plant(spec_of(), segmenter or Boxes(), known, share, 3))


def test_faults_are_planted_in_turn():
    found = planted(60)
    kinds = [p.fault for p in found if p.fault]
    assert 20 <= len(kinds) <= 40
    counts = [kinds.count(kind) for kind in FAULTS]
    assert max(counts) - min(counts) <= 1
    assert [p.sample.job.id for p in found] == list(range(1, 61))
    for index, p in enumerate(found):
        assert (p.twin is not None) == (p.fault == "duplicate")
        assert p.twin is None or (p.twin < index and not found[p.twin].fault)
        if p.twin is not None:
            assert index - p.twin < 60 and np.abs(p.sample.image.astype(int) - found[p.twin].sample.image).max() <= 2
        if not p.fault:
            assert not p.bad_image and not p.bad.any()
            assert p.sample.job.prompt == "a photo of an apple and an orange on sand"


def test_planting_is_deterministic():
    for a, b in zip(planted(20), planted(20), strict=True):
        assert a.fault == b.fault
        np.testing.assert_array_equal(a.sample.image, b.sample.image)
        np.testing.assert_array_equal(a.sample.instances.masks, b.sample.instances.masks)


def test_no_share_no_faults():
    assert {p.fault for p in planted(10, 0)} == {""}


def test_what_the_segmenter_gets_wrong_counts_as_poor():
    class Off(Boxes):
        def _one(self, height: int, width: int, g: Grounding) -> Instances:
            found = super()._one(height, width, g)
            found.masks[0, :12] = False  # more than a quarter of the first thing
            return found

    found = planted(6, 1, Off())
    assert {p.fault for p in found} == {POOR}
    assert all(p.bad.tolist() == [True, False] and p.bad_image for p in found)


def test_auroc_by_hand():
    assert calibration.auroc([3, 4], [1, 2]) == 1
    assert calibration.auroc([1, 2], [3, 4]) == 0
    assert calibration.auroc([1, 1], [1]) == 0.5
    assert calibration.auroc([1, 3], [2, 2]) == 0.5
    assert calibration.auroc([2, 3], [1, 2]) == 3.5 / 4
    assert calibration.auroc([0.5], [-np.inf]) == 1


@pytest.mark.parametrize(
    ("good", "bad", "precision", "margin", "kept"),
    [
        ([3, 4, 5], [1, 2], 1, 3, 1),
        ([3, 4, 5], [1, 2], 0.75, 2, 1),  # three of four
        ([3, 4, 5], [1, 2], 0.6, 1, 1),  # all of it
        ([1, 4, 5], [2, 3], 1, 4, 2 / 3),
        ([1, 4, 5], [2, 6], 1, None, None),  # the best of all is bad
        ([1, 4, 5, 5, 5], [2, 6], 0.8, 4, 4 / 5),
        ([2, 2, 2], [2], 0.9, None, None),  # equal ones are kept together
        ([2, -np.inf], [-np.inf], 0.5, 2, 0.5),  # what could not be measured is never kept
    ],
)
def test_thresholds_by_hand(good, bad, precision, margin, kept):
    assert calibration.loosest_threshold(good, bad, precision) == (margin, pytest.approx(kept) if kept else None)


class Number(ThresholdFilter[ThresholdConfig]):
    """What stands in the first pixel; NaN for 255."""

    scope = "image"

    def measure(self, sample: Sample) -> Any:
        value = sample.image[0, 0, 0]
        return np.asarray(np.nan if value == 255 else value, np.float32)


class Each(ThresholdFilter[ThresholdConfig]):
    """What stands in the first pixels, one an instance."""

    scope = "instance"

    def measure(self, sample: Sample) -> Any:
        return sample.image[0, : len(sample.instances), 0].astype(np.float32)


class Repeated(Filter[FilterConfig]):
    """An earlier image has the same number."""

    scope = "image"
    whole_dataset = True

    def measure(self, sample: Sample) -> Any:
        return np.asarray(sample.image[0, 0, 0], np.float32)

    def fails(self, values: Any) -> Any:
        return np.array([v in values[:i] for i, v in enumerate(values)], bool)


def number(kind: Any = Number, **limits: float) -> Any:
    return kind(ThresholdConfig(use="number", **limits), ())


def item(values: list[int], fault: str = "", bad: tuple[int, ...] = (), twin: int | None = None) -> Planted:
    """An image whose first pixels are `values`, one an instance, of which those in `bad` are wrong."""
    image = np.zeros((4, 8, 3), np.uint8)
    image[0, : len(values)] = np.array(values)[:, None]
    n = len(values)
    job = Job(1, 1, 1, 0, "0", "test", "", "", {}, (), None, 0, 4, 8)
    instances = Instances(np.ones((n, 4, 8), bool), np.zeros((n, 4), np.float32), np.ones(n, np.int64))
    wrong = np.isin(np.arange(n), bad)
    return Planted(Sample(job, image, instances), fault, wrong, bool(fault), twin)


ITEMS = [
    *(item([v]) for v in (10, 20, 30, 40)),
    *(item([v], "blank image") for v in (5, 6)),
    *(item([v], "blurred image") for v in (25, 50)),
]


def test_measures_of_images_by_hand():
    found = calibration.calibrate({"n": number(min=15)}, ITEMS, 1)
    (measured, empty) = found.measures
    assert empty == Measured("empty_mask", "", {}, {"blank image": 0, "blurred image": 0}, 0)
    assert measured.auroc == {"blank image": 1, "blurred image": 2 / 8}
    assert measured.caught == found.caught == {"blank image": 1, "blurred image": 0}
    assert measured.lost == found.lost == 0.25
    assert measured.keeps == "above" and measured.sees == ("blank image",)
    assert (measured.threshold, measured.yielded) == (10, 1)  # beside blank ones; it does not see blurred ones
    assert found.images == {"blank image": 2, "blurred image": 2} and found.good == 4


def test_directions():
    below, between, unknown, free = (
        calibration.calibrate({"n": number(**limits)}, ITEMS, 1).measures[0]
        for limits in ({"max": 35}, {"min": 15, "max": 35}, {}, {"min": -1e30})
    )
    assert below.keeps == "below" and below.auroc == {"blank image": 0, "blurred image": 6 / 8}
    assert below.sees == ("blurred image",) and (below.threshold, below.yielded) == (20, 0.5)
    assert between.keeps == "between" and between.threshold is None
    # Margins of the good: -5, 5, 5, -5; of the blurred: 10, -15.
    assert between.auroc == {"blank image": 1, "blurred image": 0.5}
    assert unknown.keeps == "unknown" and unknown.lost == 0
    assert (unknown.auroc, unknown.threshold) == (free.auroc, free.threshold)


def test_what_cannot_be_measured_is_the_worst():
    for limits in ({"min": 15}, {"max": 35}, {"min": 1, "max": 90}):
        (measured, _) = calibration.calibrate(
            {"n": number(**limits)}, [item([20]), item([255], "blank image")], 1
        ).measures
        assert measured.auroc == {"blank image": 1} and measured.caught == {"blank image": 1}


def test_measures_of_instances_by_hand():
    items = [
        item([10, 20]),
        item([30, 5], "cut mask", (1,)),  # the 30 is good
        item([15, 12], "blank image"),  # all of it is bad
        item([], "unlabelled thing"),
    ]
    found = calibration.calibrate({"n": number(Each, min=11)}, items, 0.6)
    (measured, _) = found.measures
    assert measured.auroc == {"cut mask": 1, "blank image": 4 / 6}
    assert measured.caught == {"cut mask": 1, "blank image": 0, "unlabelled thing": 0}
    assert measured.lost == 1  # one of its two fails
    assert (measured.sees, measured.threshold, measured.yielded) == (("cut mask",), 5, 1)


def test_a_duplicate_is_caught_when_either_fails():
    """Places 1 and 3, and 2 and 4, are twins; 20 fails by its number, so its twin stays, once."""
    items = [
        item([9]),
        item([20]),
        item([30]),
        item([20], "duplicate", twin=1),
        item([30], "duplicate", twin=2),
        item([30]),
    ]
    repeated = Repeated(FilterConfig(use="r"), ())
    found = calibration.calibrate({"n": number(min=25), "r": repeated}, items, 1)
    by_number, by_repeat, _ = found.measures
    assert by_number.caught == {"duplicate": 0.5} and by_repeat.caught == {"duplicate": 1}
    assert by_number.lost == 2 / 4 and by_repeat.lost == 1 / 4
    assert (by_repeat.auroc, by_repeat.keeps, by_repeat.threshold) == ({}, "", None)
    assert found.caught == {"duplicate": 1}
    assert found.lost == 3 / 4
    alone = calibration.calibrate({"n": number(max=25)}, [items[2], item([20], "duplicate", twin=0)], 1)
    assert alone.caught == {"duplicate": 1}  # its twin fails, so one of them stays


def test_an_empty_mask_fails_without_a_filter():
    lost = item([1, 2], "blank image")
    lost.sample.instances.masks[1] = False
    found = calibration.calibrate({}, [item([1]), lost], 1)
    assert found.caught == {"blank image": 1} and found.lost == 0
    assert [m.name for m in findings.catchers(found, "blank image")] == ["empty_mask"]


def test_nothing_at_all():
    found = calibration.calibrate({"n": number(min=1)}, [], 0.9)
    assert (found.images, found.good, found.lost) == ({}, 0, 0)
    assert findings.headline(found) == "no image is faulty and no image is good"
    assert len(list(findings.tables(found))) > 3


def test_a_filter_with_the_wrong_shape_is_named():
    class Wrong(Number):
        def measure(self, sample: Sample) -> Any:
            return np.zeros(3, np.float32)

    with pytest.raises(BackendError, match=r"filters\.mine: measured an array of shape \(3,\) for 1 instances"):
        calibration.calibrate({"mine": number(Wrong)}, [item([1])], 1)


def test_images_are_streamed():
    alive = 0

    def items() -> Any:
        import weakref

        nonlocal alive
        seen: list[Any] = []
        for value in range(20):
            one = item([value])
            seen.append(weakref.ref(one.sample.image))
            yield one
            del one
            alive = max(alive, sum(ref() is not None for ref in seen))

    calibration.calibrate({"n": number(min=3)}, items(), 1)
    assert alive <= 2


def test_composed_scenes_are_the_same_again_and_only_of_the_spec_s_classes():
    spec = spec_of(classes=["tree", "unicorn", {"name": "ball", "synonyms": ["sports ball"]}])
    first, again, other = (truths.composed(spec, 6, seed) for seed in (1, 1, 2))
    assert first.count == 6 and first.left_out == ("unicorn",)
    images = list(first.images)
    assert len(images) == 6
    for a, b in zip(images, again.images, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.masks, b.masks)
        assert a.image.shape == (64, 64, 3) and a.masks.any((1, 2)).all() and len(a.masks) == len(a.category_id)
        assert a.ground in BACKGROUNDS
    assert {int(i) for a in images for i in a.category_id} == {1, 3}
    assert not np.array_equal(images[0].image, next(other.images).image)


def test_classes_that_cannot_be_composed():
    with pytest.raises(SpecError, match=r"classes: none of them can be composed; takes --truth .* apple, orange"):
        truths.composed(spec_of(classes=["unicorn"]), 5, 0)


@pytest.fixture
def coco(tmp_path: Path) -> dict[str, Any]:
    """A COCO file as plain data, and its images: the third has none of the spec's classes."""
    (tmp_path / "images").mkdir()
    sizes = {11: (40, 60), 7: (30, 50), 9: (20, 20)}
    for image_id, (height, width) in sizes.items():
        pixels = np.full((height, width, 3), (image_id, 100, 200), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{image_id}.png")
    square = np.zeros((1, 40, 60), bool)
    square[0, 10:20, 30:50] = True

    def annotation(number: int, image_id: int, category_id: int, segmentation: Any, **more: Any) -> dict[str, Any]:
        own = {"id": number, "image_id": image_id, "category_id": category_id, "segmentation": segmentation}
        return {**own, "bbox": [0, 0, 1, 1], "area": 1, "iscrowd": 0, **more}

    box = [[5.0, 5.0, 25.0, 5.0, 25.0, 15.0, 5.0, 15.0]]
    return {
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": height, "width": width} for i, (height, width) in sizes.items()
        ],
        "categories": [
            {"id": 3, "name": "Apple"}, {"id": 5, "name": "car"}, {"id": 8, "name": "fir"}, {"id": 9, "name": "dog"}
        ],
        "annotations": [
            annotation(1, 11, 3, encode_rle(square)[0]),
            annotation(2, 11, 8, box),
            annotation(3, 11, 5, box),
            annotation(4, 11, 3, encode_rle(~square)[0], iscrowd=1),
            annotation(5, 7, 3, box),
            annotation(6, 9, 9, box),
        ],
    }  # fmt: skip


def read(tmp_path: Path, data: Any, count: int = 9) -> Truths:
    file = tmp_path / "truth.json"
    file.write_text(data if isinstance(data, str) else json.dumps(data))
    spec = spec_of(classes=["apple", "orange", {"name": "tree", "synonyms": ["fir"]}])
    return truths.from_coco(spec, file, tmp_path / "images", count)


def test_a_coco_file_is_read(coco, tmp_path):
    found = read(tmp_path, coco)
    assert found.count == 2 and found.left_out == ("orange",)
    first, second = found.images
    assert first.image.shape == (30, 50, 3) and first.image[0, 0].tolist() == [7, 100, 200]
    assert first.category_id.tolist() == [1] and first.masks.sum() == 200
    assert second.category_id.tolist() == [1, 3]  # no car, no crowd
    assert second.masks.shape == (2, 40, 60) and second.masks[0, 10:20, 30:50].all() and second.masks[0].sum() == 200
    assert read(tmp_path, coco, 1).count == 1 and len(list(read(tmp_path, coco, 1).images)) == 1


def test_masks_without_pixels_are_left_out(coco, tmp_path):
    coco["annotations"][1]["segmentation"] = encode_rle(np.zeros((1, 40, 60), bool))[0]
    assert list(read(tmp_path, coco).images)[1].category_id.tolist() == [1]


def test_a_missing_image_is_named(coco, tmp_path):
    (tmp_path / "images" / "11.png").unlink()
    with pytest.raises(SpecError, match=r"--images: there is no image '.*11\.png', which truth\.json names"):
        read(tmp_path, coco)


def test_damaged_and_resized_images_are_named(coco, tmp_path):
    (tmp_path / "images" / "7.png").write_bytes(b"no image")
    with pytest.raises(SpecError, match=r"--images: cannot read '.*7\.png'"):
        list(read(tmp_path, coco).images)
    Image.new("RGB", (10, 20)).save(tmp_path / "images" / "7.png")
    with pytest.raises(SpecError, match=r"7\.png' has 10x20 px, and 50x30 px in truth\.json"):
        list(read(tmp_path, coco).images)


def test_foreign_classes(coco, tmp_path):
    coco["annotations"] = coco["annotations"][-1:]
    with pytest.raises(SpecError, match="--truth: has no instance of the spec's classes; its categories: Apple, car"):
        read(tmp_path, coco)


def test_an_object_without_a_mask_is_left_out_and_counted(coco, tmp_path):
    """The others of its image stay; an image of which none stays makes room for the next one."""
    apple, *_ = coco["annotations"]
    spoilt = [
        {"keypoints": [5, 5, 2], "num_keypoints": 1},
        {"segmentation": []},
        {"segmentation": [[5, 5, 9, 9]]},
        {"segmentation": {**apple["segmentation"], "size": [60, 40]}},
        {"category_id": 77},
    ]
    for number, change in enumerate(spoilt):
        left = {key: value for key, value in apple.items() if key != "segmentation" or "keypoints" not in change}
        coco["annotations"].append({**left, "id": 100 + number, **change})
    coco["annotations"][4]["segmentation"] = None  # the only one of image 7, which is the first
    found = read(tmp_path, coco, 1)
    assert found.count == 1 and found.unusable == {
        "no segmentation": 3,
        "a polygon of fewer than 3 corners, or half a corner": 1,
        "RLE of another size than the image's": 1,
        "a category that the file does not have": 1,
    }
    assert truths.objects_left_out(found.unusable).startswith("objects left out: 6, of them 3 with no segmentation, 1 ")
    (only,) = found.images
    assert only.category_id.tolist() == [1, 3] and only.masks.sum((1, 2)).tolist() == [200, 200]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{", "cannot read '.*': Expecting property name"),
        ("[]", "is no COCO file with `images`, `annotations` and `categories`"),
        ({"images": []}, "is no COCO file with"),
        ({"images": [], "annotations": [{"id": 1}], "categories": []}, "is no COCO file with"),
        ({"images": [], "annotations": [], "categories": []}, "its categories: none"),
    ],
)
def test_files_that_are_no_coco(data, message, tmp_path):
    with pytest.raises(SpecError, match=f"--truth: .*{message}"):
        read(tmp_path, data)


def test_no_file(tmp_path):
    with pytest.raises(SpecError, match=r"--truth: cannot read '.*nowhere\.json': .*No such file"):
        truths.from_coco(spec_of(), tmp_path / "nowhere.json", tmp_path, 3)


def test_an_export_is_truth(finished, tmp_path):
    """Of a run of ours, without more being said."""
    root = finished.run.root / "coco"
    files = [f for f in sorted((root / "annotations").glob("instances_*.json")) if json.loads(f.read_bytes())["images"]]
    made = 0
    for file in files:
        if not json.loads(file.read_bytes())["annotations"]:
            continue
        read = truths.from_coco(finished.spec, file, root / file.stem.removeprefix("instances_"), 99)
        for one in read.images:
            made += 1
            assert one.image.shape == (128, 128, 3) and one.masks.any((1, 2)).all()
    assert made > 2


def test_only_what_is_used_is_checked():
    spec = spec_of(generator={"model": "nobody/nothing"}, segmenter={"model": "./nowhere"})
    with pytest.raises(SpecError) as told:
        calibration.checked_stages(spec)
    assert [p.field for p in told.value.problems] == ["segmenter.model"]
    calibration.checked_stages(spec_of(generator={"model": "nobody/nothing"}))


def test_filters_of_scores_of_the_grounder_are_left_out():
    """A calibration knows where things are, and has no grounder."""
    spec = spec_of(filters={"class_margin": None, "box_agreement": None})
    assert list(calibration.checked_stages(spec).filters) == ["box_agreement"]


def full() -> Calibration:
    """One with every kind of fault, and a filter with a long name."""
    area = {kind: 0.5 + i / 14 for i, kind in enumerate(faults.KINDS)}
    caught = {kind: i / 7 for i, kind in enumerate(faults.KINDS)}
    measures = [
        Measured("near_duplicate_embedding", "", {}, caught, 0.02),
        Measured("predicted_iou", "above", area, caught, 0.01, ("duplicate",), 0.0001234, 0.875),
        Measured("touches_border", "unknown", area, caught, 0, ("duplicate",), -12345.6, 1.0),
        Measured("mask_area", "between", area, caught, 0),
        Measured("[red]mine", "below", area, caught, 0, ("duplicate",), 0.25, 0.5),
        Measured("empty_mask", "", {}, caught, 0),
    ]
    return Calibration(measures, caught, 0.03, dict.fromkeys(faults.KINDS, 12), 100, 0.95)


@pytest.mark.parametrize("width", [findings.WIDTH, 80])
def test_tables_fit(width, capsys):
    console = Console(width=width)
    for part in findings.tables(full()):
        console.print(part, highlight=False)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= width
    assert "…" not in out
    if width == findings.WIDTH:
        rows = {line.split()[0]: line for line in out.splitlines() if line.strip()}
        assert rows["predicted_iou"].split()[1:] == [
            "0.50", "0.57", "0.64", "0.71", "0.79", "0.86", "0.93", "1.00", "1%", "≥", "0.000123", "88%"
        ]  # fmt: skip
        assert rows["[red]mine"].split()[-3:] == ["≤", "0.25", "50%"]
        assert rows["touches_border"].split()[1] == "*" and "*: the spec sets neither `min` nor `max`" in out
        assert rows["mask_area"].split()[1] == "↔" and rows["mask_area"].split()[-2:] == ["·", "·"]
        # All catch as much; those that lose no good image are named.
        assert rows["duplicate"].split() == ["duplicate", "12", "71%", "touches_border", "71%,", "mask_area", "71%"]
        assert rows["none:"].split()[3:] == ["100", "3%", "near_duplicate_embedding", "2%,", "predicted_iou", "1%"]


def test_headline_and_data():
    found = full()
    assert findings.headline(found) == "the filters catch 50% of 96 faulty images and lose 3% of 100 good ones"
    data = orjson.loads(orjson.dumps(findings.as_data(found)))
    assert data["faults"]["duplicate"] == {"images": 12, "caught": 5 / 7}
    assert data["measures"]["predicted_iou"]["threshold"] == 0.0001234
    assert data["measures"]["touches_border"]["keeps"] == "unknown"
    assert data["good"] == {"images": 100, "lost": 0.03}


def test_progress(monkeypatch, capsys):
    seconds = 0

    def items():
        nonlocal seconds
        for _ in range(9):
            seconds += 4
            yield one

    one = item([1])
    monkeypatch.setattr(findings.time, "monotonic", lambda: seconds)
    assert list(findings.with_progress(items(), 9, Console())) == [one] * 9
    assert capsys.readouterr().out.splitlines() == [
        "4/9 images (0.2/s)",
        "8/9 images (0.2/s)",
        "9/9 images (0.2/s)",
    ]
    assert len(list(findings.with_progress([one] * 3, 3, Console(force_terminal=True, width=100)))) == 3
    assert "3/3" in capsys.readouterr().out


def test_a_whole_calibration(good, tmp_path):
    """The embedded models on composed scenes."""
    filters = {
        "asked_found": None, "stability": None, "box_agreement": None, "class_agreement": None, "sharpness": {"min": 8},
        "near_duplicate": None, "touches_border": None,
    }  # fmt: skip
    spec = DatasetSpec.parse({**deepcopy(good), "filters": filters})
    stages = calibration.checked_stages(spec)
    drawn = truths.composed(spec, 40, 0)
    found = calibration.calibrate(stages.filters, faults.plant(spec, stages.segmenter, drawn, 0.6, 0), 0.9)
    assert sum(found.images.values()) + found.good == 40
    assert set(FAULTS) <= set(found.images)
    measured = {m.name: m for m in found.measures}
    assert list(measured) == [*filters, "empty_mask"]
    assert measured["class_agreement"].auroc["swapped class"] > 0.9
    assert measured["box_agreement"].auroc["cut mask"] > 0.9
    assert measured["sharpness"].auroc["blurred image"] > 0.8
    assert measured["near_duplicate"].caught["duplicate"] == 1
    assert measured["near_duplicate"].lost == 0
    assert found.caught["blank image"] == 1
    assert found.lost < 0.35
    assert measured["touches_border"].keeps == "unknown"
    for m, n in pairwise(sorted(found.measures, key=lambda m: m.lost)):
        assert m.lost <= n.lost <= found.lost


def test_what_is_left_out_is_said(good, coco, tmp_path, synthgen, spec_file):
    del coco["annotations"][4]["segmentation"]
    (tmp_path / "truth.json").write_text(json.dumps(coco))
    (tmp_path / "nothing.json").write_text(json.dumps({**coco, "annotations": [coco["annotations"][4]]}))
    spec, more = spec_file(good), ("--images", tmp_path / "images", "--json", tmp_path / "numbers.json")
    code, out, err = synthgen("calibrate", spec, "--truth", tmp_path / "nothing.json", *more)
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        "error: --truth: nothing.json has nothing to calibrate on; objects left out: 1, of them 1 with no segmentation"
    ]
    code, out, _ = synthgen("calibrate", spec, "--truth", tmp_path / "truth.json", *more)
    assert code == 0 and "objects left out: 1, of them 1 with no segmentation" in out.splitlines()
    assert json.loads((tmp_path / "numbers.json").read_bytes())["left_out"] == {"no segmentation": 1}


@pytest.mark.parametrize(
    ("said", "ground"),
    [("a photo of a cat on grass", "grass"), ("a photo of a cat", ""), (None, ""), ("a cat on a mat on sand", "sand")],
)
def test_ground_of_an_export_s_prompt(said, ground):
    assert truths.ground_of(said) == ground
