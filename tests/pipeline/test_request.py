"""One object carries what a run is asked for; the spec is read and checked once a command."""

import pickle
import sys
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import yaml

from synthgen import schedule
from synthgen.errors import RunError, SpecError
from synthgen.flow import build_dataset
from synthgen.pipeline.check import check
from synthgen.pipeline.request import BuildRequest
from synthgen.spec import load_spec

Synthgen = Callable[..., tuple[int, str, str]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of `load_spec` and `check`, as often as they are called, by whatever module."""
    made: list[str] = []

    def counting(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            made.append(function.__name__)
            return function(*arguments, **options)

        return call

    for function in (load_spec, check):
        for name, module in list(sys.modules.items()):
            if name.startswith("synthgen.") and vars(module).get(function.__name__) is function:
                monkeypatch.setattr(module, function.__name__, counting(function))
    return made


@pytest.mark.parametrize("command", ["run", "check", "plan"])
def test_a_command_reads_and_checks_a_spec_once(
    command: str, calls: list[str], synthgen: Synthgen, quick: dict[str, Any], copied: Path, tmp_path: Path
) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump(quick, sort_keys=False))
    code, out, _ = synthgen(command, spec, "--out", copied)
    assert code in {0, 3} and (command != "run" or "nothing to do" in out)
    assert calls == ["load_spec", "check"]


@pytest.mark.parametrize("command", ["label", "judge", "export"])
def test_a_stage_alone_takes_the_spec_of_the_run_as_it_is(
    command: str, calls: list[str], synthgen: Synthgen, copied: Path
) -> None:
    assert synthgen(command, copied / "fruit" / "run-0001", "--quiet")[0] in {0, 3}
    assert calls == []


def test_a_schedule_reads_and_checks_its_spec_once(
    calls: list[str], synthgen: Synthgen, spec_file: Any, good: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def served(services: bool) -> None:
        raise RunError("it would be served now")

    monkeypatch.setattr(schedule, "served", served)
    code, out, err = synthgen("schedule", spec_file(good), "--interval", "60")
    assert (code, err) == (2, "error: it would be served now\n")
    assert out.startswith(f"{good['name']}: every 60 s; next ")
    assert calls == ["load_spec", "check"]


def test_what_is_read_is_kept_and_travels_to_another_run(calls: list[str], spec_file: Any, good: Any) -> None:
    request = BuildRequest(spec_file(good), overrides=("count=5",))
    assert request.spec.count == 5 and request.stages is request.stages
    assert request.run is request.run and request.run.number == 1  # whoever has the run has its lock
    other = request.numbered(7)
    assert (request.number, other.number, other.run.root.name) == (1, 7, "run-0007")
    assert other.stages is request.stages and other.spec is request.spec
    assert calls == ["load_spec", "check"]


def test_its_parameters_are_those_of_the_flow(spec_file: Any, good: Any) -> None:
    request = BuildRequest(spec_file(good), number=3, strict=True)
    assert [*request.parameters()] == [*signature(build_dataset.fn).parameters]
    defaults = {name: p.default for name, p in signature(build_dataset.fn).parameters.items() if name != "spec"}
    assert {n: v for n, v in BuildRequest(spec_file(good)).parameters().items() if n != "spec"} == defaults
    with pytest.raises(FrozenInstanceError):
        request.number = 4  # type: ignore[misc]


def test_problems_come_at_first_use(tmp_path: Path, spec_file: Any, good: Any) -> None:
    for request, name in (
        (BuildRequest(spec_file({**good, "count": 0}, "a.yaml")), "spec"),
        (BuildRequest(spec_file({**good, "generator": {"model": "no/where"}}, "b.yaml")), "stages"),
        (BuildRequest(spec_file(good), profile_file=tmp_path / "none.yaml"), "profile"),
    ):
        with pytest.raises(SpecError):
            getattr(request, name)


def test_a_request_goes_to_workers_as_its_parameters(spec_file: Any, good: dict[str, Any], tmp_path: Path) -> None:
    """What this process has read stays here: the run holds its lock."""
    request = BuildRequest(spec_file(good), tmp_path / "out")
    request.check()
    with request.run.lock():
        sent = pickle.loads(pickle.dumps(request))
    assert sent == request
    assert not {"run", "stages"} & vars(sent).keys()
    assert sent.run.root == request.run.root
