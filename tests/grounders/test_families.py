"""Each family of detectors, held against transformers' own call and post-processing of the same model."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tiny
import tiny_detectors
import torch
import transformers

from synthgen.backends import Request
from synthgen.errors import BackendError
from synthgen.grounders import _answers, _detectors, detector
from synthgen.types import Category, Job

CATEGORIES = (Category(1, "cat", ("kitten", "Tom-Cat")), Category(2, "hot dog"), Category(3, "fire truck", ("lorry",)))
WORDS = ["cat", "kitten", "Tom-Cat", "hot dog", "fire truck", "lorry"]
CLASSES = [1, 1, 1, 2, 3, 3]
MAKERS = {
    "owlv2": tiny.save_owlv2,
    "owlvit": tiny_detectors.save_owlvit,
    "grounding-dino": tiny_detectors.save_grounding_dino,
    "mm-grounding-dino": lambda folder: tiny_detectors.save_grounding_dino(folder, "MMGroundingDino"),
    "sam3": tiny_detectors.save_sam3,
    "sam3_video": lambda folder: tiny_detectors.save_sam3(folder, "Sam3Video"),
    "sam3_lite_text": lambda folder: tiny_detectors.save_sam3(folder, "Sam3LiteText"),
}
SAM3 = ["sam3", "sam3_video", "sam3_lite_text"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in MAKERS.items()}


def request(max_objects=1):
    return Request(48, 64, has_layout=False, words=frozenset(), max_objects=max_objects)


def backend(folder, categories=CATEGORIES, **options):
    keep_all = {"score_threshold": 0.0, "nms_iou": 1.0, "cross_class_nms_iou": 1.0, "max_boxes": 1000}
    options = {**keep_all, "torch_dtype": "float32", **options}
    return detector.Backend(detector.Config(use="detector", model=str(folder), device="cpu", **options), categories)


def job(*asked, height=48, width=64):
    return Job(1, 1, 0, 0, "f", "train", "a prompt", "", {}, asked, None, 1, height, width)


def image(seed, height=48, width=64):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def clipped(boxes, height, width):
    return np.clip(boxes, 0, [width, height, width, height])


def require_same(found, boxes, scores, category_id):
    """Whatever the order of boxes whose scores differ by less than rounding."""
    assert len(found) == len(boxes)
    order = np.argsort(-scores, kind="stable")
    np.testing.assert_allclose(found.scores["grounding_score"], scores[order], atol=1e-5)
    for box, score, category in zip(boxes, scores, category_id, strict=True):
        like = np.abs(found.boxes - box).max(1) <= 1e-3
        like &= np.abs(found.scores["grounding_score"] - score) <= 1e-5
        assert category in found.category_id[like]


def of_area(boxes):
    return (boxes[:, 2:] - boxes[:, :2] >= 1).all(1)


@pytest.mark.parametrize("size", [(48, 64), (100, 60)])
def test_queries_equal_upstream(folders, size, name="owlvit"):
    """For OWLv2 see test_detector.py."""
    pixels = image(1, *size)
    (found,) = backend(folders[name]).ground([job(1, 2, 3)], [pixels])
    processor = transformers.AutoProcessor.from_pretrained(folders[name])
    model = transformers.AutoModelForZeroShotObjectDetection.from_pretrained(folders[name]).eval()
    inputs = processor(images=pixels, text=[[f"a photo of a {word}" for word in WORDS]], return_tensors="pt")
    with torch.no_grad():
        output = model(**inputs)
    (result,) = processor.post_process_grounded_object_detection(output, threshold=0.0, target_sizes=[size])
    boxes, scores = clipped(result["boxes"].numpy(), *size), result["scores"].numpy()
    inside = of_area(boxes)
    categories = np.array(CLASSES)[result["labels"].numpy()]
    assert len(set(categories[inside].tolist())) > 1
    require_same(found, boxes[inside], scores[inside], categories[inside])


@pytest.mark.parametrize("size", [(48, 64), (100, 60)])
def test_captions_equal_upstream(folders, size, name="mm-grounding-dino"):
    """For Grounding DINO see test_detector.py."""
    pixels = image(2, *size)
    (found,) = backend(folders[name]).ground([job(1, 2, 3)], [pixels])
    processor = transformers.AutoProcessor.from_pretrained(folders[name])
    model = transformers.AutoModelForZeroShotObjectDetection.from_pretrained(folders[name]).eval()
    inputs = processor(images=pixels, text=[[word.lower() for word in WORDS]], return_tensors="pt")
    with torch.no_grad():
        output = model(**inputs)
    (result,) = processor.post_process_grounded_object_detection(output, threshold=0.0, target_sizes=[size])
    # [CLS] cat . kitten . tom - cat . hot dog . fire truck . lorry . [SEP]
    spans = {1: [1, 3, 5, 6, 7], 2: [9, 10], 3: [12, 13, 15]}
    assert inputs.input_ids.shape == (1, 18)
    by_class = np.stack([output.logits[0].sigmoid()[:, tokens].max(1).values.numpy() for tokens in spans.values()], 1)
    # Upstream's score is the greatest over all tokens, those of delimiters too. Of boxes whose best token is a word's,
    # it is ours.
    ours, theirs = by_class.max(1), result["scores"].numpy()
    assert (theirs >= ours - 1e-6).all() and (np.abs(theirs - ours) <= 1e-6).any()
    require_same(found, clipped(result["boxes"].numpy(), *size), ours, by_class.argmax(1) + 1)


@pytest.mark.parametrize("name", SAM3)
def test_concepts_equal_upstream(folders, name):
    """Upstream is asked one image and one text at a time, and encodes the image each time."""
    size = (48, 64)
    images = [image(3), image(4)]
    asked = [(1, 2, 3), (3,)]
    found = backend(folders[name]).ground([job(*classes) for classes in asked], images)
    processor = transformers.Sam3Processor.from_pretrained(folders[name])
    if name == "sam3_video":
        model = transformers.Sam3VideoModel.from_pretrained(folders[name]).detector_model
    else:
        model = transformers.AutoModel.from_pretrained(folders[name]).eval()
    assert type(model).__name__ == ("Sam3LiteTextModel" if name == "sam3_lite_text" else "Sam3Model")
    for pixels, classes, grounding in zip(images, asked, found, strict=True):
        boxes, scores, categories = [], [], []
        for word, category in zip(WORDS, CLASSES, strict=True):
            if category not in classes:
                continue
            with torch.no_grad():
                output = model(**processor(images=pixels, text=word, return_tensors="pt"))
            (result,) = processor.post_process_instance_segmentation(output, threshold=0.0, target_sizes=[size])
            boxes.append(clipped(result["boxes"].numpy(), *size))
            scores.append(result["scores"].numpy())
            categories.append(np.full(len(result["scores"]), category))
        boxes, scores, categories = map(np.concatenate, (boxes, scores, categories))
        inside = of_area(boxes)
        assert np.ptp(scores[inside]) > 1e-3  # the comparison would be empty otherwise
        require_same(grounding, boxes[inside], scores[inside], categories[inside])


@pytest.mark.parametrize(("a", "b"), [(0.3, -1.2), (40.0, 50.0), (-60.0, 3.0), (-800.0, -900.0)])
def test_the_logit_of_a_product_of_probabilities(a, b):
    (logit,) = _answers.joint_logit(np.array([a]), np.array([b]))
    if abs(a) < 10:
        product = 1 / (1 + np.exp(-a)) / (1 + np.exp(-b))
        assert 1 / (1 + np.exp(-float(logit))) == pytest.approx(product, rel=1e-6)
    else:  # where one probability, or its distance from 1, is beyond rounding: e^-a + e^-b, or their product
        expected = {40.0: -np.log(np.exp(-40.0) + np.exp(-50.0)), -60.0: -60 - np.log1p(np.exp(-3.0)), -800.0: -1700.0}
        assert float(logit) == pytest.approx(expected[a], rel=1e-6)


def test_sam3_encodes_an_image_once(folders, monkeypatch):
    loaded = backend(folders["sam3"]).load()
    calls = []
    forward = loaded.model.vision_encoder.forward
    monkeypatch.setattr(
        loaded.model.vision_encoder, "forward", lambda *args, **kwargs: calls.append(1) or forward(*args, **kwargs)
    )
    backend(folders["sam3"], batch_size=2).ground([job(1, 2, 3), job(2)], [image(0), image(1)])
    assert len(calls) == 1


@pytest.mark.parametrize("name", [*SAM3, "owlvit", "mm-grounding-dino"])
def test_half_precision_keeps_boxes_in_float32(folders, name):
    (exact,) = backend(folders[name]).ground([job(1, 2)], [image(6)])
    (half,) = backend(folders[name], torch_dtype="bfloat16").ground([job(1, 2)], [image(6)])
    assert half.boxes.dtype == np.float32 and len(half) > 0
    low, high = exact.scores["grounding_score"], half.scores["grounding_score"]
    assert not np.array_equal(low, high) and abs(low.mean() - high.mean()) < 0.05


@pytest.mark.parametrize("name", MAKERS)
def test_each_family_passes_check_and_is_of_its_type(folders, name):
    assert list(backend(folders[name]).check(request(3))) == []
    assert json.loads((folders[name] / "config.json").read_text())["model_type"] == name


def test_every_family_is_tried():
    assert set(MAKERS) == set(_detectors.FAMILIES)


@pytest.mark.parametrize(("name", "most"), [("owlv2", 40), ("owlvit", 40), ("sam3", 32), ("sam3_lite_text", 32)])
def test_check_counts_the_tokens_of_every_text(folders, name, most):
    """A letter is a token, and a text has two ends; the words of OWL's query are 8 letters more."""
    family = _detectors.FAMILIES[name]
    words, field = (8, ".prompt") if family.asks == "queries" else (0, "classes")
    longest = "b" * (most - 2 - words)
    made = backend(folders[name], (Category(1, longest), Category(2, longest + "c")), prompt="a photo of {}")
    (problem,) = made.check(request())
    assert problem.field == field
    assert f"'{longest}c' has {most + 1} tokens, and {family.name} takes {most}; shorten it" in problem.message
    assert len(made.ground([job(1)], [image(0)])) == 1  # what passes is taken
    with pytest.raises(BackendError, match=f"more than the {most} tokens"):
        made.ground([job(2)], [image(0)])


