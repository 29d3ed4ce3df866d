"""Everything in an image: the steps by hand, with a SAM of the real class, tiny and random, and with the embedded
models on composed scenes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from synthgen import devices, models
from synthgen.errors import Problem
from synthgen.masks import mask_boxes, mask_iou
from synthgen.mini import scenes
from synthgen.mini.backgrounds import BACKGROUNDS, draw_background
from synthgen.mini.training import sam as training_sam
from synthgen.models import clip, discovery
from synthgen.models.discovery import Discovery, DiscoveryConfig
from synthgen.models.sam.model import Embedded, SamModel
from synthgen.types import Category

SHAPE = models.SamShape(
    image_size=32, patch_size=8, embed_dim=16, depth=1, num_heads=2, global_attn_indexes=(0,), window_size=0,
    prompt_embed_dim=16, mlp_dim=16, iou_head_hidden_dim=16,
)  # fmt: skip
CATEGORIES = (Category(1, "cat", ("kitten",)), Category(2, "dog"))
ALL: dict[str, Any] = {"predicted_iou": -99.0, "stability_score": 0.0, "nms_iou": 1.0}


@pytest.fixture(autouse=True)
def forget_others() -> Iterator[None]:
    yield
    devices.forget(key for key in devices.loaded() if str(models.MINI) not in str(key))


def save_sam(folder: Path, seed: int = 3) -> Path:
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    save_file(training_sam.build(SHAPE).state_dict(), folder / "model.safetensors")
    card = models.ModelCard(sam=SHAPE, weights="model.safetensors")
    (folder / "synthgen.json").write_text(card.model_dump_json(exclude_none=True))
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sam(tmp_path_factory.mktemp("sam") / "tiny")


def drawn(height: int, width: int) -> np.ndarray[Any, Any]:
    image = np.full((height, width, 3), (110, 120, 130), np.uint8)
    image[height // 4 : height // 2, width // 4 : width // 2] = (250, 200, 40)
    image[height // 2 :, width * 2 // 3 :] = (30, 40, 90)
    return image


def config(**options: Any) -> DiscoveryConfig:
    return DiscoveryConfig(use="everything", **options)


def problems(*, categories: tuple[Category, ...] = CATEGORIES, **options: Any) -> list[Problem]:
    both = Discovery(config(**options), categories).models()
    return [problem for model in both for problem in model.problems()]


# The steps


def test_suppression_by_hand() -> None:
    masks = torch.zeros(4, 10)
    masks[0, :6] = masks[1, 1:6] = masks[2, 4:10] = masks[3, 4:10] = 1
    # IoU of the first with the others: 5/6, 2/10, 2/10; the last two are equal.
    assert discovery.suppress(masks, 0.7).tolist() == [0, 2]
    assert discovery.suppress(masks, 0.9).tolist() == [0, 1, 2]
    assert discovery.suppress(masks, 0.1).tolist() == [0]
    assert discovery.suppress(masks, 1.0).tolist() == [0, 1, 2, 3]
    # What a suppressed one suppresses stays: greedy.
    chain = torch.zeros(3, 10)
    chain[0, :5] = chain[1, 1:6] = chain[2, 3:8] = 1  # 4/6, 3/7; 2/8
    assert discovery.suppress(chain, 0.4).tolist() == [0, 2]
    assert discovery.suppress(masks[:0], 0.7).tolist() == []


def test_the_surer_of_a_whole_and_its_part_stays() -> None:
    masks = np.zeros((4, 10, 10), bool)
    masks[0, :4, :4] = masks[1, :8, :8] = True  # a part, surer than the whole
    masks[2, 5:, 5:] = True  # 9 of its 25 px lie in the whole
    masks[3, 5:7, 5:7] = True  # in both of the latter
    assert discovery.without_parts(masks) == [0, 2]
    assert discovery.without_parts(masks[[1, 0, 2, 3]]) == [0, 2]
    assert discovery.without_parts(masks[[3, 0]]) == [0, 1]
    assert discovery.without_parts(masks[:0]) == []


@pytest.mark.parametrize("size", [(10, 10), (8, 20), (20, 8)])
def test_ground_reaches_three_borders(size: tuple[int, int]) -> None:
    masks = np.zeros((6, *size), bool)
    masks[0] = True
    masks[1, -3:] = True  # left, right and bottom
    masks[2, -3:, 1:] = True  # a thing in a corner
    masks[3, :, 3:5] = True  # a mast, from above to below
    masks[4, 2:4, 2:4] = True
    assert discovery.is_ground(masks).tolist() == [True, True, False, False, False, False]
    assert discovery.is_ground(masks[:0]).tolist() == []


@pytest.mark.parametrize(
    ("size", "wanted"), [((128, 128), (8, 8)), ((64, 128), (4, 8)), ((128, 40), (8, 3)), ((3, 128), (1, 8))]
)
def test_padding_is_at_the_right_and_the_bottom(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    """Of 32 px a side; logits of 8."""
    input_size = tuple(round(length * 32 / 128) for length in size)
    logits = torch.arange(64.0).view(1, 8, 8)
    left = discovery.without_padding(logits, Embedded(None, input_size, size), 32)
    assert tuple(left.shape[1:]) == wanted
    assert torch.equal(left[0], logits[0, : wanted[0], : wanted[1]])


def test_specks_go() -> None:
    mask = np.zeros((20, 30), bool)
    mask[2:12, 2:12] = True
    mask[12, 12] = True  # touches the largest by a corner
    mask[15:19, 20:24] = mask[0, 29] = mask[19, 2:11] = True  # 16, 1 and 9 px beside 101
    wanted = mask.copy()
    wanted[0, 29] = wanted[19, 2:11] = False
    np.testing.assert_array_equal(discovery.without_specks(mask), wanted)
    np.testing.assert_array_equal(discovery.without_specks(~np.zeros((3, 3), bool)), np.ones((3, 3), bool))


# Proposals


@pytest.mark.parametrize("size", [(32, 32), (20, 50), (90, 41), (128, 64)])
def test_proposals_are_the_answers_at_the_points(
    tiny: Path, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "SPECK", 0.0)
    height, width = size
    model = SamModel.of(str(tiny), None, "cpu", "auto")
    (embedded,) = model.embed([drawn(*size)])
    found = discovery.propose(model, embedded, points_per_side=2, **ALL)
    assert found.masks.dtype == bool and found.masks.shape[1:] == size
    assert len(found.masks) == len(found.predicted_iou) == len(found.stability_score) > 0
    assert (np.diff(found.predicted_iou) <= 0).all()
    assert ((found.stability_score >= 0) & (found.stability_score <= 1)).all()
    asked = np.array([[x * width, y * height] for y in (0.25, 0.75) for x in (0.25, 0.75)], np.float32)
    answer = model.by_points(embedded, asked, multimask=True)
    theirs = model.masks(embedded, answer.logits.flatten(0, 1)).masks
    kept = [tuple(mask.ravel()) for mask in theirs if mask.any()]
    assert {tuple(mask.ravel()) for mask in found.masks} <= set(kept)
    order = {round(float(s), 5) for s in answer.predicted_iou.flatten()}
    assert {round(float(s), 5) for s in found.predicted_iou} <= order
    assert len(found.masks) >= len(set(kept)) - 1  # equal ones at the decoder's resolution may differ by a pixel


def test_thresholds_and_suppression_of_proposals(tiny: Path) -> None:
    model = SamModel.of(str(tiny), None, "cpu", "auto")
    (embedded,) = model.embed([drawn(48, 64)])
    everything = discovery.propose(model, embedded, points_per_side=4, **ALL)
    least = float(np.median(everything.predicted_iou))
    sure = discovery.propose(model, embedded, points_per_side=4, **{**ALL, "predicted_iou": least})
    assert 0 < len(sure.masks) < len(everything.masks) and (sure.predicted_iou >= least).all()
    stable = float(np.median(everything.stability_score))
    steady = discovery.propose(model, embedded, points_per_side=4, **{**ALL, "stability_score": stable})
    assert 0 < len(steady.masks) <= len(everything.masks) and (steady.stability_score >= stable).all()
    few = discovery.propose(model, embedded, points_per_side=4, **{**ALL, "nms_iou": 0.0})
    assert len(few.masks) < len(everything.masks)
    np.testing.assert_array_equal(few.masks[0], everything.masks[0])


@pytest.mark.parametrize("points_per_side", [1, 9])  # 81 points: two calls of the decoder
def test_no_proposals(tiny: Path, points_per_side: int) -> None:
    model = SamModel.of(str(tiny), None, "cpu", "auto")
    (embedded,) = model.embed([drawn(20, 50)])
    found = discovery.propose(model, embedded, points_per_side=points_per_side, **{**ALL, "predicted_iou": 99})
    assert found.masks.shape == (0, 20, 50) and found.masks.dtype == bool
    assert found.predicted_iou.shape == found.stability_score.shape == (0,)


# The official generator


@pytest.mark.parametrize(
    ("size", "predicted_iou", "stability_score", "nms_iou"),
    [((256, 256), 0.7, 0.5, 0.7), ((200, 320), 0.8, 0.8, 0.7), ((130, 320), 0.5, 0.3, 0.5)],
)
def test_official_proposals_are_those_of_the_official_generator(
    size: tuple[int, int], predicted_iou: float, stability_score: float, nms_iou: float
) -> None:
    from segment_anything import SamAutomaticMaskGenerator

    model = SamModel.of("mini", None, "cpu", "float32")
    generator = SamAutomaticMaskGenerator(
        model.network.sam, points_per_side=9, pred_iou_thresh=predicted_iou, stability_score_thresh=stability_score,
        box_nms_thresh=nms_iou,
    )  # fmt: skip
    scene = scenes.draw(np.random.default_rng([2**40, 94, 3]), size=320)
    image = np.ascontiguousarray(scene.image[: size[0], : size[1]])
    theirs = generator.generate(image)
    ours = discovery.propose(
        model, model.embed([image])[0], points_per_side=9, predicted_iou=predicted_iou,
        stability_score=stability_score, nms_iou=nms_iou, proposals="official",
    )  # fmt: skip
    assert len(theirs) == len(ours.masks) > 0
    for one, mask, iou, stability in zip(theirs, ours.masks, ours.predicted_iou, ours.stability_score, strict=True):
        np.testing.assert_array_equal(mask, one["segmentation"])
        assert iou == pytest.approx(one["predicted_iou"], abs=1e-6)
        assert stability == pytest.approx(one["stability_score"], abs=1e-6)


def test_few_official_masks_are_scaled_to_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    scaled = []
    masks = SamModel.masks
    monkeypatch.setattr(SamModel, "masks", lambda *args: scaled.append(1) or masks(*args))
    model = SamModel.of("mini", None, "cpu", "float32")
    image = scenes.draw(np.random.default_rng([2**40, 94, 3]), size=320).image
    found = discovery.propose(
        model, model.embed([image])[0], points_per_side=9, predicted_iou=0.7, stability_score=0.5, nms_iou=0.7,
        proposals="official",
    )  # fmt: skip
    assert 0 < len(found.masks) <= len(scaled) < 81 * 3 / 4


def test_rough_boxes_are_near_those_of_the_masks() -> None:
    model = SamModel.of("mini", None, "cpu", "float32")
    image = np.ascontiguousarray(scenes.draw(np.random.default_rng([2**40, 94, 3]), size=320).image[:200])
    (embedded,) = model.embed([image])
    points = np.array([[x, y] for y in (40, 100, 160) for x in (40, 120, 200, 280)], np.float32)
    logits = model.by_points(embedded, points, multimask=True).logits.flatten(0, 1)
    masks = model.masks(embedded, logits).masks
    there = masks.any((1, 2))
    true = (mask_boxes(masks) - discovery.UPSTREAM_BOX)[there]
    rough = discovery.rough_boxes(model, embedded, logits)[there]
    assert (rough[:, :2] <= true[:, :2]).all() and (rough[:, 2:] >= true[:, 2:]).all()
    assert (np.median(abs(rough - true), 0) <= 1).all()  # what is thinner than a pixel is lost in scaling, and not here


def test_no_official_proposals(tiny: Path) -> None:
    model = SamModel.of(str(tiny), None, "cpu", "float32")
    (embedded,) = model.embed([drawn(20, 50)])
    options = {**ALL, "predicted_iou": 99, "proposals": "official"}
    found = discovery.propose(model, embedded, points_per_side=2, **options)
    assert found.masks.shape == (0, 20, 50) and found.masks.dtype == bool
    assert found.predicted_iou.shape == found.stability_score.shape == (0,)


# Names

# Texts as angles in a plane; pictures are what their first pixel says, in degrees.
ANGLES = {"a photo of a cat": 0, "a photo of a kitten": 40, "a photo of a dog": 120, "a puddle": 70, "pet: cat": 10}
ANGLES |= {"pet: kitten": 10, "pet: dog": 120}


class Flat:
    """A CLIP of a plane."""

    def pictures(self, images: Any, at_once: int = 64) -> Any:
        angles = np.radians([float(image[0, 0, 0]) for image in images])
        return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)

    def texts(self, texts: Any, at_once: int = 64) -> Any:
        angles = np.radians([ANGLES[text] for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)

    cached_texts = texts


@pytest.fixture
def flat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip.ClipModel, "of", lambda config: Flat())


def fields(*angles: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """An image of fields beside each other, of 30x30 px, with a mask in each; their first number is an angle."""
    image = np.zeros((30, 30 * len(angles), 3), np.uint8)
    masks = np.zeros((len(angles), *image.shape[:2]), bool)
    for i, angle in enumerate(angles):
        image[:, 30 * i : 30 * i + 30, 0] = angle
        masks[i, 10:20, 30 * i + 8 : 30 * i + 22] = True
    return image, masks


def proposed(masks: np.ndarray[Any, Any], *predicted_iou: float) -> discovery.Proposals:
    """Masks that SAM is as sure of; 1 where nothing is said."""
    iou = np.array(predicted_iou or [1.0] * len(masks), np.float32)
    return discovery.Proposals(masks, iou, np.ones(len(masks), np.float32))


def test_names_are_those_of_the_nearest_words(flat: None) -> None:
    image, masks = fields(20, 110, 50, 80)
    found = Discovery(config(agreement=0.8), CATEGORIES).name(image, proposed(masks))
    # 20 degrees from the cat; 10 from the dog; 10 from the kitten, a cat; 40 from both, which is too far.
    np.testing.assert_allclose(found.agreement, np.cos(np.radians([10, 10, 20])), atol=1e-6)
    assert found.category_id.tolist()[2] == 1 and sorted(found.category_id.tolist()) == [1, 1, 2]
    assert (found.category_id.dtype, found.agreement.dtype, found.boxes.dtype) == (np.int64, np.float32, np.float32)
    for mask, box, kind in zip(found.masks, found.boxes, found.category_id, strict=True):
        np.testing.assert_array_equal(mask_boxes(mask[None])[0], box)
        assert (mask == masks[1]).all() == (kind == 2)
    assert len(Discovery(config(agreement=0.7), CATEGORIES).name(image, proposed(masks)).masks) == 4
    assert len(Discovery(config(agreement=0.8), CATEGORIES[1:]).name(image, proposed(masks)).masks) == 1


def test_what_is_rather_something_else_is_left_out(flat: None) -> None:
    image, masks = fields(50, 60)
    found = Discovery(config(agreement=0.8, others=("a puddle",)), CATEGORIES).name(image, proposed(masks))
    assert found.category_id.tolist() == [1] and (found.masks[0] == masks[0]).all()  # 60 is 10 from the puddle


def test_the_prompt_is_the_user_s(flat: None) -> None:
    image, masks = fields(10)
    found = Discovery(config(agreement=0.99, prompt="pet: {}"), CATEGORIES).name(image, proposed(masks))
    assert found.agreement.tolist() == [pytest.approx(1)]


def test_ground_has_no_name_and_parts_go(flat: None) -> None:
    image, masks = fields(0, 5)
    ground = np.ones((1, *masks.shape[1:]), bool)
    part = masks[:1].copy()
    part[:, :, 15:] = False
    found = Discovery(config(), CATEGORIES).name(image, proposed(np.concatenate([ground, masks, part])))
    assert len(found.masks) == 2
    np.testing.assert_array_equal(found.masks[0], masks[0])  # as sure as its part, and named before it


@pytest.mark.parametrize(("whole", "part", "stays"), [(0.8, 0.9, "part"), (0.9, 0.8, "whole"), (-0.1, 0.1, "part")])
def test_of_equally_well_named_masks_the_cleaner_one_stays(flat: None, whole: float, part: float, stays: str) -> None:
    image, masks = fields(0, 40)
    small = masks[:1].copy()
    small[:, :, 15:] = False
    all_masks = np.concatenate([masks, small])
    found = Discovery(config(agreement=0.7), CATEGORIES).name(image, proposed(all_masks, whole, 0.1, part))
    assert len(found.masks) == 2 and (np.diff(found.agreement) <= 0).all()
    kept = max(found.masks, key=lambda mask: mask[:, :30].sum())
    np.testing.assert_array_equal(kept, {"whole": masks[0], "part": small[0]}[stays])


def test_nothing_to_name(flat: None) -> None:
    found = Discovery(config(), CATEGORIES).name(drawn(20, 30), proposed(np.zeros((0, 20, 30), bool)))
    assert found.masks.shape == (0, 20, 30) and found.boxes.shape == (0, 4)
    assert found.category_id.shape == found.agreement.shape == (0,)
    assert found.category_id.dtype == np.int64 and found.agreement.dtype == np.float32


def test_find_goes_through_batches_of_any_sizes(flat: None, tiny: Path) -> None:
    sizes = [(32, 32), (20, 50), (64, 24)]
    options = {"model": str(tiny), "device": "cpu", "predicted_iou": 0, "stability_score": 0, "agreement": -1}
    images = [drawn(*size) for size in sizes]
    together = Discovery(config(batch_size=2, points_per_side=3, **options), CATEGORIES).find(images)
    assert [f.masks.shape[1:] for f in together] == sizes
    for image, found in zip(images, together, strict=True):
        (alone,) = Discovery(config(points_per_side=3, **options), CATEGORIES).find([image])
        assert len(alone.masks) == len(found.masks)
    assert Discovery(config(**options), CATEGORIES).find([]) == []


# Models


def test_models_that_are_not_here() -> None:
    told = problems(model="vit_h", clip="openai/clip-vit-base-patch32")
    assert [problem.field for problem in told] == [".model", ".clip"]
    assert told[0].message.endswith("fetch it with: synthgen models --download vit_h")
    assert told[1].message.endswith("fetch it with: synthgen models --download openai/clip-vit-base-patch32")
    told = problems(model="./no", clip="./nowhere")
    assert [problem.field for problem in told] == [".model", ".clip"]
    assert all("does not exist; it takes `mini`, a folder or file, or a" in problem.message for problem in told)
    (told,) = problems()
    assert told.field == ".clip" and told.message.startswith("'mini' does not know 'kitten' (did you mean 'kite'?)")
    assert not problems(categories=CATEGORIES[1:])


def test_folders_that_are_no_models(tmp_path: Path) -> None:
    told = problems(model=str(tmp_path), clip=str(tmp_path))
    assert [problem.field for problem in told] == [".model", ".clip"]
    assert "has no card of a SAM" in told[0].message and "no config.json" in told[1].message


def test_identity_is_of_both_weights(tiny: Path, tmp_path: Path) -> None:
    def identity(**options: Any) -> str:
        return " ".join(model.identity() for model in Discovery(config(**options), CATEGORIES).models())

    other = tmp_path / "clip"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "clip"}')
    (other / "model.safetensors").write_bytes(b"other")
    found = {
        identity(),
        identity(model=str(tiny)),
        identity(model=str(save_sam(tmp_path / "sam", 4))),
        identity(clip=str(other)),
    }
    assert len(found) == 4
    assert identity(points_per_side=3) == identity()
    assert all(len(part) == 64 for part in identity().split())


def test_weights_are_no_part_of_the_fingerprint() -> None:
    plain = config().fingerprint()
    assert config(model="vit_h", clip="other", device="cpu", batch_size=1).fingerprint() == plain
    for changed in (
        {"points_per_side": 9},
        {"agreement": 0.4},
        {"others": ["a puddle"]},
        {"prompt": "a {}"},
        {"proposals": "official"},
    ):
        assert config(**changed).fingerprint() != plain
    assert config(proposals="official").fingerprint() != plain


def test_licences_are_of_both() -> None:
    found = [licence for model in Discovery(config(), CATEGORIES).models() for licence in model.licences()]
    assert len(found) == 2 and all(name and url.startswith("https://") for name, url in found)


# With the embedded models


def test_composed_scenes_are_found_and_named() -> None:
    categories = tuple(Category(i, name) for i, name in enumerate(scenes.CLASSES, 1))
    rng = np.random.default_rng([2**40, 91])
    drawn = [scene for _ in range(14) if (scene := scenes.draw(rng, occlusion=False)).things][:12]
    found = Discovery(config(), categories).find([scene.image for scene in drawn])
    things = right = named = 0
    for scene, one in zip(drawn, found, strict=True):
        overlap = mask_iou(scene.masks, one.masks) if len(one.masks) else np.zeros((len(scene.masks), 0))
        named += len(one.masks)
        for thing, own in zip(scene.things, overlap, strict=True):
            things += 1
            best = own.argmax() if len(own) else 0
            right += bool(len(own) and own[best] > 0.5 and one.category_id[best] == thing.category + 1)
    print(f"{right} of {things} things found and named, {named} named in all")
    assert right > 0.8 * things
    assert named - right < 0.2 * things


def test_bare_ground_has_nothing_in_it() -> None:
    categories = tuple(Category(i, name) for i, name in enumerate(scenes.CLASSES, 1))
    bare = [draw_background(np.random.default_rng(i), name, 128) for i, name in enumerate(BACKGROUNDS[:6])]
    found = Discovery(config(), categories).find([(image * 255).astype(np.uint8) for image in bare])
    assert sum(len(one.masks) > 0 for one in found) <= 1
