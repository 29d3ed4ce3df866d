"""The flow on a real Prefect server, and `synthgen run` as a person starts it."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from runs import results
from servers import left_behind

from synthgen.errors import RunError
from synthgen.generators import diffusion
from synthgen.store.run import Run

SYNTHGEN = [sys.executable, "-m", "synthgen.cli"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server with its files in a folder of its own -> its API's URL."""
    home = tmp_path_factory.mktemp("prefect")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(home))
        patch.setenv("PREFECT_LOGGING_LEVEL", "CRITICAL")
        patch.setenv("DO_NOT_TRACK", "1")
        from prefect.settings import PREFECT_API_URL
        from prefect.testing.utilities import prefect_test_harness

        with prefect_test_harness(server_startup_timeout=180):
            yield str(PREFECT_API_URL.value())


@pytest.fixture
def spec(quick, tmp_path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(quick, sort_keys=False))
    return path


def synthgen(*arguments: Any, **environment: str) -> subprocess.CompletedProcess[str]:
    """`synthgen …`, with Prefect's variables taken out of the environment and `environment` put in."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "COLUMNS"))}
    return subprocess.run(
        [*SYNTHGEN, *map(str, arguments)], capture_output=True, text=True, timeout=240, env={**kept, **environment},
        check=False,
    )  # fmt: skip


def read(kind: str, **filters: Any) -> list[Any]:
    """Artifacts or flow runs that the server has."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        found: list[Any] = getattr(client, f"read_{kind}")(**filters)
        return found


# The flow


def test_the_flow_makes_what_the_stages_make(server, spec, finished, tmp_path):
    from synthgen.flow import build_dataset

    quality = build_dataset(spec=spec, out=tmp_path / "out")
    root = tmp_path / "out" / "fruit" / "run-0001"
    stored = orjson.loads((root / "quality.json").read_bytes())
    assert orjson.loads(orjson.dumps(quality)) == {name: stored[name] for name in quality}
    assert (root / "report.html").is_file()
    assert results(root) == results(finished.run.root)


def test_the_server_shows_tasks_and_artifacts(server, spec, copied):
    from synthgen.flow import build_dataset

    quality = build_dataset(spec=spec, out=copied, overrides=("splits={train: 1}",))
    artifacts = {a.key: a for a in read("artifacts")}
    rows = orjson.loads(artifacts["fruit-yield"].data)
    assert rows[0] == {"reason": "accepted", "images": quality["accepted"], "alone": ""}
    assert {r["reason"]: r["images"] for r in rows[1:]} == {n: r["images"] for n, r in quality["reasons"].items()}
    assert artifacts["fruit-summary"].data.startswith("# fruit\n")
    newest = max(read("flow_runs"), key=lambda run: run.start_time)
    assert newest.state is not None and newest.state.is_completed()
    tasks = [t.name.partition("-")[0] for t in read("task_runs") if t.flow_run_id == newest.id]
    assert sorted(tasks) == ["export", "judge", "report"]  # nothing else was left to do


def test_the_flow_takes_up_a_run(server, spec, copied, monkeypatch):
    """What is there is not made again, whatever Prefect remembers or does not."""
    from synthgen.flow import build_dataset

    made: list[int] = []
    generate = diffusion.Backend.generate
    monkeypatch.setattr(
        diffusion.Backend, "generate", lambda self, jobs: made.extend(j.id for j in jobs) or generate(self, jobs)
    )
    root = copied / "fruit" / "run-0001"
    before = results(root)
    build_dataset(spec=spec, out=copied)
    assert made == []
    (root / "commits" / "generate-00001.json").unlink()
    build_dataset(spec=spec, out=copied)
    assert made == [5, 6, 7, 8]
    assert results(root) == before


def test_a_run_on_the_server_reads_and_checks_its_spec_once(server, spec, copied, monkeypatch):
    from synthgen.flow import build_here
    from synthgen.pipeline import request

    calls: list[str] = []
    for name in ("load_spec", "check"):
        original = getattr(request, name)
        monkeypatch.setattr(request, name, lambda *a, n=name, f=original: calls.append(n) or f(*a))
    asked = request.BuildRequest(spec, copied, overrides=("splits={train: 1}",))
    assert build_here(asked)["splits"].keys() == {"train"}
    assert calls == ["load_spec", "check"]
    newest = max(read("flow_runs"), key=lambda run: run.start_time)
    assert newest.name == f"{spec}-run-1"
    assert newest.parameters["overrides"] == ["splits={train: 1}"] and newest.parameters["run"] == 1


def test_a_task_whose_run_is_taken_from_it_writes_nothing_more(server, spec, tmp_path, monkeypatch):
    """The lock goes with the run to the tasks: they ask it, not only the flow that took it."""
    from synthgen.flow import build_dataset

    out, generate = tmp_path / "out", diffusion.Backend.generate
    lock = out / "fruit" / "run-0001" / ".lock"

    def lose(self: Any, jobs: Any) -> Any:
        lock.unlink(missing_ok=True)
        return generate(self, jobs)

    monkeypatch.setattr(diffusion.Backend, "generate", lose)
    with pytest.raises(RunError, match=r"has been moved or removed, .*; it stops and writes nothing more$"):
        build_dataset(spec=spec, out=out)
    assert not list(out.rglob("*.png")) and list(out.rglob("plan-00000.json"))