@pytest.mark.parametrize("name", ["grounding-dino", "mm-grounding-dino"])
def test_check_counts_the_tokens_of_the_longest_caption(folders, name):
    """A word is a token, and so is the full stop after it; the model takes 32, with two ends."""
    categories = [Category(1, "cat", ("kitten",)), Category(2, " ".join(["dog"] * 12)), Category(3, "red " * 12)]
    made = backend(folders[name], categories)
    assert list(made.check(request(3))) == []  # (1 + 1) + (1 + 1) + (12 + 1) + (12 + 1) + 2
    made.ground([job(1, 2, 3)], [image(0)])
    made = backend(folders[name], [*categories[:2], Category(3, "red " * 13)])
    assert list(made.check(request(2))) == []
    (problem,) = made.check(request(3))
    assert problem.field == "classes" and "of 3 classes" in problem.message
    assert f"have 33 tokens, and {_detectors.FAMILIES[name].name} takes 32" in problem.message
    with pytest.raises(BackendError, match="longer than the 32 tokens"):
        made.ground([job(1, 2, 3)], [image(0)])


def test_check_finds_a_name_without_a_word(folders):
    (problem,) = backend(folders["mm-grounding-dino"], (Category(1, "cat"), Category(2, "..."))).check(request())
    assert problem.field == "classes" and "'...'" in problem.message


