"""The command line: quick, thin, and polite."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import orjson
import pytest
import typer
import yaml

from synthgen import cli
from synthgen.base.files import expand_home
from synthgen.cli.preview import preview
from synthgen.errors import BackendError, OutOfRoom, SynthgenError
from synthgen.models import MINI, cache_folder
from synthgen.pipeline.stages import Stages
from synthgen.spec import DatasetSpec
from synthgen.spec.schema import json_schema
from synthgen.store.run import Run

QUICKSTART = Path(__file__).parents[2] / "specs" / "quickstart.yaml"
SpecFile = Callable[..., Path]
Synthgen = Callable[..., tuple[int, str, str]]
COMMANDS: dict[str, Any] = {
    name: command.load()
    for name, command in typer.main.get_command(cli.app).commands.items()  # type: ignore[attr-defined]
}


def test_help_is_quick() -> None:
    """It costs a few times what the library of the command line does, and no model's or table's package."""
    seconds: dict[str, list[float]] = {"help": [], "typer": []}
    for _ in range(3):
        for what, command in (("help", ["-m", "synthgen.cli", "--help"]), ("typer", ["-c", "import typer.rich_utils"])):
            start = time.perf_counter()
            done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
            seconds[what].append(time.perf_counter() - start)
            assert done.returncode == 0
            assert what != "help" or all(name in done.stdout for name in COMMANDS)
    ratio = min(seconds["help"]) / min(seconds["typer"])
    print(f"synthgen --help: {min(seconds['help']):.2f} s, {ratio:.1f} times the import of typer")
    assert ratio < 4


def test_check_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from synthgen import cli\n"
        "try: cli.main()\n"
        "finally: print(*sorted(sys.modules), sep='\\n', file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, "check", str(QUICKSTART)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0
    assert "good (48 images of " in done.stdout
    imported = set(done.stderr.splitlines())
    assert {"synthgen.cli", "synthgen.generators.diffusion", "synthgen.segmenters.sam"} <= imported
    heavy = {"torch", "torchvision", "diffusers", "transformers", "prefect", "pandas", "datasets", "segment_anything"}
    assert not imported & heavy
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, synthgen: Synthgen) -> None:
    code, out, err = synthgen(command, "--help")
    assert (code, err) == (0, "")
    assert f"Usage: synthgen {command}" in out
    first = COMMANDS[command].callback.__doc__.split("\n")[0]
    assert len(first) > 20
    assert first[:40] in out


def test_nothing_asked_shows_help(synthgen: Synthgen) -> None:
    code, out, err = synthgen()
    assert code == 2
    assert "Usage: synthgen" in out + err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "--nope", "x"], "No such option: --nope"),
        (["run", "x", "--se", "a=b"], "No such option: --se (Possible options: --help, --set)"),
        (["chek"], "No such command 'chek'"),
        (["run"], "Missing argument 'SPEC'"),
        (["run", "x", "y"], "Got unexpected extra argument"),
        (["run", "x", "--run", "0"], "Invalid value for '--run'"),
        (["run", "x", "--run", "one"], "Invalid value for '--run'"),
        (["show", "x", "--images"], "requires an argument"),
        (["remake", "x", "first"], "Invalid value for 'ID'"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str, synthgen: Synthgen, tmp_path: Path) -> None:
    code, out, err = synthgen(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ") and message in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command",
    [["label"], ["judge"], ["export"], ["show"], ["remake", "1"], ["report"], ["review"], ["status"], ["verify"]],
)
@pytest.mark.parametrize("make", [False, True], ids=["missing", "another folder"])
def test_no_run_folder(command: list[str], make: bool, synthgen: Synthgen, tmp_path: Path) -> None:
    folder = tmp_path / "run-0001"
    if make:
        folder.mkdir()
    name, *more = command
    code, out, err = synthgen(name, folder, *more)
    assert (code, out) == (2, "")
    takes = "it takes one such as outputs/quickstart/run-0001"
    assert err == f"error: {str(folder)!r} is no run folder; {takes}\n"
    assert [p.name for p in tmp_path.rglob("*")] == ["run-0001"] * make


def test_check_of_good_and_bad_specs(synthgen: Synthgen, spec_file: SpecFile, good: dict[str, Any]) -> None:
    first = spec_file(good, "first.yaml")
    bad = spec_file({**good, "count": 0, "sede": 1}, "bad.yaml")
    last = spec_file({**good, "name": "last"}, "last.yaml")
    code, out, err = synthgen("check", first, bad, last)
    assert code == 2
    mini = "'mini' (generator.model, segmenter.model, filters.class_agreement.model)"
    apache = "Apache-2.0 <https://www.apache.org/licenses/LICENSE-2.0>: images and labels may be used commercially"
    assert out.splitlines() == [
        f"{path}: {line}"
        for path in (first, last)
        for line in (f"licence: {mini}: {apache}", "good (8 images of 3 classes)")
    ]
    assert sorted(err.splitlines()) == [
        f"{bad}: error: count: got 0; takes 1 or more",
        next(line for line in err.splitlines() if f"{bad}: error: sede: unknown key" in line),
    ]
    assert synthgen("check", first, last)[0] == 0
    code, out, err = synthgen("check", bad, "--set", "count=3")
    assert (code, err.count("\n")) == (2, 1)


def test_every_path_knows_the_users_home() -> None:
    """A shell puts it in place of `~` in some places only; typer's own paths do not."""
    found = 0
    for command in COMMANDS.values():
        for name, hint in get_type_hints(command.callback, include_extras=True).items():
            if "pathlib" in str(hint):
                assert any(getattr(option, "parser", None) for option in hint.__metadata__), (command.callback, name)
                found += 1
    assert found > 20


