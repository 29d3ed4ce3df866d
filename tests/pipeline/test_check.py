"""What `check` reports of a spec and its backends together."""

from pathlib import Path
from typing import Any

import pytest

from synthgen.errors import SpecError
from synthgen.pipeline.check import advice, check
from synthgen.pipeline.stages import Stages
from synthgen.spec import DatasetSpec


@pytest.mark.parametrize("name", ["aple", "witch's aple", 'a "red" aple'])
def test_a_class_that_no_model_knows_is_one_problem(good: dict[str, Any], tmp_path: Path, name: str) -> None:
    """The generator and the CLIP of a filter do not know it; whatever quotes stand in its name."""
    spec = DatasetSpec.parse({**good, "classes": ["tree", name], "filters": {"class_agreement": None}})
    with pytest.raises(SpecError) as error:
        check(spec, tmp_path)
    assert [problem.field for problem in error.value.problems if problem.subject == name] == ["classes"]
    assert not [problem for problem in error.value.problems if problem.field.startswith("filters")]


def test_a_word_that_only_a_filter_does_not_know_is_a_problem_of_the_filter(
    good: dict[str, Any], tmp_path: Path
) -> None:
    options = {"class_agreement": {"confusables": {"apple": ["aple"]}}}
    with pytest.raises(SpecError) as error:
        check(DatasetSpec.parse({**good, "filters": options}), tmp_path)
    (problem,) = error.value.problems
    assert (problem.field, problem.subject) == ("filters.class_agreement.model", "aple")


def fields(good: dict[str, Any], tmp_path: Path, **options: Any) -> list[str]:
    with pytest.raises(SpecError) as error:
        check(DatasetSpec.parse({**good, **options}), tmp_path)
    return [problem.field for problem in error.value.problems]


def test_a_score_needs_a_grounder_that_gives_it_and_a_filter_that_judges_it(
    good: dict[str, Any], tmp_path: Path
) -> None:
    detector = {"use": "detector", "model": str(tmp_path), "exclusive": [["apple", "tree"]]}
    margin = {"class_margin": None}
    assert fields(good, tmp_path, filters=margin) == ["filters.class_margin.use"]
    assert fields(good, tmp_path, grounder=detector) == ["grounder.exclusive", "grounder.model"]
    assert fields(good, tmp_path, grounder=detector, filters=margin) == ["grounder.model"]
    mine = {"mine": {"use": "class_margin"}}
    assert fields(good, tmp_path, grounder=detector, filters=mine) == ["grounder.model"]


def test_a_note_about_a_model_of_a_nested_grounder_names_its_place(
    good: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "me" / "finder").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    grounder = {"use": "agreement", "of": ["layout", {"use": "detector", "model": "me/finder", "tile_overlap": 0.5}]}
    spec = DatasetSpec.parse({**good, "grounder": grounder})
    found = [note.field for note in advice(spec, Stages.of(spec))]
    assert found == ["grounder.of.1.model", "grounder.of.1.tile_overlap"]
