"""What two grounders see: numbers made by hand, and two real detectors."""

import json
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import tiny_detectors

from synthgen import masks
from synthgen.backends import Request, environment_of
from synthgen.errors import SpecError
from synthgen.filters import witnesses
from synthgen.grounders import agreement, detector, layout
from synthgen.spec.options import parse_options
from synthgen.types import Category, Grounding, Instances, Job, Sample

CATEGORIES = (Category(1, "cat"), Category(2, "dog"))
REQUEST = Request(100, 100, has_layout=True, words=frozenset())
IMAGE = np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8)


def job(*asked, boxes=None):
    return Job(1, 1, 0, 0, "f", "train", "a prompt", "", {}, asked, boxes, 1, 100, 100)


def grounding(*rows, **scores):
    """`rows`: (left, top, right, bottom, class)."""
    table = np.array(rows, np.float32).reshape(-1, 5)
    found = {name: np.array(values, np.float32) for name, values in scores.items()}
    return Grounding(table[:, :4].copy(), table[:, 4].astype(np.int64), found)


def test_what_both_see_has_the_first_box_and_both_scores():
    first = grounding((0, 0, 10, 10, 1), (50, 50, 60, 60, 2), grounding_score=[0.9, 0.8])
    second = grounding((50, 50, 60, 58, 2), (0, 0, 10, 8, 1), grounding_score=[0.7, 0.6])
    found = agreement.agreement(first, second, 0.5)
    np.testing.assert_array_equal(found.boxes, first.boxes)
    assert found.category_id.tolist() == [1, 2]
    assert {name: values.tolist() for name, values in found.scores.items()} == {
        "witnesses": [2, 2],
        "grounding_score": pytest.approx([0.9, 0.8]),
        "witness_score": pytest.approx([0.6, 0.7]),
    }


def test_what_one_sees_is_kept_with_one_witness():
    first = grounding((0, 0, 10, 10, 1), grounding_score=[0.9])
    second = grounding((0, 0, 10, 4, 1), (0, 0, 10, 10, 2), grounding_score=[0.7, 0.6])  # IoU 0.4; another class
    found = agreement.agreement(first, second, 0.5)
    assert found.boxes.tolist() == [[0, 0, 10, 10], [0, 0, 10, 4], [0, 0, 10, 10]]
    assert found.category_id.tolist() == [1, 1, 2]
    assert found.scores["witnesses"].tolist() == [1, 1, 1]
    assert found.scores["grounding_score"].tolist() == pytest.approx([0.9, 0, 0])
    assert found.scores["witness_score"].tolist() == pytest.approx([0, 0.7, 0.6])
    assert agreement.agreement(first, second, 0.4).scores["witnesses"].tolist() == [2, 1]  # at least


# Boxes of one height, told apart by their left and right; IoU of (0, 10) with (2, 12) is 8/12.
@pytest.mark.parametrize(
    ("first", "second", "pairs"),
    [
        ([(0, 10)], [(4, 14), (1, 11)], {0: 1}),  # the better of two
        ([(0, 10), (2, 12)], [(2, 12)], {1: 0}),  # each once; the best pair first
        ([(0, 10), (2, 12)], [(2, 12), (1, 11)], {1: 0, 0: 1}),
        ([(0, 10), (1, 11)], [(1, 11), (2, 12)], {1: 0, 0: 1}),  # 0 takes 1 at 8/12, although it is nearer to 0
        ([(0, 10)], [(0, 10), (0, 10)], {0: 0}),  # ties in order
        ([], [(0, 10)], {}),
        ([(0, 10)], [], {}),
        ([], [], {}),
    ],
)
def test_matching_is_one_to_one_and_by_the_best_overlap(first, second, pairs):
    made = [grounding(*((left, 0, right, 10, 1) for left, right in spans)) for spans in (first, second)]
    assert agreement.matched(*made, 0.4) == pairs


