"""Classes that contradict each other: which of them an object is of, and how sure that is. Numbers made by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import tiny

from synthgen.backends import Request
from synthgen.filters import class_margin
from synthgen.grounders import _detectors, detector
from synthgen.types import Category, Instances, Job, Sample

CATEGORIES = (Category(1, "with helmet", ("helmeted",)), Category(2, "without helmet"), Category(3, "bicycle"))
PAIR = (("with helmet", "without helmet"),)
PERSON, ALMOST, ELSEWHERE = (10, 10, 50, 90), (10, 10, 50, 70), (60, 10, 95, 90)  # IoU of the first two: 0.75


def backend(**options):
    return detector.Backend(detector.Config(use="detector", **{"exclusive": PAIR, **options}), CATEGORIES)


def job(*asked):
    return Job(1, 1, 0, 0, "f", "train", "a prompt", "", {}, asked, None, 1, 100, 100)


def ground(monkeypatch, boxes, scores, asked=(1, 2, 3), **options):
    """`scores`: of each box, for the queries: with helmet, helmeted, without helmet, bicycle."""
    made, seen = backend(**options), []
    scores = np.clip(np.array(scores), 1e-9, 1 - 1e-9)

    def answers(_, pictures, texts):
        seen.extend(texts)
        return [(np.array(boxes, np.float32), np.log(scores / (1 - scores)).astype(np.float32)) for _ in pictures]

    monkeypatch.setattr(detector, "answers", answers)
    monkeypatch.setattr(made, "load", lambda: SimpleNamespace(family=_detectors.FAMILIES["sam3"]))
    (found,) = made.ground([job(*asked)], [np.zeros((100, 100, 3), np.uint8)])
    return found, seen


def margins(found):
    return found.scores["class_margin"].tolist()


def test_the_better_of_two_boxes_stays_with_its_margin(monkeypatch):
    """As SAM 3 answers: each class has boxes of its own, and both are sure."""
    found, _ = ground(monkeypatch, [PERSON, ALMOST], [[0.95, 0, 0, 0], [0, 0, 0.91, 0]])
    assert found.category_id.tolist() == [1] and found.boxes.tolist() == [list(map(float, PERSON))]
    assert margins(found) == pytest.approx([0.04], abs=1e-6)


@pytest.mark.parametrize("nms_iou", [0.5, 1.0])
def test_a_box_has_a_margin_by_its_own_scores(monkeypatch, nms_iou):
    """As OWLv2 answers: each box has a score for every class."""
    found, _ = ground(monkeypatch, [PERSON, ELSEWHERE], [[0.6, 0.2, 0.5, 0], [0.1, 0.3, 0.9, 0]], nms_iou=nms_iou)
    assert found.category_id.tolist() == [2, 1]
    assert margins(found) == pytest.approx([0.9 - 0.3, 0.6 - 0.5], abs=1e-6)


def test_a_rival_below_the_threshold_counts(monkeypatch):
    found, _ = ground(monkeypatch, [PERSON, ALMOST], [[0.3, 0, 0, 0], [0, 0, 0.19, 0]], score_threshold=0.2)
    assert margins(found) == pytest.approx([0.11], abs=1e-6)


def test_without_a_rival_the_margin_is_the_score_and_other_classes_have_1(monkeypatch):
    found, _ = ground(monkeypatch, [PERSON, ELSEWHERE, ALMOST], [[0.8, 0, 0, 0], [0, 0, 0, 0.7], [0, 0, 0, 0.6]])
    assert found.category_id.tolist() == [1, 3, 3]  # a bicycle contradicts nothing, wherever it is
    assert margins(found) == pytest.approx([0.8, 1, 1], abs=1e-6)


def test_two_persons_beside_each_other_are_two(monkeypatch):
    found, _ = ground(monkeypatch, [PERSON, ELSEWHERE], [[0.95, 0, 0, 0], [0, 0, 0.91, 0]])
    assert sorted(found.category_id.tolist()) == [1, 2]
    assert margins(found) == pytest.approx([0.95, 0.91], abs=1e-6)


def test_without_the_option_both_stay(monkeypatch):
    found, _ = ground(monkeypatch, [PERSON, ALMOST], [[0.95, 0, 0, 0], [0, 0, 0.91, 0]], exclusive=())
    assert found.category_id.tolist() == [1, 2] and set(found.scores) == {"grounding_score"}


def test_the_contradicting_class_is_looked_for_too(monkeypatch):
    """Asked for a helmet, a detector may call anybody's head one. Who is found to have none is labelled so."""
    found, seen = ground(monkeypatch, [PERSON], [[0.7, 0.1, 0.9]], asked=(1,))
    assert seen == [["with helmet", "helmeted", "without helmet"]]
    assert found.category_id.tolist() == [2] and margins(found) == pytest.approx([0.2], abs=1e-6)
    _, seen = ground(monkeypatch, [PERSON], [[0.9]], asked=(3,))
    assert seen == [["bicycle"]]


