"""The models of a spec with their licences, and the specs that are refused for them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from synthgen.errors import Problem, SpecError
from synthgen.models import MINI
from synthgen.pipeline.build import Build
from synthgen.pipeline.check import check
from synthgen.pipeline.licences import recorded_models
from synthgen.spec import DatasetSpec

SpecFile = Callable[..., Path]


@pytest.fixture
def clip(tmp_path: Path) -> Callable[[str], str]:
    """Copies the embedded CLIP into a folder that states a licence in its README.md -> the folder's name."""

    def copy(header: str) -> str:
        folder = tmp_path / "clip"
        shutil.copytree(MINI / "clip", folder)
        card = json.loads((folder / "synthgen.json").read_bytes())
        del card["licence"]
        (folder / "synthgen.json").write_text(json.dumps(card))
        (folder / "README.md").write_text(header)
        return str(folder)

    return copy


def with_clip(good: dict[str, Any], model: str, **licence: Any) -> dict[str, Any]:
    return {**good, "filters": {"prompt_agreement": {"model": model, "min": 0.1}}, "licence": licence}


def problems(raw: dict[str, Any], out: Path) -> list[Problem]:
    try:
        check(DatasetSpec.parse(raw), out)
    except SpecError as error:
        return list(error.problems)
    return []


OWN = "---\nlicense: other\nlicense_name: ours\nlicense_link: https://example.org/ours\n---\n"


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("---\nlicense: apache-2.0\n---\n", ""),
        ("---\nlicense: cc-by-nc-4.0\n---\n", "its licence is cc-by-nc-4.0: images and labels may not be used "
         "commercially (the model may only be run for non-commercial purposes); take another model, or add "),
        (OWN, "its licence is ours <https://example.org/ours>, and synthgen does not know what that allows; read it, "),
        ("---\nlicense: krea-2-community-license\n---\n", "commercial use is for those whose yearly revenue is below "
         "$1 million; add "),
        ("# No header", "it states no licence, and synthgen does not know what that allows; read it, and add "),
    ],
)  # fmt: skip
def test_the_gate(header: str, message: str, good: dict[str, Any], clip: Callable[[str], str], tmp_path: Path) -> None:
    model = clip(header)
    assert problems(with_clip(good, model, commercial=False), tmp_path) == []
    found = problems(with_clip(good, model, commercial=True), tmp_path)
    assert [problem.field for problem in found] == ["filters.prompt_agreement.model"] * bool(message)
    assert all(message in problem.message and "`licence.accept`" in problem.message for problem in found)
    assert problems(with_clip(good, model, commercial=True, accept=[model]), tmp_path) == []


def test_accept_takes_models_of_the_spec(good: dict[str, Any], tmp_path: Path) -> None:
    (problem,) = problems({**good, "licence": {"accept": ["mini", "minni"]}}, tmp_path)
    assert problem.field == "licence.accept.1"
    assert problem.message == "got 'minni' (did you mean 'mini'?); takes models as this spec names them: mini"


def test_accept_takes_folders_as_models_do(
    good: dict[str, Any], clip: Callable[[str], str], synthgen: Any, tmp_path: Path
) -> None:
    """`./` in a spec is the folder of the spec; a filter's model is looked for where the command runs."""
    model = clip("# No header")
    (tmp_path / "specs").mkdir()
    for number, (named, accepted) in enumerate([(model, "../clip"), (model, f"{model}/"), ("./clip", "../clip")]):
        file = tmp_path / "specs" / f"{number}.yaml"
        file.write_text(json.dumps(with_clip(good, named, commercial=True, accept=[accepted])))
        code, _, err = synthgen("check", file)
        assert (code, err) == (0, "")


def test_a_model_that_is_not_here_is_refused_if_its_licence_is_known(good: dict[str, Any], tmp_path: Path) -> None:
    """Before anybody downloads 24 GB. What is not known of it can be said once it is here."""
    for name, refused in (("black-forest-labs/FLUX.1-dev", 1), ("me/model", 0)):
        raw = {**good, "layout": None, "generator": {"model": name}, "grounder": {"use": "detector", "model": "me/d"}}
        found = [p for p in problems({**raw, "licence": {"commercial": True}}, tmp_path) if "commercial" in p.message]
        assert [problem.field for problem in found] == ["generator.model"] * refused


def test_check_and_run_refuse(
    synthgen: Any, spec_file: SpecFile, good: dict[str, Any], clip: Callable[[str], str]
) -> None:
    model = clip("---\nlicense: cc-by-nc-4.0\n---\n")
    allowed = spec_file(with_clip(good, model), "allowed.yaml")
    code, out, err = synthgen("check", allowed)
    assert (code, err) == (0, "")
    assert (
        f"licence: {model!r} (filters.prompt_agreement.model): cc-by-nc-4.0: images and labels may not be used" in out
    )
    for command in ("check", "run"):
        code, out, err = synthgen(command, allowed, "--set", "licence.commercial=true")
        assert code == 2 and "filters.prompt_agreement.model: got " in err and "cc-by-nc-4.0" in err


def test_a_run_records_what_its_models_state(finished: Build) -> None:
    recorded = finished.run.facts.read()["models"]
    found = recorded_models(recorded)
    assert {model.field for model in found} >= {"generator.model", "segmenter.model"}
    assert {(model.name, model.licence.name, model.licence.commercial) for model in found} == {
        ("mini", "Apache-2.0", "yes")
    }
    earlier = {key: {k: v for k, v in model.items() if k != "stated"} for key, model in recorded.items()}
    assert [model.licence for model in recorded_models(earlier)] == [model.licence for model in found]
    earlier = {"generator": {"model": "Qwen/Qwen-Image-2.1", "revision": None, "weights": "w", "licences": []}}
    (model,) = recorded_models(earlier)
    assert (model.field, model.licence.commercial) == ("generator.model", "no")
