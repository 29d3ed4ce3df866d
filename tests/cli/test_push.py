"""`synthgen push`, to a hub on this machine, by the client that is installed and by the one before it."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import drawn
import hard
import hub as hubs
import pytest
import yaml
from hub import TOKEN, Dataset, Hub, Machine

from synthgen.errors import RunError
from synthgen.exporters import huggingface
from synthgen.pipeline.publication import Publication
from synthgen.store.run import Run

OLDER = Path(sys.prefix) / "huggingface_hub-1"  # `make test` puts the older client there
# The client keeps large files by another protocol, which the stand-in does not speak, unless it is told not to.
LOGGED_IN = {"HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
SMALL = {"huggingface": {"max_shard_bytes": 5_000}}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run without the format, which push writes itself. Only for reading."""
    return hard.made(tmp_path_factory.mktemp("runs"), count=30).run.root  # type: ignore[no-any-return]


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / made.parent.name / made.name)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hubs.serving() as hub:
        yield hub


@pytest.fixture
def machine(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    paths = [str(Path(hubs.__file__).parent), os.environ.get("PYTHONPATH", "")]  # for the backends of the run
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    return Machine(tmp_path / "hf", hub)


@pytest.fixture(params=["installed", "older"])
def either(request: pytest.FixtureRequest, machine: Machine) -> Machine:
    if request.param == "older" and not (OLDER / "huggingface_hub").is_dir():
        pytest.skip(f"huggingface_hub 1 is not in {OLDER}; `make test` puts it there")
    return replace(machine, client=OLDER if request.param == "older" else None)


def push(machine: Machine, run: Path, *options: str, **environment: str) -> tuple[int, str, str]:
    command = ["push", str(run), "me/shapes", *options]
    (done,) = machine.synthgen(command, **{**LOGGED_IN, **environment})
    return done


def loaded(dataset: Dataset, folder: Path, name: str | None = None) -> Any:
    """What `datasets` loads of the files that a repository has."""
    datasets.disable_progress_bars()
    for file, content in dataset.files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(content)
    return datasets.load_dataset(str(folder), name, cache_dir=str(folder.parent / f"cache-{name}"))


def give_exporters(run: Path, exporters: dict[str, Any]) -> None:
    """Gives a run's spec other exporters, as if it had been made with them."""
    spec = yaml.safe_load((run / "spec.yaml").read_text(encoding="utf-8"))
    text = yaml.safe_dump({**spec, "exporters": exporters}, sort_keys=False, allow_unicode=True)
    (run / "spec.yaml").write_text(text, encoding="utf-8")


def exported(run: Path, name: str = "huggingface") -> dict[str, bytes]:
    root = run / name
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_a_dataset_is_sent_once_and_loaded_again(either: Machine, hub: Hub, run: Path, tmp_path: Path) -> None:
    command = ["push", str(run), "me/shapes"]
    dry, unasked, sent, again = either.synthgen(
        [*command, "--dry-run"], command, [*command, "--private", "--yes"], [*command, "--yes"], **LOGGED_IN
    )
    # Nothing is sent before someone says so.
    code, out, err = dry
    assert code == 0, err
    files = exported(run)
    megabytes = sum(map(len, files.values())) / 1e6
    assert out.splitlines() == [
        f"me/shapes on {hub.url}: a new dataset, public: everybody can load it; your account: me",
        f"to send: {len(files)} files, {megabytes:,.1f} MB; 0 files are there already",
        "licence on the card: unknown",
    ]
    assert unasked[0] == 2 and unasked[2].splitlines()[-1] == "error: nothing was sent; --yes sends without a question"
    # Then all of it is sent, in one commit.
    code, out, err = sent
    assert code == 0, err
    assert "a new dataset, private; your account: me" in out and out.endswith(f"{hub.url}/datasets/me/shapes\n")
    dataset = hub.datasets["me/shapes"]
    assert dataset.is_private and len(dataset.commits) == 2
    assert {**dataset.files, "README.md": b""} == {
        **files,
        ".gitattributes": dataset.files[".gitattributes"],
        "README.md": b"",
    }
    version = json.loads((run / "commits" / "export-huggingface.json").read_bytes())["notes"]["content_hash"]
    assert dataset.messages[-1] == f"Version {version[:12]} of the dataset"
    rows = loaded(dataset, tmp_path / "loaded")
    assert sum(rows.num_rows.values()) == 30 and rows["train"].features["objects"]["category"].feature.num_classes > 80
    # The second time, nothing is.
    code, out, err = again
    assert code == 0, err
    assert f"to send: 0 files, 0.0 MB; {len(files)} files are there already" in out and "is there, and private" in out
    assert len(dataset.commits) == 2 and set(hub.sent.values()) == {1}


def test_another_process_goes_on_where_one_was_cut_off(machine: Machine, hub: Hub, run: Path) -> None:
    give_exporters(run, SMALL)
    hub.room = 2
    code, _, err = push(machine, run, "--yes")
    assert code == 2, err
    assert "answers 403: " in err and err.endswith("; the hub keeps what has come, and the same command goes on\n")
    assert len(hub.sent) == 2 and hub.datasets["me/shapes"].messages == ["initial commit"]  # it shows no half of it
    hub.room = 1000
    code, _, err = push(machine, run, "--yes")
    assert code == 0, err
    files = exported(run)
    assert len(hub.sent) == sum(name.endswith(".parquet") for name in files) > 4
    assert set(hub.sent.values()) == {1}  # what had come was not sent again
    assert hub.datasets["me/shapes"].files.keys() == files.keys() | {".gitattributes"}


def test_what_has_changed_is_sent_and_what_is_gone_is_removed(machine: Machine, hub: Hub, run: Path) -> None:
    give_exporters(run, SMALL)
    few = "from synthgen.models.hub import upload; upload.BATCH_FILES = 2; upload.COMMIT_FILES = 3"
    ((code, _, err),) = machine.synthgen(["push", str(run), "me/shapes", "--yes"], settings=few, **LOGGED_IN)
    assert code == 0, err
    before = exported(run)
    dataset = hub.datasets["me/shapes"]
    assert len(dataset.commits) == 1 + -(-len(before) // 3) > 3
    assert ["README.md" in files for files in dataset.commits[-2:]] == [False, True]  # it says which files there are
    others = {"notes.txt": b"a note", "data/extra.csv": b"x", "other/train-00000-of-00001.parquet": b"not ours"}
    dataset.commits.append({**dataset.files, **others})
    hub.forget()
    code, out, err = push(machine, run, "--yes", "--set", "exporters.huggingface.max_shard_bytes=500000000")
    assert code == 0, err
    gone = sorted(before.keys() - exported(run).keys())
    assert "replaces README.md\n" in out or "replaces README.md, " in out
    assert f"removes what an earlier push has sent: {', '.join(gone[:3])}, … ({len(gone)} in all)" in out
    assert dataset.files.keys() == exported(run).keys() | {".gitattributes", *others}


def test_a_dataset_without_images_is_not_pushed(tmp_path: Path) -> None:
    exporter = huggingface.Backend(huggingface.Config(use="huggingface"), drawn.INFO.categories)
    drawn.export(exporter, drawn.ListedRecords([]), tmp_path / "huggingface")
    mark = Run(tmp_path).marks.read("export", "huggingface")
    assert mark is not None
    with pytest.raises(RunError, match=r"has no accepted image; there is nothing to push"):
        Publication.of(Run(tmp_path), {"huggingface": mark})


def test_each_export_of_the_format_is_a_configuration(machine: Machine, hub: Hub, run: Path, tmp_path: Path) -> None:
    small = {"use": "huggingface", "config_name": "small", "images": "jpeg"}
    give_exporters(run, {"coco": {}, "full": {"use": "huggingface"}, "small": small})
    code, _, err = push(machine, run, "--yes")
    assert code == 0, err
    dataset = hub.datasets["me/shapes"]
    assert loaded(dataset, tmp_path / "loaded")["train"][0]["image"].format == "PNG"
    assert loaded(dataset, tmp_path / "loaded", "small")["train"][0]["image"].format == "JPEG"


def test_a_grown_dataset(machine: Machine, hub: Hub, run: Path, tmp_path: Path) -> None:
    from synthgen.dataset.growth import grow
    from synthgen.pipeline.build import Build

    grow(Build.open(Run(run)))
    code, _, err = push(machine, run.parent / "dataset", "--yes")
    assert code == 0, err
    assert sum(loaded(hub.datasets["me/shapes"], tmp_path / "loaded").num_rows.values()) == 30


def test_a_person_at_a_terminal_is_asked(machine: Machine, hub: Hub, run: Path) -> None:
    code = f"""
import os, pty, sys
from synthgen import cli
keyboard, terminal = pty.openpty()
os.dup2(terminal, 0)
sys.stdin = open(0)
for answer in (b"n", b"y"):
    sys.argv = ["synthgen", "push", {str(run)!r}, "me/shapes"]
    os.write(keyboard, answer + b"\\n")
    try:
        cli.main()
    except SystemExit as end:
        print("ended with", end.code)
"""
    done = machine.python(code, **LOGGED_IN)
    refused, _, agreed = done.stdout.partition("ended with 2\n")
    assert refused.endswith("Send it? [y/N]: ") and "error: nothing was sent; " in done.stderr, done.stderr
    assert agreed.endswith(f"Send it? [y/N]: {hub.url}/datasets/me/shapes\nended with 0\n"), done.stderr
    assert len(hub.datasets["me/shapes"].commits) == 2


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set, which forbids to ask the hub; unset it"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "the hub cannot be reached ("),
    ],
)
def test_a_hub_that_cannot_be_asked(
    machine: Machine, hub: Hub, run: Path, environment: dict[str, str], said: str
) -> None:
    code, out, err = push(machine, run, "--yes", **environment)
    last = err.splitlines()[-1]
    assert (code, out) == (2, "") and last.startswith("error: cannot push to 'me/shapes': ") and said in last
    assert not hub.datasets and not hub.sent


def test_what_is_refused_before_anything_is_sent(machine: Machine, hub: Hub, run: Path) -> None:
    hub.datasets["me/shapes"] = Dataset()
    command = ["push", str(run), "me/shapes", "--yes"]
    name, public, other, logged_out, refused, spec, layout = machine.synthgen(
        ["push", str(run), "shapes", "--yes"],
        [*command, "--private"],
        ["push", str(run), "you/shapes", "--yes"],
        ["HF_TOKEN=", *command],
        ["HF_TOKEN=hf_refused", *command],
        [f"HF_TOKEN={TOKEN}", *command, "--set", "seed=3"],
        [*command, "--set", "exporters.huggingface.layout=zip"],
        **LOGGED_IN,
    )
    no_token = "there is no token: log in with `hf auth login`, or set HF_TOKEN to one that may write\n"
    assert logged_out[0] == 2 and logged_out[2] == f"error: cannot push to 'me/shapes': {no_token}"
    assert spec[0] == 2 and "--set seed=3: takes exporters.FORMAT.KEY=VALUE here; the spec stays" in spec[2]
    assert layout[0] == 2 and "exporters.huggingface.layout: " in layout[2]
    assert refused[0] == 2 and "answers 401: " in refused[2] and refused[2].endswith(" or set HF_TOKEN\n")
    assert name[0] == 2 and "got 'shapes'; takes the user and the name of the dataset, such as me/fruit" in name[2]
    assert public[0] == 2 and "it is public already; make it private in its settings, or push without" in public[2]
    assert other[0] == 2 and "You don't have the rights to create a dataset under the namespace" in other[2]
    (file,) = (run / "huggingface" / "data").glob("train-*")
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    code, _, err = push(machine, run, "--yes")
    assert code == 2 and "is gone or has another checksum than when it was exported; export it again" in err
    assert not hub.sent and set(hub.datasets) == {"me/shapes"}
