import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tiny import save_owlv2
from tiny_detectors import save_grounding_dino

from synthgen import devices
from synthgen.backends import Request
from synthgen.errors import BackendError
from synthgen.grounders import _answers, _choice, _detectors, _queries, _views, detector
from synthgen.types import Category, Job

CATEGORIES = (Category(1, "cat", ("kitten", "Tom-Cat")), Category(2, "hot dog"), Category(3, "fire truck", ("lorry",)))
REQUEST = Request(48, 64, has_layout=False, words=frozenset())


def job(*asked, height=48, width=64):
    return Job(1, 1, 0, 0, "f", "train", "a prompt", "", {}, asked, None, 1, height, width)


def image(seed, height=48, width=64):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def backend(folder, **options):
    options = {"score_threshold": 0.0, "nms_iou": 1.0, "cross_class_nms_iou": 1.0, "max_boxes": 1000, **options}
    exact = {"torch_dtype": "float32", **options}
    config = detector.Config(use="detector", model=str(folder), device="cpu", **exact)
    return detector.Backend(config, CATEGORIES)


@pytest.fixture(scope="module")
def owlv2(tmp_path_factory):
    return save_owlv2(tmp_path_factory.mktemp("owlv2"))


@pytest.fixture(scope="module")
def grounding_dino(tmp_path_factory):
    return save_grounding_dino(tmp_path_factory.mktemp("grounding_dino"))


def upstream(folder, pixels, text):
    """What transformers' own processor and model say of one image, unthresholded."""
    from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForZeroShotObjectDetection.from_pretrained(folder).eval()
    inputs = processor(images=pixels, text=[text], return_tensors="pt")
    with torch.no_grad():
        output = model(**inputs)
    size = [pixels.shape[:2]]
    (result,) = processor.post_process_grounded_object_detection(output, threshold=0.0, target_sizes=size)
    return result, output.logits[0].sigmoid(), inputs.input_ids


def in_order(boxes, scores):
    order = np.argsort(-scores, kind="stable")
    return boxes[order], scores[order]


def clipped(boxes, height, width):
    return np.clip(boxes, 0, [width, height, width, height])


@pytest.mark.parametrize("size", [(48, 64), (64, 48), (100, 180)])
def test_owlv2_equals_upstream(owlv2, size):
    pixels = image(1, *size)
    (found,) = backend(owlv2).ground([job(1, 2, 3)], [pixels])
    words = ["cat", "kitten", "Tom-Cat", "hot dog", "fire truck", "lorry"]
    result, _, _ = upstream(owlv2, pixels, [f"a photo of a {word}" for word in words])
    boxes = clipped(result["boxes"].numpy(), *size)
    inside = (boxes[:, 2:] - boxes[:, :2] >= 1).all(1)
    boxes, scores = in_order(boxes[inside], result["scores"].numpy()[inside])
    np.testing.assert_allclose(found.scores["grounding_score"], scores, rtol=1e-6)
    np.testing.assert_allclose(found.boxes, boxes, atol=1e-4)
    categories = np.array([1, 1, 1, 2, 3, 3])[result["labels"].numpy()[inside]]
    order = np.argsort(-result["scores"].numpy()[inside], kind="stable")
    assert found.category_id.tolist() == categories[order].tolist()
    assert len(set(categories.tolist())) > 1  # the comparison would be empty otherwise


@pytest.mark.parametrize("size", [(48, 64), (64, 48), (100, 180)])
def test_grounding_dino_equals_upstream(grounding_dino, size):
    pixels = image(2, *size)
    (found,) = backend(grounding_dino).ground([job(1, 2, 3)], [pixels])
    words = ["cat", "kitten", "tom-cat", "hot dog", "fire truck", "lorry"]
    result, probabilities, input_ids = upstream(grounding_dino, pixels, words)
    # [CLS] cat . kitten . tom - cat . hot dog . fire truck . lorry . [SEP]
    assert len(input_ids[0]) == 18
    spans = {1: [1, 3, 5, 6, 7], 2: [9, 10], 3: [12, 13, 15]}
    by_class = np.stack([probabilities[:, tokens].max(1).values.numpy() for tokens in spans.values()], 1)
    boxes, scores = in_order(clipped(result["boxes"].numpy(), *size), by_class.max(1))
    np.testing.assert_allclose(found.scores["grounding_score"], scores, atol=1e-6)
    np.testing.assert_allclose(found.boxes, boxes, atol=1e-3)
    expected = np.array(list(spans))[by_class.argmax(1)]
    assert found.category_id.tolist() == expected[np.argsort(-by_class.max(1), kind="stable")].tolist()
    # Upstream's score is the greatest over all tokens, delimiters too: never less than ours.
    assert (np.sort(result["scores"].numpy()) >= np.sort(scores) - 1e-6).all()