def test_an_image_that_asks_nothing_has_the_same_scores(monkeypatch):
    found, _ = ground(monkeypatch, [PERSON], [[0.9]], asked=())
    assert {name: values.shape for name, values in found.scores.items()} == {
        "class_margin": (0,),
        "grounding_score": (0,),
    }


def request(scores=None, judged=None):
    return Request(100, 100, has_layout=False, words=frozenset(), max_objects=1, scores=scores, judged=judged)


@pytest.mark.parametrize(
    ("exclusive", "message"),
    [
        ((("with helmet", "without helmt"),), "'without helmt' (did you mean 'without helmet'?); takes: with helmet"),
        ((("with helmet", "bicycle"), ("bicycle", "without helmet")), "got 'bicycle' twice; takes each class once"),
    ],
)
def test_check_knows_the_classes(exclusive, message):
    problems = [p for p in backend(exclusive=exclusive).check(request()) if p.field == ".exclusive"]
    assert len(problems) == 1 and message in problems[0].message


def test_check_wants_the_filter_that_judges_margins():
    def problems(*judged):
        found = backend().check(request(judged=frozenset(judged)))
        return [p.message for p in found if p.field == ".exclusive"]

    unjudged, judged = problems(), problems("class_margin")
    assert len(unjudged) == 1 and "`class_margin: {min: 0.1, on_fail: reject}`" in unjudged[0] and not judged
    assert not [p for p in backend(exclusive=()).check(request(judged=frozenset())) if p.field == ".exclusive"]


def test_the_filter_wants_the_grounder_that_gives_margins():
    made = class_margin.Backend(class_margin.Config(use="class_margin"), CATEGORIES)
    (problem,) = made.check(request(scores=detector.Backend(detector.Config(use="detector"), CATEGORIES).score_names()))
    assert problem.field == ".use" and "takes `use: detector` with `exclusive`" in problem.message
    assert not list(made.check(request(scores=backend().score_names()))) and not list(made.check(request()))


def test_the_filter_judges_the_margin():
    made = class_margin.Backend(class_margin.Config(use="class_margin", min=0.1), CATEGORIES)
    scores = {"class_margin": np.array([0.04, 0.1, 1], np.float32)}
    masks = np.ones((3, 100, 100), bool)
    instances = Instances(masks, np.zeros((3, 4), np.float32), np.array([1, 2, 3]), scores)
    sample = Sample(job(1), np.zeros((100, 100, 3), np.uint8), instances)
    assert made.fails(made.measure(sample)).tolist() == [True, False, False]


def test_captions_are_counted_with_the_contradicting_classes(tmp_path):
    import tiny_detectors

    folder = tiny_detectors.save_grounding_dino(tmp_path)
    categories = (Category(1, " ".join(["dog"] * 14)), Category(2, " ".join(["cat"] * 14)), Category(3, "red"))
    for exclusive in ((), ((categories[0].name, categories[1].name),)):
        made = detector.Backend(detector.Config(use="detector", model=str(folder), exclusive=exclusive), categories)
        assert not list(made.check(request()))  # 15 + 15 + 2
    categories = (Category(1, " ".join(["dog"] * 15)), *categories[1:])
    made = detector.Backend(
        detector.Config(use="detector", model=str(folder), exclusive=((categories[0].name, categories[1].name),)),
        categories,
    )
    (problem,) = made.check(request())
    assert "of 2 classes" in problem.message and "33 tokens" in problem.message


def test_the_option_stands_in_the_fingerprint_if_it_is_used():
    assert "exclusive" not in detector.Config(use="detector").fingerprint()
    assert backend().config.fingerprint()["exclusive"] == [["with helmet", "without helmet"]]


def test_a_real_detector_gives_margins(tmp_path):
    folder = tiny.save_owlv2(tmp_path)
    made = backend(model=str(folder), device="cpu", torch_dtype="float32", score_threshold=0.0)
    image = np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8)
    (found,) = made.ground([job(1)], [image])
    assert len(found) and set(found.category_id.tolist()) <= {1, 2}
    assert (found.scores["class_margin"] < found.scores["grounding_score"]).all()