@pytest.mark.parametrize(
    ("settings", "family", "most"),
    [
        ({"text_config": {"max_position_embeddings": 20}}, "owlvit", 20),
        ({}, "owlvit", 16),  # transformers leaves out of the file what is a default
        ({"text_config": None}, "owlv2", 16),
        ({"max_text_len": 99}, "mm-grounding-dino", 99),
        ({}, "grounding-dino", 256),
        ({"text_config": {"max_position_embeddings": 77}}, "sam3_lite_text", 32),
    ],
)
def test_most_tokens_of_a_model(settings, family, most):
    assert _detectors.FAMILIES[family].most_tokens_of(settings) == most


def test_numbers_of_the_table_are_those_of_transformers():
    """Limits that a model's settings leave out, and SAM 3's threshold and padding."""
    assert transformers.OwlViTConfig().text_config.max_position_embeddings == 16
    assert transformers.Owlv2Config().text_config.max_position_embeddings == 16
    assert transformers.GroundingDinoConfig().max_text_len == transformers.MMGroundingDinoConfig().max_text_len == 256
    assert transformers.Sam3Config().text_config.max_position_embeddings == 32
    thresholds = {"sam3": transformers.Sam3Processor, "owlvit": transformers.OwlViTProcessor}
    for name, processor in thresholds.items():
        method = "post_process_object_detection" if name == "sam3" else "post_process_grounded_object_detection"
        assert getattr(processor, method).__defaults__[0] == _detectors.FAMILIES[name].threshold