def test_the_users_home_stands_for_a_tilde(
    synthgen: Synthgen, spec_file: SpecFile, good: dict[str, Any], copied: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("SYNTHGEN_HOME", "~/cache")
    copied.rename(home / "out")
    spec_file({**good, "generator": {"model": "~/model"}}).rename(home / "a.yaml")
    shutil.copytree(MINI / "diffusion", home / "model")
    (home / "here").mkdir()
    run = "~/out/fruit/run-0001"
    assert synthgen("check", "~/a.yaml", "--out=~/out")[::2] == (0, "")
    assert synthgen("status", run)[0] == 0
    assert synthgen("show", run, "-o", "~/sheet.png", "--images", 1)[::2] == (0, "")
    assert (home / "sheet.png").is_file()
    for arguments, said in (
        (["run", "~/a.yaml", "--profile=~/none.yaml"], f"cannot read the profile '{home}/none.yaml'"),
        (["calibrate", "~/a.yaml", "--truth", "~/t.json", "--images", "~/i"], f"cannot read '{home}/t.json'"),
        (["calibrate", "~/a.yaml", "--json=~/here"], f"'{home}/here' is a folder; takes a file"),
        (["runs", "~/a.yaml", "--out=~/other"], f"there are no runs in {home}/other/fruit"),
        (["status", "~/none/run-0001"], f"'{home}/none/run-0001' is no run folder"),
    ):
        code, _, err = synthgen(*arguments)
        assert code == 2 and said in err, arguments
    assert cache_folder() == home / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", "~/prefect")
        code = "import os, synthgen.flow, synthgen.orchestration.server; print(os.path.exists('~'))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == "False\n" and (home / "prefect").is_dir()
    assert not (tmp_path / "~").exists()


def test_a_name_that_only_looks_like_a_home_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("~nobody-of-this-name/x", "~backup.yaml", "a~", "x/~", ""):
        assert expand_home(name) == Path(name)
    assert (expand_home("~"), expand_home("~/x"), expand_home(Path("~/x"))) == (
        tmp_path,
        tmp_path / "x",
        tmp_path / "x",
    )


def test_plan_shows_and_makes_nothing(synthgen: Synthgen, tmp_path: Path) -> None:
    code, out, err = synthgen("plan", QUICKSTART, "--set", "count=40")
    assert (code, err) == (0, "")
    assert not list(tmp_path.iterdir())
    rows = {row[0]: row[1] for row in re.findall(r"(?m)^ *(\w[\w ]*?) {2,}(\d+)", out)}
    classes = ["apple", "orange", "strawberry", "mushroom", "tree", "car", "bus", "cup", "umbrella", "sports ball"]
    counts = [int(rows[name]) for name in classes]
    assert max(counts) - min(counts) <= 1
    for word in ("grass", "asphalt", "train", "val", "test"):
        assert re.search(rf"\b{word} +\d+", out)
    assert len(re.findall(r"(?m)^  a photo of ", out)) == 6
    flat = " ".join(out.split())
    assert "40 images of 128x128 px in 3 shards" in flat
    assert "at most 160 by the budget; about 2 MB on the disk" in flat
    assert "time: not known before the first run here" in flat


def test_plan_shows_quotas(synthgen: Synthgen, spec_file: SpecFile, good: dict[str, Any]) -> None:
    path = spec_file({**good, "classes": ["apple", {"name": "orange", "min_instances": 7}, "tree"]})
    assert "in instances kept" not in synthgen("plan", spec_file(good, "plain.yaml"))[1]
    assert synthgen("plan", path)[1].splitlines()[-1] == (
        "quotas, in instances kept: orange 7; rounds after the first make up what is short"
    )
    out = synthgen("plan", path, "--set", "min_instances_per_class=2")[1]
    assert "in instances kept: apple 2, orange 7, tree 2;" in out


def test_plan_of_another_run_is_another_plan(synthgen: Synthgen) -> None:
    first, again, second = (synthgen("plan", QUICKSTART, "--run", n)[1] for n in (1, 1, 2))
    assert first == again != second


def test_plan_prints_what_a_person_wrote(good: dict[str, Any], tmp_path: Path) -> None:
    """Square brackets are markup to rich."""
    from rich.console import Console

    slots = {"ground": ["[red]sand", "[/]"]}
    spec = DatasetSpec.parse({**good, "classes": ["[b]apple"], "prompts": {**good["prompts"], "slots": slots}})
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    for part in preview(spec, Stages.of(spec), Run.at(tmp_path, spec.name, 1)):
        console.print(part)
    text = console.export_text()
    console.file.close()
    assert "a [b]apple on [red]sand" in text
    assert re.search(r"\[/\] +\d", text)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (BackendError("the model\nis broken"), 2, "error: the model\nerror: is broken\n"),
        (OutOfRoom("the disk is full"), 4, "error: the disk is full\n"),
        (KeyboardInterrupt(), 130, "stopped; what is finished is kept, and the same command goes on from there\n"),
        (ZeroDivisionError("a\nb"), 1, "error: ZeroDivisionError: a b (--debug shows where)\n"),
        (KeyError("a" * 9000), 1, f"error: KeyError: '{'a' * 498}… (--debug shows where)\n"),
    ],
)
def test_exit_codes(
    error: BaseException, code: int, message: str, synthgen: Synthgen, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr("synthgen.spec.load_spec", fail)
    monkeypatch.setattr("synthgen.pipeline.request.load_spec", fail)
    assert synthgen("check" if not isinstance(error, SynthgenError) else "plan", "x") == (code, "", message)


def test_debug_shows_where(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "synthgen.cli", "plan", "nowhere.yaml", "--debug"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert "in load_spec" in done.stderr


def test_models_lists(synthgen: Synthgen, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SYNTHGEN_HOME", str(tmp_path / "home"))
    code, out, err = synthgen("models")
    assert (code, err) == (0, "")
    rows = {row.split()[0]: row.split()[1:] for row in out.splitlines() if row.strip()}
    assert rows["mini"] == ["0.06", "Apache-2.0", "embedded"]
    assert rows["vit_h"] == ["2.6", "Apache-2.0", "open", "no"]
    assert rows["stabilityai/stable-diffusion-xl-base-1.0"] == ["13.9", "openrail++", "open", "no"]
    assert rows["black-forest-labs/FLUX.1-schnell"] == ["34", "apache-2.0", "gated", "no"]
    (tmp_path / "home" / "models").mkdir(parents=True)
    (tmp_path / "home" / "models" / "sam_vit_h_4b8939.pth").write_bytes(b"weights")
    out = synthgen("models")[1]
    assert "no" not in next(row for row in out.splitlines() if row.split()[:1] == ["vit_h"]).split()


def test_schema_is_json(synthgen: Synthgen) -> None:
    code, out, err = synthgen("schema")
    assert (code, err) == (0, "")
    assert yaml.safe_load(out) == json_schema()


CALIBRATED = {"predicted_iou": None, "box_agreement": None, "sharpness": {"min": 8}, "near_duplicate": None}


def test_calibrate_prints_tables_and_writes_numbers(
    synthgen: Synthgen, spec_file: SpecFile, good: dict[str, Any], tmp_path: Path
) -> None:
    path = spec_file({**good, "filters": CALIBRATED, "classes": [*good["classes"], "unicorn"]})
    code, out, err = synthgen("calibrate", path, "--count", 24, "--faults", 0.6, "--json", tmp_path / "numbers.json")
    assert (code, err) == (0, "")
    assert "classes left out, because no image has them: unicorn" in out
    assert re.search(r"(?m)^24/24 images \(\d+\.\d/s\)$", out)
    for name in CALIBRATED:
        assert re.search(rf"(?m)^{name} .*%", out)
    assert re.search(r"(?m)^cut mask +\d+ +\d+%", out) and re.search(r"(?m)^none: good images +\d+ +\d+%", out)
    data = json.loads((tmp_path / "numbers.json").read_bytes())
    assert data["precision"] == 0.95 and data["seed"] == 0 and data["truth"] is None
    assert data["good"]["images"] + sum(f["images"] for f in data["faults"].values()) == 24
    assert list(data["measures"]) == [*CALIBRATED, "empty_mask"]
    assert data["measures"]["near_duplicate"]["auroc"] == {}
    assert 0 <= data["measures"]["box_agreement"]["auroc"]["cut mask"] <= 1
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    last = out.splitlines()[-1]
    assert re.match(r"done: the filters catch \d+% of \d+ faulty images and lose \d+% of \d+ good ones", last)


def test_calibrate_by_an_export_of_ours(
    synthgen: Synthgen, spec_file: SpecFile, quick: dict[str, Any], finished: Any
) -> None:
    coco = finished.run.root / "coco"
    files = [f for f in sorted(coco.glob("annotations/*.json")) if json.loads(f.read_bytes())["annotations"]]
    folder = coco / files[0].stem.removeprefix("instances_")
    path = spec_file({**quick, "filters": {"mask_area": None}})
    arguments = ["calibrate", path, "--truth", files[0], "--images", folder, "--count", 2, "--faults", 0, "--quiet"]
    code, out, err = synthgen(*arguments)
    assert (code, err, out.count("\n")) == (0, "", 1)
    assert out.startswith("done: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--truth", "a.json"], "--truth: needs --images beside it: a COCO file and the folder of its images"),
        (["--images", "a"], "--images: needs --truth beside it: a COCO file and the folder of its images"),
        (["--truth", "a.json", "--images", "a"], "--truth: cannot read 'a.json': [Errno 2] No such file or directory"),
        (["--set", "classes=[unicorn]"], "classes: none of them can be composed; takes --truth with a COCO file"),
        (["--set", "segmenter.model=no/where"], "segmenter.model: 'no/where' is not on this machine; fetch it with: "),
        (["--set", "filters.sharpness.min=x"], "filters.sharpness.min: got 'x'; takes a number"),
        (["--json", "."], "--json: '.' is a folder; takes a file"),
        (["--count", "0"], "Invalid value for '--count'"),
        (["--precision", "2"], "Invalid value for '--precision'"),
    ],
)
def test_calibrate_says_what_is_wrong(
    arguments: list[str], message: str, synthgen: Synthgen, spec_file: SpecFile, good: dict[str, Any]
) -> None:
    code, out, err = synthgen("calibrate", spec_file({**good, "filters": CALIBRATED}), *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: {message}")


def test_a_stopped_calibration_keeps_nothing(
    synthgen: Synthgen, spec_file: SpecFile, good: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from synthgen.calibration import calibrate as calibration

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(calibration, "calibrate", stop)
    path = spec_file({**good, "filters": CALIBRATED})
    code, out, err = synthgen("calibrate", path, "--json", tmp_path / "numbers.json")
    assert (code, out, err) == (130, "", "stopped; an unfinished calibration keeps nothing\n")
    assert not (tmp_path / "numbers.json").exists()


def test_report_and_review_say_what_is_missing(synthgen: Synthgen, copied: Path) -> None:
    root = copied / "fruit" / "run-0001"
    code, out, _ = synthgen("report", root)
    assert (code, out.strip()) == (0, str(root / "report.html"))
    (root / "commits" / "judge.json").unlink()
    code, _, err = synthgen("report", root)
    assert code == 2 and err.startswith("error: ") and "judge it first: synthgen judge" in err
    (root / "verdicts.parquet").unlink()
    code, _, err = synthgen("review", root, "--no-browser")
    assert code == 2 and "has not been judged yet" in err and err.count("\n") == 1


def test_with_grow_every_command_that_ends_a_run_merges(synthgen: Synthgen, copied: Path) -> None:
    root = copied / "fruit" / "run-0001"
    assert synthgen("judge", root, "--quiet", "--set", "grow=true")[0] in {0, 3}
    merged = copied / "fruit" / "dataset" / "dataset.json"
    first = orjson.loads(merged.read_bytes())
    quality = orjson.loads((root / "quality.json").read_bytes())
    assert (first["images"], first["instances"]) == (quality["accepted"], quality["instances"])
    shutil.rmtree(merged.parent)
    _, out, _ = synthgen("run", root / "spec.yaml", "--out", copied, "--quiet")
    assert out.startswith("nothing to do")
    assert orjson.loads(merged.read_bytes())["images"] == first["images"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1:strict"])
def test_what_the_terminal_cannot_show_is_shown_otherwise(encoding: str, tmp_path: Path) -> None:
    script = (
        "import sys\nfrom synthgen import cli\n"
        "@cli.app.command()\ndef speak() -> None:\n    print('a \u2192 b')\n"
        "sys.argv = ['synthgen', 'speak']\ncli.main()\n"
    )
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env=environment, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"a \\u2192 b\n", b"")
