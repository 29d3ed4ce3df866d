"""Every family of transformers, tiny and of random weights, against transformers' own processor and call."""

import json
import re
import shutil
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_sams
import torch
import transformers
from safetensors.torch import load_file, save_file

from synthgen import devices
from synthgen.backends import Request
from synthgen.bench.compare import bare_loop
from synthgen.errors import BackendError
from synthgen.filters import consistency, unlabelled
from synthgen.grounders import everything
from synthgen.masks import mask_boxes
from synthgen.models import discovery
from synthgen.models.sam.families import FAMILIES
from synthgen.models.sam.model import STABILITY_OFFSET, SamModel
from synthgen.segmenters import sam
from synthgen.types import Category, Grounding, Instances, Job, Sample

CATEGORIES = (Category(1, "cat"), Category(2, "dog"))
LACKING = {name for name, family in FAMILIES.items() if family.package and find_spec(family.package) is None}
reason = "the extra `edgetam` is not installed"
EACH = [pytest.param(name, marks=pytest.mark.skipif(name in LACKING, reason=reason)) for name in FAMILIES]
REQUEST = Request(50, 90, has_layout=True, words=frozenset())
SIZES = [(64, 64), (50, 90), (120, 70)]
BOXES = np.array([(3, 5, 40, 44), (10.5, 20.25, 48, 49), (0, 0, 50, 50)], np.float32)
POINTS = np.array([(3, 5), (40.5, 20), (30, 33), (49, 2)], np.float32)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sams")
    return {name: tiny_sams.save(name, root) for name in FAMILIES if name not in LACKING}


@pytest.fixture(autouse=True)
def forget():
    before = devices.loaded()
    yield
    devices.forget(devices.loaded().keys() - before)


def picture(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *size]).integers(0, 256, (*size, 3)).astype(np.uint8)