def test_errors_for_people_come_out_of_the_flow_as_they_are(server, spec, copied):
    from synthgen.flow import build_dataset

    with pytest.raises(RunError, match="holds images that were made differently"):
        build_dataset(spec=spec, out=copied, overrides=("seed=9",))
    with Run.at(copied, "fruit", 1).lock(), pytest.raises(RunError, match="is at work in"):
        build_dataset(spec=spec, out=copied)


# `synthgen run`


@pytest.mark.slow
def test_run_from_end_to_end_on_a_server_of_its_own(spec, finished, tmp_path):
    home, out = tmp_path / "home", tmp_path / "out"
    done = synthgen("run", spec, "--out", out, "--quiet", SYNTHGEN_HOME=str(home))
    quality = finished.quality()
    assert done.returncode == (3 if quality.missing else 0), done.stderr
    assert done.stdout.startswith(f"done: {quality.accepted} of 8 images accepted")
    assert done.stdout.count("\n") == 1
    assert results(out / "fruit" / "run-0001") == results(finished.run.root)
    assert left_behind(home) == []
    assert (home / "prefect").is_dir()  # and not in the user's own ~/.prefect


def test_run_on_the_server_of_the_user(server, spec, copied, finished, tmp_path):
    before = len(read("flow_runs"))
    home = tmp_path / "home"
    arguments = ["run", spec, "--out", copied, "--set", "description=Other words."]
    done = synthgen(*arguments, PREFECT_API_URL=server, SYNTHGEN_HOME=str(home), PREFECT_HOME=str(tmp_path / "theirs"))
    quality = finished.quality()
    assert done.returncode == (3 if quality.missing else 0), done.stderr
    assert len(read("flow_runs")) == before + 1
    assert not (home / "prefect").exists()
    for word in ("apple", "orange", "tree", "train", "coco: ", "done: "):
        assert word in done.stdout


def test_run_that_ends_short(server, spec, copied, tmp_path):
    arguments = ["run", spec, "--out", copied, "--set", "filters.sharpness.min=1e9", "--quiet"]
    done = synthgen(*arguments, PREFECT_API_URL=server, PREFECT_HOME=str(tmp_path / "theirs"))
    assert done.returncode == 3
    lines = done.stderr.splitlines()
    assert lines[0] == "short: 8 images are missing, and the budget is spent (8 images made)"
    assert lines[1].startswith("short: sharpness rejects 8 images, 8 of them alone; min: ")
    assert lines[1].endswith("would let 8 more through")
    assert "Traceback" not in done.stderr
    again = synthgen(*arguments)  # nothing can be done, and it still is short
    assert (again.returncode, again.stderr) == (3, done.stderr)
    assert again.stdout.startswith("nothing to do: 0 of 8 images accepted")


def test_run_that_is_short_of_quotas(server, spec, copied, tmp_path):
    """Every instance is dropped, so no class meets its quota; what is accepted is exported all the same."""
    arguments = ["run", spec, "--out", copied, "--quiet", "--set", "min_instances_per_class=2"]
    arguments += ["--set", "filters={predicted_iou: {min: 9, on_fail: drop}}"]
    done = synthgen(*arguments, PREFECT_API_URL=server, PREFECT_HOME=str(tmp_path / "theirs"))
    assert done.returncode == 3, done.stderr
    root = copied / "fruit" / "run-0001"
    quality = orjson.loads((root / "quality.json").read_bytes())
    assert len(list(root.glob("coco/*/*.png"))) == quality["accepted"]
    assert len(list(root.glob("coco/annotations/instances_*.json"))) == 3
    for name, c in quality["classes"].items():
        assert (c["accepted"], c["quota"], c["lost"]) == (0, 2, c["asked"])
        start = f"short: {name}: 0 of 2 instances; of {c['asked']} asked, {c['asked']} were lost: "
        (line,) = [line for line in done.stderr.splitlines() if line.startswith(start)]
        assert "predicted_iou" in line
    summaries = [a.data for a in read("artifacts") if a.key == "fruit-summary" and "0 of 2 instances" in a.data]
    assert len(summaries) == 1
    assert "| class | asked | accepted | quota |" in summaries[0]


def test_run_that_cannot_start_leaves_no_traceback(spec, copied):
    done = synthgen("run", spec, "--out", copied, "--set", "seed=9")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "seed: 0 -> 9" in done.stderr


def test_a_finished_run_is_known_before_prefect_or_torch_is(spec, copied, finished):
    before = {p: p.stat().st_mtime_ns for p in copied.rglob("*") if p.is_file() and p.name != ".lock"}
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "synthgen.cli", "run", spec, "--out", copied],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == (3 if finished.quality().missing else 0)
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "synthgen" in imported
    assert imported & {"prefect", "torch", "diffusers", "transformers", "segment_anything"} == set()
    assert "nothing to do: " in done.stdout
    assert now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime < 5
    assert {p: p.stat().st_mtime_ns for p in copied.rglob("*") if p.is_file() and p.name != ".lock"} == before


def test_a_server_of_the_users_profile_is_used(tmp_path: Path) -> None:
    url = "http://127.0.0.1:4999/api"
    (tmp_path / ".prefect").mkdir()
    text = f'active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "{url}"\n'
    (tmp_path / ".prefect" / "profiles.toml").write_text(text)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    environment["HOME"] = str(tmp_path)
    script = "from synthgen.flow import PREFECT_API_URL; print(PREFECT_API_URL.value())"
    command = [sys.executable, "-c", script]
    assert subprocess.run(command, env=environment, capture_output=True, text=True).stdout.strip() == url