def test_grounding_dino_tokens_of_each_query(grounding_dino):
    from transformers import AutoProcessor

    tokenizer = AutoProcessor.from_pretrained(grounding_dino).tokenizer
    texts = ["cat", "tom-cat", "hot dog", "unheard"]
    assert _answers.token_spans(tokenizer, ". ".join(texts) + ".", texts) == [[1], [3, 4, 5], [7, 8], [10]]


@pytest.fixture(params=["owlv2", "grounding_dino"])
def folder(request):
    return request.getfixturevalue(request.param)


def test_only_classes_asked_for_are_found(folder):
    asked = [(1,), (3, 3), (2, 1)]
    found = backend(folder).ground([job(*a) for a in asked], [image(i) for i in range(3)])
    for grounding, classes in zip(found, asked, strict=True):
        assert len(grounding) > 0
        assert set(grounding.category_id.tolist()) <= set(classes)


def test_a_job_that_asks_nothing_never_reaches_the_model():
    (found,) = backend("/nowhere/model").ground([job()], [image(0)])
    assert len(found) == 0 and found.scores["grounding_score"].shape == (0,)


def test_batches_answer_as_single_images_do(folder):
    """Of different sizes and numbers of queries, so that padding of either would show."""
    jobs = [job(1), job(1, 2, 3), job(), job(3), job(2, height=80, width=50)]
    images = [image(0), image(1), image(2), image(3), image(4, 80, 50)]
    together = backend(folder, batch_size=4).ground(jobs, images)
    for one, pixels, found in zip(jobs, images, together, strict=True):
        (alone,) = backend(folder).ground([one], [pixels])
        # Of equally good boxes either may come first, after rounding.
        order = [np.lexsort(g.boxes.round(1).T) for g in (alone, found)]
        np.testing.assert_allclose(found.boxes[order[1]], alone.boxes[order[0]], atol=1e-2)
        for name, scores in found.scores.items():
            np.testing.assert_allclose(scores[order[1]], alone.scores[name][order[0]], atol=1e-4)


def test_boxes_lie_in_the_image_and_have_an_area(folder):
    (found,) = backend(folder).ground([job(1, 2, 3, height=30, width=90)], [image(5, 30, 90)])
    assert (found.boxes >= 0).all()
    assert (found.boxes[:, 2] <= 90).all() and (found.boxes[:, 3] <= 30).all()
    assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_keeps_boxes_in_float32(folder, dtype):
    (exact,) = backend(folder).ground([job(1, 2)], [image(6)])
    (half,) = backend(folder, torch_dtype=dtype).ground([job(1, 2)], [image(6)])
    assert half.boxes.dtype == np.float32 and len(half) > 0
    low, high = exact.scores["grounding_score"], half.scores["grounding_score"]
    assert abs(low.mean() - high.mean()) < 0.05


def test_grounding_dino_delimiters_in_a_name_do_not_part_it(grounding_dino):
    categories = (Category(1, "Red. Truck?"), Category(2, "dog"))
    plain = (Category(1, "red truck"), Category(2, "dog"))
    config = backend(grounding_dino).config
    a, b = (detector.Backend(config, c).ground([job(1, 2)], [image(7)])[0] for c in (categories, plain))
    np.testing.assert_array_equal(a.boxes, b.boxes)
    np.testing.assert_array_equal(a.category_id, b.category_id)


@pytest.mark.parametrize(
    ("fixture", "name", "message"),
    [
        ("owlv2", "an extraordinarily long name of a thing that is seldom seen", "more than the 40 tokens"),
        ("grounding_dino", "cat " * 40, "longer than the 32 tokens"),
        ("grounding_dino", "...", "has an empty part"),
    ],
)
def test_queries_that_a_model_cannot_take(request, fixture, name, message):
    config = backend(request.getfixturevalue(fixture)).config
    with pytest.raises(BackendError, match=message):
        detector.Backend(config, (Category(1, name),)).ground([job(1)], [image(0)])


def choose(boxes, scores, asked=(1, 2, 3), size=(100, 100), **options):
    asked = _queries.queries(job(*asked), CATEGORIES)
    scores = np.clip(np.array(scores), 1e-9, 1 - 1e-9)
    logits = np.log(scores / (1 - scores)).astype(np.float32)
    found = [(_views.View(0, 0, size[1], size[0]), np.array(boxes, np.float32), logits)]
    return backend("/nowhere", **options).choose(found, asked, np.zeros((*size, 3), np.uint8))


ONE = [(10, 10, 50, 50)]