class Upstream:
    """As the model's page in transformers' documentation calls it."""

    def __init__(self, folder: Path, name: str) -> None:
        family = FAMILIES[name]
        self.model: Any = getattr(transformers, family.model).from_pretrained(folder).eval()
        self.processor: Any = getattr(transformers, family.processor).from_pretrained(folder)

    def __call__(self, image: np.ndarray, multimask: bool, **prompts: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """-> logits (N, M, H, W) at the image's size, predicted IoU (N, M)."""
        inputs = self.processor(images=image, **prompts, return_tensors="pt")
        sizes = [inputs[key] for key in ("original_sizes", "reshaped_input_sizes") if key in inputs]
        asked = {key: inputs[key] for key in ("pixel_values", "input_boxes", "input_points") if key in inputs}
        asked = {key: value.float() for key, value in asked.items()}
        with torch.inference_mode():
            out = self.model(**asked, multimask_output=multimask)
        (logits,) = self.processor.image_processor.post_process_masks(out.pred_masks, *sizes, binarize=False)
        return logits, out.iou_scores[0]


@pytest.mark.parametrize("name", EACH)
def test_boxes_and_points_equal_upstream(folders: dict[str, Path], name: str) -> None:
    ours, theirs = SamModel.of(str(folders[name]), None, "cpu", "float32"), Upstream(folders[name], name)
    images = [picture(size) for size in SIZES]
    embedded = ours.embed(images)
    parts = list(ours.by_boxes(embedded, [BOXES] * len(images)))
    assert [i for i, *_ in parts] == [0, 1, 2]
    seen = 0
    for i, found, iou in parts:
        logits, scores = theirs(images[i], False, input_boxes=[BOXES.tolist()])
        seen += check(found, logits[:, 0])
        np.testing.assert_allclose(iou, scores[:, 0], atol=1e-5)
    for image, one in zip(images, embedded, strict=True):
        answer = ours.by_points(one, POINTS, multimask=True)
        points = [[[point] for point in POINTS.tolist()]]
        logits, scores = theirs(image, True, input_points=points)
        assert answer.logits.shape[:2] == (len(POINTS), 3)
        np.testing.assert_allclose(answer.predicted_iou, scores, atol=1e-5)
        seen += check(ours.masks(one, answer.logits.flatten(0, 1)), logits.flatten(0, 1))
    assert seen >= 8  # masks that are neither empty nor full


def check(found: Any, logits: torch.Tensor) -> int:
    """Compares masks and stability scores with logits (N, H, W); -> how many masks have a shape."""
    near = (logits.abs() < 1e-4).numpy()  # sums in another order
    assert ((found.masks == (logits > 0).numpy()) | near).all() and near.mean() < 1e-3
    high, low = ((logits > offset).sum((1, 2)) for offset in (STABILITY_OFFSET, -STABILITY_OFFSET))
    np.testing.assert_allclose(found.stability_score, high / low.clamp(min=1), atol=2e-3)
    return int(((logits > 0).any((1, 2)) & (logits < 0).any((1, 2))).sum())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", EACH)
def test_half_precision_gives_nearly_the_same(folders: dict[str, Path], name: str, dtype: str) -> None:
    image = picture(SIZES[1])
    found = []
    for used in ("float32", dtype):
        model = SamModel.of(str(folders[name]), None, "cpu", used)
        assert str(next(model.network.model.vision_encoder.parameters()).dtype) == f"torch.{used}"
        assert {p.dtype for p in model.network.model.mask_decoder.parameters()} == {torch.float32}
        ((_, masks, iou),) = model.by_boxes(model.embed([image]), [BOXES])
        assert iou.dtype == np.float32
        found.append((masks.masks, iou))
    assert (found[0][0] == found[1][0]).mean() > 0.9
    np.testing.assert_allclose(found[0][1], found[1][1], atol=0.2)


@pytest.mark.parametrize("name", EACH)
def test_every_stage_takes_it(folders: dict[str, Path], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synthgen.models.discovery.ROUGH_SIDE", 8)  # logits of 16 px are as SAM 3's, of 288, are to 256
    monkeypatch.setattr("synthgen.models.discovery.BORDERS", 5)  # random masks reach from border to border
    options = {"model": str(folders[name]), "device": "cpu", "torch_dtype": "float32"}
    segmenter = sam.Backend(sam.Config(use="sam", **options), CATEGORIES)
    assert list(segmenter.check(REQUEST)) == []
    image = picture(SIZES[1])
    asked = Grounding(BOXES, np.array([1, 2, 1]), {"grounding_score": np.ones(3, np.float32)})
    (labelled,) = segmenter.segment([image], [asked])
    model = SamModel.of(str(folders[name]), None, "cpu", "float32")
    ((_, masks, iou),) = model.by_boxes(model.embed([image]), [BOXES])
    np.testing.assert_array_equal(labelled.masks, masks.masks)
    np.testing.assert_array_equal(labelled.scores["predicted_iou"], iou)
    np.testing.assert_array_equal(labelled.scores["stability_score"], masks.stability_score)

    job = Job(1, 1, 0, 0, "f", "train", "", "", {}, (), None, 7, *SIZES[1])
    agreement = consistency.Backend(consistency.Config(use="consistency", **options), ()).measure(
        Sample(job, image, labelled)
    )
    assert agreement.shape == (3,) and ((agreement >= 0) & (agreement <= 1)).all()

    thresholds = {"predicted_iou": 0.0, "stability_score": 0.0, "agreement": -1.0, "points_per_side": 2}
    finder = everything.Backend(everything.Config(use="everything", **options, **thresholds), CATEGORIES)
    assert list(finder.check(REQUEST)) == []
    (found,) = finder.ground([job], [image])
    (count,) = unlabelled.Backend(
        unlabelled.Config(use="unlabelled", **options, **thresholds), CATEGORIES
    ).measure_many([Sample(job, image, Instances.empty(*SIZES[1]))])
    assert len(found) == count > 0

    (embedded,) = model.embed([image])
    logits = model.by_points(embedded, POINTS, multimask=True).logits.flatten(0, 1)
    full = model.masks(embedded, logits).masks
    there = full.any((1, 2))
    true = (mask_boxes(full) - discovery.UPSTREAM_BOX)[there]
    rough = discovery.rough_boxes(model, embedded, logits)[there]
    assert (rough[:, :2] <= true[:, :2]).all() and (rough[:, 2:] >= true[:, 2:]).all() and there.sum() >= 4
    official = discovery.propose(
        model, embedded, points_per_side=2, predicted_iou=-99.0, stability_score=0.0, nms_iou=1.0,
        proposals="official",
    )  # fmt: skip
    points = np.array([[x * 90, y * 50] for y in (0.25, 0.75) for x in (0.25, 0.75)], np.float32)
    every = model.masks(embedded, model.by_points(embedded, points, multimask=True).logits.flatten(0, 1)).masks
    assert {mask.tobytes() for mask in official.masks} == {mask.tobytes() for mask in every if mask.any()}


def test_a_checkpoint_for_videos_gives_the_tracker_s_own_weights(folders: dict[str, Path]) -> None:
    state = load_file(folders["sam3_video"] / "model.safetensors")
    model = SamModel.of(str(folders["sam3_video"]), None, "cpu", "float32").network.model
    for ours, theirs in (
        ("mask_decoder.iou_token.weight", "tracker_model.mask_decoder.iou_token.weight"),
        ("no_memory_embedding", "tracker_model.no_memory_embedding"),
        ("vision_encoder.neck.fpn_layers.0.proj1.weight", "tracker_neck.fpn_layers.0.proj1.weight"),
        ("vision_encoder.backbone.layers.0.mlp.fc1.weight",
         "detector_model.vision_encoder.backbone.layers.0.mlp.fc1.weight"),
    ):  # fmt: skip
        assert torch.equal(model.state_dict()[ours], state[theirs])


def change(folder: Path, name: str, **settings: Any) -> None:
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**content, **settings}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda at: change(at, "config.json", model_type="sam3"),
            "model_type 'sam3'; as a SAM, .* one of: sam, sam_hq",
        ),
        (lambda at: (at / "processor_config.json").unlink(), "has no preprocessor_config.json"),
        (lambda at: (at / "model.safetensors").unlink(), "has no .safetensors weights"),
        (lambda at: change(at, "config.json", attn_implementation="x/y"), "kernels from the hub are code"),
    ],
)
def test_check_refuses_a_folder(folders: dict[str, Path], tmp_path: Path, spoil: Any, message: str) -> None:
    folder = Path(shutil.copytree(folders["sam2"], tmp_path / "sam"))
    spoil(folder)
    (problem,) = sam.Backend(sam.Config(use="sam", model=str(folder)), CATEGORIES).check(REQUEST)
    assert problem.field == ".model" and re.search(message, problem.message) and "\n" not in problem.message
    with pytest.raises(BackendError, match=message):
        SamModel.of(str(folder), None, "cpu", "float32")


