"""`synthgen new`: the spec to start from explains every key there is, truly, and runs as it stands."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from synthgen import cli, spec
from synthgen.backends import KINDS, backend_module, builtin
from synthgen.spec import (
    ClassSpec,
    DatasetSpec,
    LayoutSpec,
    PromptSpec,
    ProvenanceSpec,
    SigningSpec,
    Template,
    load_spec,
)

TEXT = (Path(spec.__file__).parent / "template.yaml").read_text(encoding="utf-8")
RAW = yaml.safe_load(TEXT)
# Keys whose value in the template is not the default, where the template says so.
CHOSEN = {"count", "height", "width", "shard_size", "classes", "objects_per_image", "prompts", "layout", "name"}


def synthgen(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["synthgen", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_new_makes_a_spec_that_is_good(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert synthgen(monkeypatch, "new", "toys") == 0
    assert "synthgen check toys.yaml" in capsys.readouterr().out
    assert load_spec(folder / "toys.yaml").name == "toys"
    assert (folder / "toys.yaml").read_text(encoding="utf-8").replace("toys", "NAME", 1) == TEXT
    assert synthgen(monkeypatch, "check", "toys.yaml") == 0
    assert [p.name for p in folder.iterdir()] == ["toys.yaml"]


def test_new_overwrites_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "toys.yaml").write_text("mine")
    assert synthgen(monkeypatch, "new", "toys") == 2
    assert capsys.readouterr().err == "error: toys.yaml exists already; take another name\n"
    assert (folder / "toys.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    "name", ["../toys", "a/b", "/tmp/toys", "", " ", ".toys", "a b", "x" * 65, "{a: b}", "a: b", "é", "-x", "*"]
)
def test_new_refuses_bad_names(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert synthgen(monkeypatch, "new", "--", name) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: name: got {name!r}; takes letters, digits") and err.count("\n") == 1
    assert not list(folder.iterdir())


@pytest.mark.parametrize("name", ["7", "yes", "1e3", "null", "007", "NAME", "2026-01-01"])
def test_new_quotes_names_that_yaml_reads_as_something_else(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert synthgen(monkeypatch, "new", name) == 0
    assert load_spec(folder / f"{name}.yaml").name == name


def sections() -> dict[str, str]:
    """Top-level key -> its text, with what stands commented out taken in."""
    parts = re.split(r"(?m)^(?:# )?(?=[a-z_]+:(?:\s|$))", TEXT)
    found: dict[str, str] = {}
    for part in parts:
        key = part.partition(":")[0]
        found[key] = found.get(key, "") + re.sub(r"(?m)^# ", "", part)
    return found


def wanted() -> list[tuple[str, str]]:
    """(top-level key, key in it) of every key that a spec takes."""
    pairs = [(key, key) for key in DatasetSpec.model_fields]
    pairs += [("classes", key) for key in ClassSpec.model_fields]
    pairs += [("prompts", key) for model in (PromptSpec, Template) for key in model.model_fields]
    pairs += [("layout", key) for key in LayoutSpec.model_fields]
    pairs += [("provenance", key) for model in (ProvenanceSpec, SigningSpec) for key in model.model_fields]
    for kind in KINDS.values():
        for name in builtin(kind.name):
            pairs += [(kind.key, name)]
            pairs += [(kind.key, key) for key in backend_module(kind.name, name).Config.model_fields]
    return sorted(set(pairs))


@pytest.mark.parametrize(("section", "key"), wanted())
def test_every_key_stands_in_the_template(section: str, key: str) -> None:
    assert re.search(rf"(?m)(?:^|[\s{{-]){key}\b", sections()[section])


def test_what_is_called_a_default_is_one() -> None:
    def parse(raw: dict[str, Any]) -> dict[str, Any]:
        return DatasetSpec.parse(raw).dump()

    short = {key: value for key, value in RAW.items() if key in CHOSEN}
    assert parse(RAW) == parse(short)
    fields = {**LayoutSpec.model_fields, **DatasetSpec.model_fields}
    assert fields["size"].default == (0.3, 0.55) and fields["shard_size"].default == 64  # said in comments
    assert fields["objects_per_image"].default == {1: 1.0}
    assert tuple(RAW["filters"]) == KINDS["filter"].defaults


def test_the_detector_that_is_commented_out_has_its_defaults() -> None:
    grounder = yaml.safe_load(re.sub(r"(?m)^# ", "", TEXT[TEXT.index("# grounder:") :].split("\n\n")[0]))["grounder"]
    config = backend_module("grounder", "detector").Config
    assert config.model_validate(grounder) == config(use="detector")
    assert set(grounder) == set(config.model_fields)


def test_the_sdxl_that_is_commented_out_is_valid() -> None:
    generator = yaml.safe_load(re.sub(r"(?m)^# ", "", TEXT[TEXT.index("# generator:") :].split("\n\n")[0]))["generator"]
    assert backend_module("generator", "diffusion").Config.model_validate(generator).model.startswith("stabilityai/")