@pytest.mark.parametrize(
    ("scores", "category_id", "score"),
    [  # cat, kitten, Tom-Cat, hot dog, fire truck, lorry
        ([0.1, 0.9, 0.2, 0.5, 0.1, 0.1], 1, 0.9),  # a synonym counts as the class
        ([0.3, 0.3, 0.3, 0.5, 0.1, 0.1], 2, 0.5),  # synonyms do not add up
        ([0.1, 0.1, 0.1, 0.1, 0.1, 0.7], 3, 0.7),  # the last query
    ],
)
def test_synonyms_are_folded_onto_their_class(scores, category_id, score):
    found = choose(ONE, [scores])
    assert found.category_id.tolist() == [category_id]
    assert found.scores["grounding_score"].tolist() == pytest.approx([score])


def test_queries_are_names_and_synonyms_of_the_classes_asked_for_each_once():
    categories = (Category(1, "cat", ("cat", "kitten")), Category(2, "dog"), Category(3, "bus"))
    asked = _queries.queries(job(3, 1, 1), categories)
    assert [(q.category_id, q.word) for q in asked] == [(1, "cat"), (1, "kitten"), (3, "bus")]


def test_thresholds_can_differ_by_class():
    boxes = [(0, 0, 10, 10), (20, 20, 30, 30), (40, 40, 50, 50)]
    scores = [[0.3, 0, 0, 0, 0, 0], [0, 0, 0, 0.3, 0, 0], [0, 0, 0, 0, 0, 0.2]]
    found = choose(boxes, scores, score_threshold=0.25, class_thresholds={"hot dog": 0.4})
    assert found.category_id.tolist() == [1]


def test_boxes_are_clipped_and_those_in_the_padding_left_out():
    boxes = [(-5, -5, 20, 20), (0, 60, 40, 90), (30, 30, 200, 200)]
    found = choose(boxes, [[0.9] * 3, [0.8] * 3, [0.7] * 3], asked=(1,), size=(50, 100))
    assert found.boxes.tolist() == [[0, 0, 20, 20], [30, 30, 100, 50]]


def test_max_boxes_keeps_the_best():
    boxes = [(i, 0, i + 1, 2) for i in range(5)]
    found = choose(boxes, [[0.1 + 0.1 * i] * 3 for i in range(5)], asked=(1,), max_boxes=2)
    assert found.boxes[:, 0].tolist() == [4, 3]


# IoU: 0-1 0.8, 0-2 0.6, 1-2 0.75; 3 is elsewhere.
BOXES = np.array([(0, 0, 10, 10), (0, 0, 10, 8), (0, 0, 10, 6), (50, 50, 60, 60)], np.float32)


@pytest.mark.parametrize(
    ("scores", "category_id", "iou", "across", "kept"),
    [
        ([0.9, 0.8, 0.7, 0.6], [1, 1, 1, 1], 0.5, False, [0, 3]),
        ([0.9, 0.8, 0.7, 0.6], [1, 1, 1, 1], 0.7, False, [0, 2, 3]),  # what 1 would have removed stays: 1 is gone
        ([0.9, 0.8, 0.7, 0.6], [1, 1, 1, 1], 0.85, False, [0, 1, 2, 3]),
        ([0.7, 0.8, 0.9, 0.6], [1, 1, 1, 1], 0.7, False, [2, 0, 3]),  # best first
        ([0.5, 0.5, 0.5, 0.5], [1, 1, 1, 1], 0.5, False, [0, 3]),  # ties in order
        ([0.9, 0.8, 0.7, 0.6], [1, 2, 1, 1], 0.5, False, [0, 1, 3]),  # another class is no rival
        ([0.9, 0.8, 0.7, 0.6], [1, 2, 1, 1], 0.5, True, [0, 2, 3]),  # … but across it is, and its own is none
        ([0.9, 0.8, 0.7, 0.6], [1, 2, 3, 3], 0.7, True, [0, 2, 3]),
        ([0.9, 0.8, 0.7, 0.6], [1, 2, 3, 3], 0.8, True, [0, 1, 2, 3]),  # not more than 0.8
    ],
)
def test_suppression(scores, category_id, iou, across, kept):
    # IoU 0.8 in float32 is not above 0.8 in float64.
    result = _choice.suppress(
        BOXES, np.array(scores, np.float32), np.array(category_id), np.float32(iou), across=across
    )
    assert result.tolist() == kept


def test_suppression_of_nothing():
    none = np.zeros(0, np.int64)
    assert (
        _choice.suppress(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), none, 0.5, across=True).tolist() == []
    )


