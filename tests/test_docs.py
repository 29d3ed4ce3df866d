"""What the README, the pages of the site and ARCHITECTURE say, held against what there is."""

import importlib.util
import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from synthgen.backends import KINDS, backend_module, builtin
from synthgen.base.safe_yaml import load_yaml
from synthgen.cli import app
from synthgen.generators._diffusion_parts_config import Embedding, Lora
from synthgen.orchestration.profile import Profile, load_profile
from synthgen.spec import (
    ClassSpec,
    DatasetSpec,
    LayoutSpec,
    LicenceSpec,
    PromptSpec,
    ProvenanceSpec,
    PublicationSpec,
    SigningSpec,
    Template,
    load_spec,
)

ROOT = Path(__file__).parent.parent
QUICKSTART = ROOT / "specs" / "quickstart.yaml"


def _hooks() -> Any:
    """What writes the generated parts of the site."""
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HOOKS = _hooks()
FILES = [*sorted(ROOT.glob("*.md")), ROOT / "outputs" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = {path.relative_to(ROOT).as_posix(): HOOKS.on_page_markdown(path.read_text(encoding="utf-8")) for path in FILES}
README, ARCHITECTURE = TEXTS["README.md"], TEXTS["ARCHITECTURE.md"]


def _commands() -> dict[str, Any]:
    root: Any = typer.main.get_command(app)
    context = root.make_context("synthgen", [], resilient_parsing=True)
    return {name: root.get_command(context, name).load() for name in root.list_commands(context)}


COMMANDS = _commands()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def options(command: Any) -> dict[str, Any]:
    return {flag: p for p in command.params for flag in (*p.opts, *p.secondary_opts) if flag.startswith("-")}


def command_lines() -> Iterator[Any]:
    """Every line of a block that calls `synthgen`, and the page that it stands on."""
    for page, text in TEXTS.items():
        for line in re.findall(r"^\$ (synthgen .*)$", text, re.MULTILINE):
            yield pytest.param(line, id=f"{page}: {line}")


def require_taken(command: Any, words: list[str]) -> None:
    """Every option is one of the command's, with a value if it takes one; there are as many arguments as it takes."""
    known, arguments = options(command), []
    left = iter(words)
    for word in left:
        flag, equals, _ = word.partition("=")
        if not flag.startswith("-"):
            arguments.append(word)
        else:
            assert flag in known, f"{command.name} takes no {flag}; it takes: {', '.join(known)}"
            if not known[flag].is_flag and not equals:
                assert next(left, None) is not None, f"{flag} takes a value"
    takes = [p for p in command.params if p.param_type_name == "argument"]
    several = any(p.nargs == -1 for p in takes) or any((p.metavar or "").endswith("...") for p in takes)
    required = [p for p in takes if p.required]
    assert len(required) <= len(arguments) and (several or len(arguments) <= len(takes)), arguments


@pytest.mark.parametrize("line", [*command_lines()])
def test_every_command_line_is_one_that_the_program_takes(line: str) -> None:
    _, name, *words = shlex.split(line, comments=True)
    assert name in COMMANDS
    require_taken(COMMANDS[name], words)
    for override in [after for word, after in pairwise(words) if word == "--set"]:
        if "…" not in override:
            load_spec(QUICKSTART, [override])


@pytest.mark.parametrize("line", ["synthgen run a.yaml --runn 2", "synthgen run", "synthgen show RUN --images",
                                  "synthgen plan a.yaml b.yaml"])  # fmt: skip
def test_command_lines_that_the_program_does_not_take_are_found(line: str) -> None:
    _, name, *words = shlex.split(line)
    with pytest.raises(AssertionError):
        require_taken(COMMANDS[name], words)


@pytest.mark.parametrize("page", TEXTS)
def test_every_command_and_option_that_a_sentence_names_exists(page: str) -> None:
    for name, rest in re.findall(r"`synthgen ([a-z]+)([^`\n]*)`", TEXTS[page]):
        assert name in COMMANDS, name
        assert set(re.findall(r"(--[a-z-]+)", rest)) <= set(options(COMMANDS[name])), (name, rest)


def test_the_table_of_commands_has_every_command_and_options_that_exist() -> None:
    table = TEXTS["docs/first_dataset.md"].partition("| command | what it does |")[2].partition("\n\n")[0]
    named = set(re.findall(r"`(?:synthgen )?([a-z]+)(?: [A-Z][^`]*)?`", table)) - {"synthgen"}
    assert named == set(COMMANDS)
    for line in re.findall(r"^\| `synthgen .*$", table, re.MULTILINE):
        known = options(COMMANDS[line.split("`")[1].split()[1]])
        assert set(re.findall(r"`?(--[a-z-]+)", line)) <= set(known), line


def test_the_reference_of_commands_has_every_option_with_its_help() -> None:
    sections = dict(re.findall(r"^### synthgen (\S+)\n(.*?)(?=^##|\Z)", TEXTS["docs/reference/cli.md"], re.M | re.S))
    assert set(sections) == {name for name, command in COMMANDS.items() if not command.hidden}
    for name, text in sections.items():
        for flag, parameter in options(COMMANDS[name]).items():
            assert re.search(rf"^\| `[^`]*{flag}\b.*{re.escape((parameter.help or '')[:20])}", text, re.M), (name, flag)


def test_the_reference_of_specs_has_every_key_with_its_description() -> None:
    text = TEXTS["docs/reference/spec.md"]
    sections = dict(re.findall(r"^##+ ([^\n]*)\n(.*?)(?=^##|\Z)", text, re.M | re.S))
    models = {"The spec": DatasetSpec, "A class": ClassSpec, "Prompts": PromptSpec, "A prompt template": Template,
              "Layout": LayoutSpec, "Provenance": ProvenanceSpec, "Signatures": SigningSpec,
              "Publication": PublicationSpec, "Licence": LicenceSpec, "A LoRA": Lora, "A textual inversion": Embedding,
              "Profile files": Profile}  # fmt: skip
    models |= {f"{k} `{n}`": backend_module(k, n).Config for k in KINDS for n in builtin(k)}
    for title, model in models.items():
        rows = {row[0].strip("`"): row for row in cells(sections[title])}
        assert set(rows) == set(model.model_fields), title
        for name, field in model.model_fields.items():
            _, takes, default, words = rows[name]
            assert takes and "anything" not in takes, (title, name)
            if name != "use":
                assert words == " ".join((field.description or "").split()), (title, name)
                assert default.startswith("`") or (default == "needed" and field.is_required()), (title, name)
    assert cells(sections["generator `diffusion`"])[9][1:3] == ["whole number, 1 to 1,000 or `null`", "`null`"]


def cells(text: str) -> list[list[str]]:
    """The rows of a table, without its head."""
    rows = [re.split(r" ?\| ?", line.strip("| ")) for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in row] for row in rows]