@pytest.mark.parametrize(("name", "least"), [("owlv2", 0.2), ("grounding-dino", 0.2), ("owlvit", 0.1), ("sam3", 0.3)])
def test_a_family_has_its_own_threshold_where_the_spec_says_none(folders, name, least, monkeypatch):
    boxes = np.array([(i * 10, 0, i * 10 + 5, 5) for i in range(6)], np.float32)
    scores = np.array([0.05, 0.15, 0.25, 0.28, 0.35, 0.9])
    logits = np.log(scores / (1 - scores)).astype(np.float32)[:, None]
    monkeypatch.setattr(detector, "answers", lambda *_: [(boxes, logits)])
    (found,) = backend(folders[name], score_threshold=None).ground([job(2)], [image(0)])
    assert len(found) == (scores > least).sum()
    (found,) = backend(folders[name], score_threshold=0.2).ground([job(2)], [image(0)])
    assert len(found) == 4


def test_thresholds_of_families_leave_old_fingerprints_as_they_were(folders):
    """Run folders were labelled by 0.2, whether the spec says it or not."""
    unset, given = (detector.Config(use="detector", score_threshold=score) for score in (None, 0.2))
    assert unset.fingerprint() == given.fingerprint() == {
        "use": "detector", "prompt": "a photo of a {}", "score_threshold": 0.2, "class_thresholds": {}, "nms_iou": 0.5,
        "cross_class_nms_iou": 0.8, "max_boxes": 300,
    }  # fmt: skip
    assert detector.Config(use="detector", score_threshold=0.3).fingerprint()["score_threshold"] == 0.3
    for name in ("owlv2", "grounding-dino", "sam3", "owlvit"):
        identities = {backend(folders[name], score_threshold=score).identity() for score in (None, 0.2)}
        assert len(identities) == (1 if name in {"owlv2", "grounding-dino"} else 2)


@pytest.mark.parametrize(
    ("model_type", "model", "licence"),
    [
        ("owlv2", "google/owlv2-base-patch16-ensemble", "Apache-2.0"),
        ("mm-grounding-dino", "iSEE-Laboratory/llmdet_base", "Apache-2.0"),
        ("sam3_video", "facebook/sam3", "SAM License"),
        ("owlv2", "somebody/owlv2-tuned", None),
    ],
)
def test_licences_of_published_models(tmp_path, monkeypatch, model_type, model, licence):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    monkeypatch.setattr("synthgen.models.find_model", lambda *_: tmp_path)
    assert list(backend(model).licences()) == ([(licence, f"https://huggingface.co/{model}")] if licence else [])


def test_the_table_of_the_docs_says_what_the_code_does():
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| ([^|]+?)(?:, [^|]*)? \| `[^|]*`[^|]* \| .* \| (\d+) tokens [^|]* \| ([\d.]+) \|$", page, re.M
    )
    said = {name: (int(most), float(threshold)) for name, most, threshold in rows}
    families = {family.name: (family.most_tokens, family.threshold) for family in _detectors.FAMILIES.values()}
    families["LLMDet"] = families["MM-Grounding-DINO"]
    assert said == {name: numbers for name, numbers in families.items() if name != "SAM 3 LiteText"}