def test_a_package_that_is_not_installed_is_named(folders, tmp_path, monkeypatch) -> None:
    folder = Path(shutil.copytree(folders["sam2"], tmp_path / "sam"))
    change(folder, "config.json", model_type="edgetam")
    monkeypatch.setattr("synthgen.models.sam.families.find_spec", lambda name: None)
    (problem,) = sam.Backend(sam.Config(use="sam", model=str(folder)), CATEGORIES).check(REQUEST)
    assert "needs timm: pip install 'synthgen[edgetam]'" in problem.message


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"architecture": "hf-hub:x/y"}, "architecture: got 'hf-hub:x/y'; takes a bare name"),
        ({"model_args": {"checkpoint_path": "x.pth"}}, "checkpoint_path: got 'x.pth'; takes none"),
    ],
)
def test_timm_fetches_and_unpickles_nothing(folders, tmp_path, monkeypatch, setting, message) -> None:
    folder = Path(shutil.copytree(folders["sam2"], tmp_path / "sam"))
    backbone = {"model_type": "timm_wrapper", "architecture": "repvit_m1", **setting}
    change(folder, "config.json", model_type="edgetam", vision_config={"backbone_config": backbone})
    monkeypatch.setattr("synthgen.models.sam.families.find_spec", lambda name: name)
    (problem,) = sam.Backend(sam.Config(use="sam", model=str(folder)), CATEGORIES).check(REQUEST)
    assert message in problem.message


def test_weights_that_are_not_there_are_not_made_up(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["sam2"], tmp_path / "sam"))
    state = load_file(folder / "model.safetensors")
    del state["mask_decoder.iou_token.weight"]
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(BackendError, match=r"no weights for 1 part of a Sam2Model: mask_decoder\.iou_token\.weight"):
        SamModel.of(str(folder), None, "cpu", "float32")


def test_a_processor_of_another_size_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["sam2"], tmp_path / "sam"))
    change(folder, "processor_config.json", target_size=96)
    with pytest.raises(BackendError, match="takes pictures of 64 px a side, and its processor makes 96"):
        SamModel.of(str(folder), None, "cpu", "float32")


@pytest.mark.parametrize(
    ("model", "licence"),
    [("facebook/sam2.1-hiera-large", "Apache-2.0"), ("facebook/sam3", "SAM License"), ("me/mine", None)],
)
def test_licences_of_published_families(folders, monkeypatch, model: str, licence: str | None) -> None:
    monkeypatch.setattr("synthgen.models.find_model", lambda *_: folders["sam2"])
    names = [name for name, _ in sam.Backend(sam.Config(use="sam", model=model), CATEGORIES).licences()]
    assert names == ([licence] if licence else [])


def test_the_bare_loop_of_bench_takes_the_official_library_alone(folders: dict[str, Path], tmp_path: Path) -> None:
    used = sam.Config(use="sam", model=str(folders["sam2"]), device="cpu")
    with pytest.raises(
        BackendError, match=r"segmenter\.model: got .*; the bare loop takes a model of segment_anything"
    ):
        bare_loop(SimpleNamespace(segmenter=SimpleNamespace(config=used)), [], tmp_path / "loop")