def test_other_scores_of_both_are_kept():
    first = grounding((0, 0, 10, 10, 1), (50, 50, 60, 60, 2), grounding_score=[0.9, 0.8], mine=[0.1, 0.2])
    second = grounding(
        (0, 0, 10, 10, 1), (20, 20, 30, 30, 2), grounding_score=[0.7, 0.6], class_margin=[0.5, 0.4], mine=[0.3, 0.4]
    )
    scores = agreement.agreement(first, second, 0.5).scores
    assert scores["mine"].tolist() == pytest.approx([0.1, 0.2, 0.4])  # the first's, where it sees the object
    assert scores["class_margin"].tolist() == pytest.approx([0.5, 0, 0.4])


def test_a_layout_is_sure_of_its_boxes():
    config = agreement.Config(use="agreement", of=(layout.Config(use="layout"),) * 2)
    (found,) = agreement.Backend(config, CATEGORIES).ground(
        [job(1, 2, boxes=((0, 0, 10, 10), (20, 20, 50, 50)))], [IMAGE]
    )
    assert found.scores["grounding_score"].tolist() == found.scores["witness_score"].tolist() == [1, 1]
    assert found.scores["witnesses"].tolist() == [2, 2]
    (found,) = agreement.Backend(config, CATEGORIES).ground([job(boxes=())], [IMAGE])
    assert len(found) == 0 and set(found.scores) == {"witnesses", "grounding_score", "witness_score"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return (
        tiny.save_owlv2(tmp_path_factory.mktemp("owlv2")),
        tiny_detectors.save_sam3(tmp_path_factory.mktemp("sam3")),
    )


def options(folders, **more):
    of = [
        {"use": "detector", "model": str(folder), "device": "cpu", "torch_dtype": "float32", "score_threshold": 0.0}
        for folder in folders
    ]
    return parse_options("grounder", "grounder", {"use": "agreement", "of": of, **more}, "layout", None)


def test_two_real_detectors_agree_where_their_boxes_do(folders):
    config = options(folders)
    alone = [detector.Backend(one, CATEGORIES).ground([job(1, 2)], [IMAGE])[0] for one in config.of]
    iou = masks.box_iou(alone[0].boxes, alone[1].boxes)
    iou = iou[alone[0].category_id[:, None] == alone[1].category_id]
    made = agreement.Backend(options(folders, min_iou=float(np.median(iou[iou > 0]))), CATEGORIES)
    (found,) = made.ground([job(1, 2)], [IMAGE])
    assert set(found.scores) == made.score_names()
    both = found.scores["witnesses"] == 2
    np.testing.assert_array_equal(found.boxes[: len(alone[0])], alone[0].boxes)
    assert 0 < both.sum() < len(found) == len(alone[0]) + len(alone[1]) - both.sum()
    np.testing.assert_array_equal(found.scores["grounding_score"][: len(alone[0])], alone[0].scores["grounding_score"])
    seen = found.scores["witness_score"] > 0
    assert sorted(found.scores["witness_score"][seen]) == sorted(alone[1].scores["grounding_score"])


def test_models_identity_and_problems_are_of_both(folders, tmp_path):
    made = agreement.Backend(options(folders), CATEGORIES)
    assert len(made.models()) == 2
    assert made.identity() == " ".join(part.identity() for part in made.nested().values())
    assert list(made.check(REQUEST)) == []
    absent = agreement.Backend(options((folders[0], tmp_path / "none")), CATEGORIES)
    assert [problem.field for problem in absent.check(REQUEST)] == [".of.1.model"]


def request(scores: Sequence[str] | None = None, judged: Sequence[str] | None = None):
    scores, judged = (None if names is None else frozenset(names) for names in (scores, judged))
    return Request(100, 100, has_layout=False, words=frozenset(), scores=scores, judged=judged)


def test_check_wants_the_filter_and_asks_both_grounders():
    config = agreement.Config(
        use="agreement", of=(layout.Config(use="layout"), detector.Config(use="detector", model="/no"))
    )
    made = agreement.Backend(config, CATEGORIES)
    found = {problem.field: problem.message for problem in made.check(request(judged=()))}
    assert set(found) == {".of", "layout", ".of.1.model"} and "`witnesses: {on_fail: ignore}`" in found[".of"]
    assert ".of" not in {problem.field for problem in made.check(request(judged=("witnesses",)))}


def test_the_filter_wants_the_grounder():
    made = witnesses.Backend(witnesses.Config(use="witnesses"), CATEGORIES)
    (problem,) = made.check(request(scores=("grounding_score",)))
    assert problem.field == ".use" and "takes `use: agreement`" in problem.message
    assert not list(made.check(request(scores=("witnesses",)))) and not list(made.check(request()))


def test_the_filter_fails_what_one_sees():
    made = witnesses.Backend(witnesses.Config(use="witnesses"), CATEGORIES)
    scores = {"witnesses": np.array([2, 1], np.float32)}
    instances = Instances(np.ones((2, 100, 100), bool), np.zeros((2, 4), np.float32), np.array([1, 2]), scores)
    assert made.fails(made.measure(Sample(job(1), IMAGE, instances))).tolist() == [False, True]


@pytest.mark.parametrize(
    ("of", "field", "message"),
    [
        (["layout", {"use": "detectr"}], "grounder.of.1.use", "'detectr' (did you mean 'detector'?)"),
        (["layout", {"use": "detector", "modl": "x"}], "grounder.of.1.modl", "unknown key (did you mean 'model'?)"),
        (["layout", {"use": "detector", "nms_iou": 2}], "grounder.of.1.nms_iou", "got 2"),
        (["layout", {"model": "x"}], "grounder.of.1.use", "missing, and has no default"),
        (["layout", 3], "grounder.of.1", "got 3; takes a name or a mapping of options"),
        (["layout", {"use": "agreement", "of": ["layout", "layout"]}], "grounder.of.1.use", "takes another grounder"),
        (["layout"], "grounder.of", "2"),
        (["layout"] * 3, "grounder.of", "2"),
        ("layout", "grounder.of", "got 'layout'"),
        ({"a": 1}, "grounder.of", "got"),
        (None, "grounder.of", "missing"),
    ],
)  # fmt: skip
def test_errors_in_the_options_of_a_part_are_those_of_a_section(of, field, message):
    raw = {"use": "agreement", **({} if of is None else {"of": of})}
    with pytest.raises(SpecError) as error:
        parse_options("grounder", "grounder", raw, "layout", None)
    (problem,) = error.value.problems
    assert problem.field == field and message in problem.message and "\n" not in problem.message


def test_all_problems_of_the_parts_are_said():
    raw = {"use": "agreement", "of": [{"use": "detectr"}, {"use": "detector", "modl": "x"}]}
    with pytest.raises(SpecError) as error:
        parse_options("grounder", "grounder", raw, "layout", None)
    assert [problem.field for problem in error.value.problems] == ["grounder.of.0.use", "grounder.of.1.modl"]


def test_the_fingerprint_has_those_of_the_parts(folders):
    config = options(folders)
    assert config.fingerprint() == {
        "use": "agreement", "of": [part.fingerprint() for part in config.of], "min_iou": 0.5
    }  # fmt: skip
    assert "model" not in json.dumps(config.fingerprint())  # the weights' identity names them
    assert set(environment_of(config)) == {"of.0", "of.1"}
    assert environment_of(config)["of.1"] == config.of[1].environment()


def test_scores_are_not_known_if_those_of_a_part_are_not(monkeypatch):
    own = SimpleNamespace(Backend=lambda *_: SimpleNamespace(score_names=lambda: None, looks_for="asked"))
    monkeypatch.setattr(agreement, "backend_module", lambda *_: own)
    config = agreement.Config(use="agreement", of=(layout.Config(use="layout"),) * 2)
    assert agreement.Backend(config, CATEGORIES).score_names() is None