def test_the_spec_on_the_site_is_the_one_that_new_writes() -> None:
    (shown,) = blocks(TEXTS["docs/reference/template.md"], "yaml")
    template = (ROOT / "synthgen" / "spec" / "template.yaml").read_text(encoding="utf-8")
    assert shown == template.replace("NAME", "fruit", 1)
    DatasetSpec.parse(load_yaml(shown))


@pytest.mark.parametrize("page", [page for page, text in TEXTS.items() if blocks(text, "yaml")])
def test_every_yaml_is_good(page: str, tmp_path: Path) -> None:
    """A spec, or keys of one; a profile; or Prefect's automations, which tests/test_schedule.py gives to a server."""
    for block in blocks(TEXTS[page], "yaml"):
        data = load_yaml(block)
        if "automations" in data:
            assert page == "docs/schedules.md"
        elif "runner" in data:
            (tmp_path / "profile.yaml").write_text(block, encoding="utf-8")
            load_profile(tmp_path / "profile.yaml")
        else:
            DatasetSpec.parse({**load_yaml(QUICKSTART.read_text(encoding="utf-8")), **data})


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^\$ make (\w+)", README, re.MULTILINE)
    assert targets == ["demo", "test"]
    for target in {t for text in TEXTS.values() for t in re.findall(r"(?:^\$ |`)make (\w+)", text, re.MULTILINE)}:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_scripts_that_are_named_exist() -> None:
    scripts = {s for text in TEXTS.values() for s in re.findall(r"python ((?:tests|benchmarks|flows)/\S+?\.py)", text)}
    assert len(scripts) > 5
    assert all((ROOT / script).is_file() for script in scripts), scripts


