"""What README and ARCHITECTURE say, held against what there is."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from synthgen.backends import backend_module, builtin
from synthgen.base.reading import load_yaml
from synthgen.cli import app
from synthgen.spec import DEFAULTS, DatasetSpec

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_spec_in_the_readme_is_the_one_that_new_writes() -> None:
    shown = README.partition("<!-- template -->\n```yaml\n")[2].partition("```\n<!-- /template -->")[0]
    template = (ROOT / "synthgen" / "spec" / "template.yaml").read_text(encoding="utf-8")
    assert shown == template.replace("NAME", "fruit", 1)
    DatasetSpec.parse(load_yaml(shown))


def test_every_command_and_option_in_the_readme_exists() -> None:
    table = README.partition("| command | what it does |")[2].partition("\n\n")[0]
    named = set(re.findall(r"`(?:synthgen )?([a-z]+)(?: [A-Z][^`]*)?`", table)) - {"synthgen"}
    assert named == set(COMMANDS)
    for line in re.findall(r"^\| `synthgen .*$", table, re.MULTILINE):
        command = COMMANDS[line.split("`")[1].split()[1]]
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert set(re.findall(r"`?(--[a-z-]+)", line)) <= known, line
    for line in re.findall(r"^\$ synthgen (\w+)", README, re.MULTILINE):
        assert line in COMMANDS


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^\$ make (\w+)", README, re.MULTILINE)
    assert targets == ["demo", "test"]
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_the_filters_table_names_every_filter_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", README, re.MULTILINE))
    assert set(rows) == set(builtin("filter"))
    assert tuple(rows)[: len(DEFAULTS["filters"])] == DEFAULTS["filters"]
    for name, said in rows.items():
        config = backend_module("filter", name).Config(use=name)
        limits = [getattr(config, key, None) for key in ("min", "max", "max_distance", "max_cosine")]
        assert [float(n) for n in re.findall(r"[\d.]+", said)] == [float(v) for v in limits if v is not None], name


def test_the_gpu_snippet_is_what_the_sdxl_spec_says() -> None:
    (snippet,) = [
        yaml.safe_load(b) for b in blocks(README, "yaml") if "stable-diffusion-xl" in b and "generator:" in b[:12]
    ]
    spec = yaml.safe_load((ROOT / "specs" / "sdxl_street.yaml").read_text(encoding="utf-8"))
    for key, options in snippet.items():
        assert spec[key] == options or options.items() <= spec[key].items(), key


def test_the_python_in_the_readme_loads_an_export(finished: Any) -> None:
    (code,) = [b for b in blocks(README, "python") if "CocoDetection" in b]
    found: dict[str, Any] = {}
    exec(code.replace("outputs/quickstart/run-0001", str(finished.run.root)), found)
    assert len(found["train"]) == len(found["coco"].imgs) > 0


def test_the_run_folder_in_the_readme_is_one(finished: Any) -> None:
    shown = README.partition("outputs/quickstart/run-0001/\n")[2].partition("```")[0]
    names = [word for line in shown.splitlines() for word in re.split(r"\s{2,}", line.strip())[0].split()]
    for name in names:
        assert list(finished.run.root.glob(name)), name


def test_the_filter_in_the_readme_is_the_one_that_is_tested() -> None:
    (code,) = [b for b in blocks(README, "python") if "ThresholdFilter" in b]
    assert code == (ROOT / "tests" / "mylab" / "redness.py").read_text(encoding="utf-8")


def test_every_measure_is_explained() -> None:
    """What it is, its unit, its source, its default and why, and what it does not see."""
    pages = [p.read_text(encoding="utf-8") for p in sorted((ROOT / "docs").glob("measures_*.md"))]
    entries = dict(re.findall(r"^## `(\w+)`\n(.*?)(?=^## |\Z)", "\n".join(pages), re.MULTILINE | re.DOTALL))
    assert set(entries) == set(builtin("filter"))
    for name, text in entries.items():
        for part in ("What it is", "Unit and range", "Source", "Default", "Does not see"):
            assert f"**{part}.**" in text, (name, part)


def test_the_architecture_names_every_module() -> None:
    package = ROOT / "synthgen"
    apart = {"generators", "grounders", "segmenters", "filters", "exporters", "mini"}  # a line says what is in them
    modules = {p.relative_to(package).as_posix() for p in package.rglob("*.py") if p.name[:2] != "__"}
    modules = {name for name in modules if name.partition("/")[0] not in apart}
    assert modules == set(re.findall(r"`([\w/]+\.py)`", ARCHITECTURE.partition("Imports point")[0]))


@pytest.mark.parametrize("path", [*(p.relative_to(ROOT) for p in ROOT.glob("*.md")), Path("docs")], ids=str)
def test_links_lead_somewhere(path: Path) -> None:
    if (ROOT / path).is_dir():
        assert (ROOT / path / "quickstart.webp").is_file()
        return
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / path).read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), target


def test_the_quickstart_in_the_readme_is_the_one_that_demo_runs() -> None:
    shown = README.partition("<!-- quickstart -->\n```yaml\n")[2].partition("```\n<!-- /quickstart -->")[0]
    assert shown == (ROOT / "specs" / "quickstart.yaml").read_text(encoding="utf-8")