def test_two_classes_on_one_object_leave_the_better():
    boxes = [(0, 0, 40, 40), (0, 0, 40, 39), (0, 0, 20, 40)]
    scores = [[0.6, 0, 0, 0, 0, 0], [0, 0, 0, 0.8, 0, 0], [0, 0, 0, 0, 0.7, 0]]
    found = choose(boxes, scores, nms_iou=0.5, cross_class_nms_iou=0.8)
    assert found.category_id.tolist() == [2, 3]


def model_folder(path, config=None, weights="model.safetensors"):
    if config is not None:
        (path / "config.json").write_text(config)
    if weights:
        (path / weights).touch()
    return path


@pytest.mark.parametrize(
    ("config", "weights", "message"),
    [
        (
            None,
            "model.safetensors",
            "no config.json with a `model_type`; takes a folder of: owlv2, owlvit, grounding-dino",
        ),
        ("{", "model.safetensors", "no config.json with a `model_type`"),
        ("[]", "model.safetensors", "no config.json with a `model_type`"),
        (
            '{"model_type": "yolos"}',
            "model.safetensors",
            "model_type 'yolos'; takes a folder of: owlv2, owlvit, grounding-dino",
        ),
        ('{"model_type": ["owlv2"]}', "model.safetensors", "is of model_type"),
        ('{"model_type": "owlv2"}', "pytorch_model.bin", "no .safetensors weights"),
    ],
)
def test_check_says_what_is_wrong_with_the_model(tmp_path, config, weights, message):
    (problem,) = backend(model_folder(tmp_path, config, weights)).check(REQUEST)
    assert problem.field == ".model" and message in problem.message


@pytest.mark.parametrize("model", ["google/owlv2-base-patch16-ensemble", "no/such/folder", "mini"])
def test_check_reports_a_missing_model(tmp_path, monkeypatch, model):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    (problem,) = backend(model).check(REQUEST)
    assert problem.field == ".model"


def test_check_knows_the_classes(owlv2):
    (problem,) = backend(owlv2, class_thresholds={"hotdog": 0.3}).check(REQUEST)
    assert problem.field == ".class_thresholds"
    assert "'hotdog' (did you mean 'hot dog'?); takes: cat, hot dog, fire truck" in problem.message


def test_good_folders_pass_check(folder):
    assert list(backend(folder).check(REQUEST)) == []
    assert len(backend(folder).identity()) == 64
    assert list(backend(folder).licences()) == []


def test_weights_that_do_not_load_are_an_error_of_one_line(owlv2, tmp_path):
    broken = model_folder(tmp_path, (owlv2 / "config.json").read_text())
    with pytest.raises(BackendError, match="is no whole safetensors file") as caught:
        backend(broken).ground([job(1)], [image(0)])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [{"prompt": "a photo"}, {"prompt": "{} {}"}, {"prompt": "{x}"}, {"class_thresholds": {"cat": 2}}, {"nms_iou": 2}],
)
def test_options_out_of_range(options):
    with pytest.raises(ValidationError):
        detector.Config(use="detector", **options)


def test_model_types_and_classes_are_those_of_transformers():
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING_NAMES as ZERO_SHOT

    for model_type, family in _detectors.FAMILIES.items():
        assert model_type in transformers.CONFIG_MAPPING
        assert (model_type in ZERO_SHOT) == family.model.startswith("Auto")
        assert hasattr(transformers, family.model) and hasattr(transformers, family.processor)


def test_a_loaded_model_is_kept(owlv2):
    assert backend(owlv2).load() is backend(owlv2, nms_iou=0.3).load()
    assert any(key[0] == "detector" for key in devices.loaded())


def test_check_counts_the_tokens_of_every_query(owlv2):
    """The tiny OWLv2 takes 40 tokens, a letter each and two ends; the query's own words are 8 letters of them."""
    names = ["cat", "b" * 30, "c" * 31, "d" * 40]
    categories = tuple(Category(i, name) for i, name in enumerate(names, 1))
    made = detector.Backend(detector.Config(use="detector", model=str(owlv2), prompt="a photo of {}"), categories)
    problems = list(made.check(REQUEST))
    assert [p.field for p in problems] == [".prompt"] * 2
    assert all(f"'{names[i]}' has {n} tokens, and OWLv2 takes 40" in p.message
               for i, n, p in zip((2, 3), (41, 50), problems, strict=True))  # fmt: skip
    many = tuple(Category(i, f"{'z' * 45}{'abcdefghijklmnopqrstuvwxyz'[i]}") for i in range(25))
    made = detector.Backend(detector.Config(use="detector", model=str(owlv2)), many)
    assert len(problems := list(made.check(REQUEST))) == 21 and "5 more" in problems[-1].message