def test_the_filters_table_names_every_filter_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", TEXTS["docs/filters.md"], re.MULTILINE))
    assert set(rows) == set(builtin("filter"))
    assert tuple(rows)[: len(KINDS["filter"].defaults)] == KINDS["filter"].defaults
    for name, said in rows.items():
        config = backend_module("filter", name).Config(use=name)
        limits = [getattr(config, key, None) for key in ("min", "max", "max_distance", "max_cosine")]
        assert [float(n) for n in re.findall(r"[\d.]+", said)] == [float(v) for v in limits if v is not None], name


def test_the_gpu_snippet_is_what_the_sdxl_spec_says() -> None:
    (snippet,) = [
        yaml.safe_load(b)
        for b in blocks(TEXTS["docs/models.md"], "yaml")
        if "stable-diffusion-xl" in b and "generator:" in b[:12]
    ]
    spec = yaml.safe_load((ROOT / "specs" / "sdxl_street.yaml").read_text(encoding="utf-8"))
    for key, given in snippet.items():
        assert spec[key] == given or given.items() <= spec[key].items(), key


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")  # by what Prefect sends messages with
@pytest.mark.parametrize("page", [page for page, text in TEXTS.items() if blocks(text, "python")])
def test_every_python_runs_or_is_a_file_that_is_tested(page: str, finished: Any, monkeypatch: Any) -> None:
    from prefect.blocks.notifications import SlackWebhook

    saved: list[Any] = []
    monkeypatch.setattr(SlackWebhook, "save", lambda block, name: saved.append(name))
    tested = {path.read_text(encoding="utf-8"): path.stem for path in (ROOT / "tests" / "mylab").glob("*.py")}
    for code in blocks(TEXTS[page], "python"):
        if code in tested:
            assert f"`mylab/{tested[code]}.py`" in TEXTS[page]
            continue
        names: dict[str, Any] = {}
        exec(code.replace("outputs/quickstart/run-0001", str(finished.run.root)), names)
        if "CocoDetection" in code:
            assert len(names["train"]) == len(names["coco"].imgs) > 0
        else:
            assert saved == ["datasets"]


@pytest.mark.parametrize("page", ["README.md", "docs/export.md"])
def test_the_python_that_loads_an_export_is_there(page: str) -> None:
    assert ["CocoDetection" in b for b in blocks(TEXTS[page], "python")] == [True]


@pytest.mark.parametrize("page", ["README.md", "docs/first_dataset.md"])
def test_the_run_folder_that_is_shown_is_one(page: str, finished: Any) -> None:
    shown = TEXTS[page].partition("outputs/quickstart/run-0001/\n")[2].partition("```")[0]
    names = [word for line in shown.splitlines() for word in re.split(r"\s{2,}", line.strip())[0].split()]
    assert len(names) > 8
    for name in names:
        assert list(finished.run.root.glob(name)), name


def test_the_backends_that_the_site_shows_are_those_that_are_tested() -> None:
    """tests/test_extend.py makes a dataset of them."""
    shown = blocks(TEXTS["docs/extend.md"], "python")
    assert shown == [
        (ROOT / "tests" / "mylab" / f"{name}.py").read_text(encoding="utf-8")
        for name in ("redness", "csv_table", "noise")
    ]


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


def anchors(text: str) -> set[str]:
    """What a link into a page may name: its headings, as Markdown makes ids of them."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page: str) -> None:
    text = re.sub(r"```.*?```", "", TEXTS[page], flags=re.DOTALL)
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", text):
        path = ((ROOT / page).parent / target).resolve() if target else ROOT / page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(TEXTS[path.relative_to(ROOT).as_posix()]), f"{target}#{anchor}"


def test_the_site_has_every_page() -> None:
    """`make docs` checks the site's own links; here, that none of its pages is left out."""
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    pages = re.findall(r"[\w/]+\.md", str(nav))
    assert sorted(pages) == sorted(page.removeprefix("docs/") for page in TEXTS if page.startswith("docs/"))


def test_the_readme_is_short() -> None:
    assert README.count("\n") <= 200


def test_the_quickstart_in_the_readme_is_the_one_that_demo_runs() -> None:
    shown = README.partition("<!-- quickstart -->\n```yaml\n")[2].partition("```\n<!-- /quickstart -->")[0]
    assert shown == QUICKSTART.read_text(encoding="utf-8")
