"""Runs in object stores: against an S3 API over HTTP, and fsspec's local files."""

import hashlib
import itertools
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiobotocore.client
import boto3
import orjson
import pytest
from annotated import square
from builds import is_halted
from moto.server import ThreadedMotoServer
from runs import results

from synthgen.base import interrupts
from synthgen.base.file_lists import LIST_SUFFIX, read_entries
from synthgen.base.sealed import sha256_json
from synthgen.dataset.growth import Growth, grow
from synthgen.dataset.history import runs_of
from synthgen.errors import RunError, SynthgenError
from synthgen.judging.reviews import Review, ReviewLog, read_reviews
from synthgen.pipeline.build import Build
from synthgen.pipeline.generate import generate_shard
from synthgen.pipeline.judge import judge_run
from synthgen.pipeline.label import labels_digests
from synthgen.pipeline.plan import plan_shards
from synthgen.pipeline.verification import inspect
from synthgen.review.queue import ReviewQueue
from synthgen.store import lease, objects
from synthgen.store.location import address, local_folder, local_run_folder, runs_in_store
from synthgen.store.records import read_corrections
from synthgen.store.run import Run

WRITES = {"PutObject", "CopyObject", "DeleteObject", "DeleteObjects"}
THEIRS = b"pid 7 on elsewhere\nits-mirror 0123456789abcdef\n"


class Dead(PermissionError):
    """What a request of a process that was killed comes to: it is not sent, or its answer is heard by nobody."""


class Requests:
    """Every request to S3 passes here. `kill(n)`: the process is as good as killed when it has sent so many more that
    write, locks apart; with `heard` False, before the last one's answer comes."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self._left: int | None = None
        self._heard = True

    def kill(self, left: int | None, heard: bool = True) -> None:
        self._left, self._heard = left, heard

    @property
    def is_dead(self) -> bool:
        return self._left is not None and self._left <= 0

    async def __call__(self, client: Any, operation: str, arguments: dict[str, Any], send: Any) -> Any:
        key = str(arguments.get("Key", ""))
        self.seen.append((operation, key))
        if self._left is None:
            return await send(client, operation, arguments)
        if self.is_dead:
            raise Dead(operation)
        last = False
        if operation in WRITES and ".lock" not in key:
            self._left -= 1
            last = self._left == 0
        answer = await send(client, operation, arguments)
        if last and not self._heard:
            raise Dead(operation)
        return answer


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """An S3 API with a bucket -> boto3's client of it; s3fs finds it by the environment."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        client = boto3.client("s3")
        client.create_bucket(Bucket="bucket")
        yield client
    server.stop()


@pytest.fixture
def url(s3: Any, request: pytest.FixtureRequest) -> str:
    """Of a folder of the test's own."""
    return f"s3://bucket/{hashlib.sha256(request.node.name.encode()).hexdigest()[:12]}/datasets"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """From now on, this process is one of the machine of that name."""

    def be(name: str) -> None:
        monkeypatch.setenv("SYNTHGEN_HOME", str(tmp_path / name))

    be("first")
    return be


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Requests:
    made, send = Requests(), aiobotocore.client.AioBaseClient._make_api_call

    async def call(self: Any, operation: str, arguments: dict[str, Any]) -> Any:
        return await made(self, operation, arguments, send)

    monkeypatch.setattr(aiobotocore.client.AioBaseClient, "_make_api_call", call)
    return made


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases end at once, and nothing is asked for again."""
    monkeypatch.setattr(lease, "LEASE_SECONDS", 0.0)
    monkeypatch.setattr(objects, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(objects, "RETRY_SECONDS", 0.0)


def stored(s3: Any, url: str) -> dict[str, bytes]:
    """Name -> content of every object below a URL, by boto3."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
    keys = [item["Key"] for page in pages for item in page.get("Contents", ())]
    return {k.removeprefix(f"{prefix}/"): s3.get_object(Bucket=bucket, Key=k)["Body"].read() for k in keys}


def named(content: dict[str, bytes]) -> set[str]:
    """The files that the marks of a run in a store name. Each is there, with the checksum that its mark says."""
    found = set()
    for name, data in content.items():
        if not name.startswith("commits/") or name.startswith("commits/round") or name.endswith(LIST_SUFFIX):
            continue
        mark = orjson.loads(data)
        if not mark["inputs"]:
            continue  # of an export that is to be made anew
        lists = [read_entries(content[file]) for file in mark["files"] if file.endswith(LIST_SUFFIX)]
        for file, (size, checksum) in itertools.chain(mark["files"].items(), *lists):
            assert len(content[file]) == size, (name, file)
            assert hashlib.sha256(content[file]).hexdigest() == checksum, (name, file)
            found.add(file)
    return found


def put(s3: Any, url: str, name: str, content: bytes) -> None:
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    s3.put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=content)


# The same dataset


def test_a_run_in_a_store_is_what_a_run_in_a_folder_is(
    s3: Any, url: str, machine: Any, quick: Any, run_through: Any, finished: Build
) -> None:
    build = run_through(quick, local_folder(url))
    assert results(build.run.root) == results(finished.run.root)
    content = stored(s3, f"{url}/fruit/run-0001")
    assert set(content) == named(content) | {n for n in content if n.startswith("commits/")} | {"spec.yaml", "run.json"}
    kept = {p.relative_to(build.run.root).as_posix(): p for p in build.run.root.rglob("*") if p.is_file()}
    assert {n: p.read_bytes() for n, p in kept.items() if n != ".lock"} == content
    assert not build.run.holder()


def test_another_machine_finds_all_of_it(
    url: str, machine: Any, requests: Requests, quick: Any, run_through: Any, finished: Build
) -> None:
    first = run_through(quick, local_folder(url)).run
    machine("second")
    again = run_through(quick, local_folder(url))
    assert again.run.root != first.root and again.is_complete()
    assert results(again.run.root) == results(first.root) == results(finished.run.root)
    assert inspect(again).damages == ()
    links = {p.name: p.stat().st_ino for p in again.run.root.glob("images/*/*.png")}
    exported = list(again.run.root.glob("coco/*/*.png"))
    assert exported and all(p.stat().st_ino == links[p.name] for p in exported)
    assert all(p.stat().st_mode & 0o222 == 0 for p in exported)
    requests.seen.clear()
    run_through(quick, local_folder(url))  # and nothing twice
    operations = {operation for operation, key in requests.seen if ".lock" not in key}
    assert operations == {"ListObjectsV2"}


def test_a_store_of_files(
    machine: Any, quick: Any, run_through: Any, finished: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another protocol: one whose listings have no checksums, and whose removals say what was not there."""
    url = f"file://{tmp_path}/store"
    run_through(quick, local_folder(url))
    machine("second")
    build = run_through(quick, local_folder(url))
    assert build.is_complete() and results(build.run.root) == results(finished.run.root)
    root = tmp_path / "store" / "fruit" / "run-0001"
    named({p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()})
    build.run.files.remove([build.run.root / "none", build.run.paths.report])
    assert not (root / "report.html").exists()


def test_the_runs_of_a_store_come_by_number(machine: Any, tmp_path: Path) -> None:
    for name in ("run-10000", "run-9999", "run-0001", "run-1", "run-0002 copy", "dataset"):
        (tmp_path / "store" / "fruit" / name).mkdir(parents=True)
    folder = local_folder(f"file://{tmp_path}/store") / "fruit"
    assert [path.name for path in runs_in_store(folder)] == ["run-0001", "run-9999", "run-10000"]
    assert runs_in_store(tmp_path / "store" / "fruit") == []


def test_a_changed_threshold_replaces_verdicts_and_export(
    s3: Any, url: str, machine: Any, quick: Any, run_through: Any
) -> None:
    build = run_through(quick, local_folder(url))
    before = stored(s3, f"{url}/fruit/run-0001")
    areas = build.run.tables.read(build.run.paths.table("measures", 0)).column("sharpness").to_pylist()
    quick["filters"]["sharpness"] = {"min": sorted(a for a in areas if a is not None)[2]}  # two of four fall
    machine("second")
    build = run_through(quick, local_folder(url))
    content = stored(s3, f"{url}/fruit/run-0001")
    images = {n for n in content if n.startswith("coco/") and n.endswith(".png")}
    assert images < {n for n in before if n.startswith("coco/")}
    assert images == {p.relative_to(build.run.root).as_posix() for p in build.run.root.glob("coco/*/*.png")}
    assert named(content) >= images
    assert content["verdicts.parquet"] != before["verdicts.parquet"]
    machine("first")  # where the earlier export is
    Run.at(local_folder(url), "fruit", 1).refresh(files=True)
    assert {p.read_bytes() for p in local_folder(url).glob("*/*/coco/**/*") if p.is_file()} == {
        d for n, d in content.items() if n.startswith("coco/")
    }
    assert len(list(local_folder(url).glob("*/*/coco/*/*.png"))) == len(images)
    assert {n: d for n, d in content.items() if n.startswith("images/")} == {
        n: d for n, d in before.items() if n.startswith("images/")
    }


def test_an_export_begun_elsewhere_is_replaced_by_one_who_has_nothing_of_it(
    s3: Any, url: str, machine: Any, quick: Any, run_through: Any
) -> None:
    """The list of what is in the store is fetched, though its mark says that the export is to be made anew."""
    build = run_through(quick, local_folder(url))
    areas = build.run.tables.read(build.run.paths.table("measures", 0)).column("sharpness").to_pylist()
    quick["filters"]["sharpness"] = {"min": sorted(a for a in areas if a is not None)[2]}
    with build.run.lock():
        build.run.marks.withdraw_exports()
    machine("second")
    build = run_through(quick, local_folder(url))
    images = {n for n in stored(s3, f"{url}/fruit/run-0001") if n.startswith("coco/") and n.endswith(".png")}
    assert images == {p.relative_to(build.run.root).as_posix() for p in build.run.root.glob("coco/*/*.png")}
    assert 0 < len(images) < 8


# Kills


def test_killed_after_any_request_and_gone_on_elsewhere(
    s3: Any, url: str, machine: Any, requests: Requests, impatient: None, quick: Any, run_through: Any, finished: Build
) -> None:
    """Killed again and again, each time on another machine: no mark ever names what is not there, and what comes of it
    is the same to the byte."""
    kills = 0
    for attempt in itertools.count():
        machine(f"machine-{attempt}")
        requests.kill(2 + attempt, heard=attempt % 2 == 0)
        try:
            build = run_through(quick, local_folder(url))
        except SynthgenError:
            assert requests.is_dead
            kills += 1
        else:
            break
        finally:
            requests.kill(None)
            interrupts.halt(None)
        named(stored(s3, f"{url}/fruit/run-0001"))
    assert kills >= 7
    assert build.is_complete()
    assert results(build.run.root) == results(finished.run.root)
    content = stored(s3, f"{url}/fruit/run-0001")
    assert {n: content[n] for n in named(content)} == {n: (build.run.root / n).read_bytes() for n in named(content)}


WORKER = """
import os, signal, sys
from fnmatch import fnmatch
from pathlib import Path
import aiobotocore.client
from synthgen.store import lease
from synthgen.store import objects
from synthgen.store.location import local_folder
from synthgen.pipeline.build import Build
from synthgen.pipeline.generate import generate_shard
from synthgen.pipeline.label import label_shard
from synthgen.pipeline.measure import measure_shard
from synthgen.pipeline.plan import plan_shards
from synthgen.spec import load_spec
from synthgen.pipeline.check import check
from synthgen.store.run import Run

send = aiobotocore.client.AioBaseClient._make_api_call
async def call(self, operation, arguments):
    if operation == "PutObject" and fnmatch(arguments["Key"], sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return await send(self, operation, arguments)
aiobotocore.client.AioBaseClient._make_api_call = call

spec, out = load_spec(Path(sys.argv[1])), local_folder(sys.argv[2])
folder = Run.at(out, spec.name, 1)
with folder.lock():
    build = Build.start(folder, spec, check(spec, out))
    plan_shards(build)
    for shard in build.pending():
        generate_shard(build, shard), label_shard(build, shard), measure_shard(build, shard)
"""


@pytest.mark.slow
def test_sigkill(
    s3: Any, url: str, machine: Any, impatient: None, quick: Any, spec_file: Any, run_through: Any, finished: Build,
    tmp_path: Path,
) -> None:  # fmt: skip
    """The real thing: before a batch's mark is put; then, on the same machine, which need not wait for a lease of its
    own, when a mark is here and not in the store yet."""
    for kill, fault, marks in (
        ("*/partial/generate-00000-0001.json", "", {"partial/generate-00000-0000"}),
        ("none", "after */commits/label-00000.json", {"generate-00000"}),
    ):
        environment = {"SYNTHGEN_HOME": str(tmp_path / "killed"), "SYNTHGEN_FAULT": fault}
        command = [sys.executable, "-c", WORKER, spec_file(quick), url, kill]
        done = subprocess.run(command, env={**os.environ, **environment}, check=False)
        assert done.returncode == -signal.SIGKILL
        content = stored(s3, f"{url}/fruit/run-0001")
        named(content)
        made = {n.removeprefix("commits/").removesuffix(".json") for n in content if n.startswith("commits/")}
        assert {n for n in made if not n.startswith(("plan", "round"))} == marks
        assert content[".lock"].startswith(b"pid ")
    machine("killed")
    root = Run.at(local_folder(url), "fruit", 1).root
    assert (root / "commits" / "label-00000.json").is_file()
    Run(root).refresh()
    assert not (root / "commits" / "label-00000.json").exists()  # the store has not got it
    machine("another")
    build = run_through(quick, local_folder(url))
    assert results(build.run.root) == results(finished.run.root)
    named(stored(s3, f"{url}/fruit/run-0001"))


# Two at once


def test_another_machine_keeps_us_out_until_its_lease_ends(
    s3: Any, url: str, machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "SETTLE_SECONDS", 0.0)
    run = Run.at(local_folder(url), "fruit", 1)
    put(s3, run.address, ".lock", THEIRS)
    said = rf"^another process \(pid 7 on elsewhere\) is at work in {run.address}; if .* the folder is free 60 s after"
    with pytest.raises(RunError, match=said), run.lock():
        pytest.fail("two machines in one folder")
    assert run.holder() == "pid 7 on elsewhere"
    assert stored(s3, run.address) == {".lock": THEIRS}  # and no probe of the store's clock is left
    monkeypatch.setattr(lease, "LEASE_SECONDS", 1.0)
    deadline = time.monotonic() + 20
    while run.holder():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    with run.lock():
        assert stored(s3, run.address)[".lock"].startswith(f"pid {os.getpid()} on {platform.node()}\n".encode())
    assert stored(s3, run.address) == {}


def test_who_was_quicker_has_the_folder(s3: Any, url: str, machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """However close: its name comes between our look and our put, or our removal of one that had ended."""
    run = Run.at(local_folder(url), "fruit", 1)
    monkeypatch.setattr(lease, "read_lease", lambda slot: b"")
    put(s3, run.address, ".lock", THEIRS)
    with pytest.raises(RunError, match=f"^another process is at work in {run.address}$"), run.lock():
        pytest.fail("two machines in one folder")
    monkeypatch.setattr(lease, "read_lease", lambda slot: b"pid 9 on elsewhere\nx y\n")
    monkeypatch.setattr(lease, "LEASE_SECONDS", 0.0)
    with pytest.raises(RunError, match=f"^another process is at work in {run.address}$"), run.lock():
        pytest.fail("two machines in one folder")
    assert stored(s3, run.address) == {".lock": THEIRS}


def test_who_takes_over_at_the_same_moment_finds_the_others_name(
    s3: Any, url: str, machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.at(local_folder(url), "fruit", 1)
    put(s3, run.address, ".lock", b"pid 9 on elsewhere\nx y\n")
    monkeypatch.setattr(lease, "LEASE_SECONDS", 0.0)
    monkeypatch.setattr(objects.time, "sleep", lambda seconds: put(s3, run.address, ".lock", THEIRS))
    with pytest.raises(RunError, match=f"^another process is at work in {run.address}$"), run.lock():
        pytest.fail("two machines in one folder")
    assert stored(s3, run.address) == {".lock": THEIRS}


def test_a_holder_that_has_lost_its_lease_puts_nothing_more(
    s3: Any, url: str, machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.05)
    run = Run.at(local_folder(url), "fruit", 1)
    with run.lock():
        run.rounds.write(1, {"number": 1})
        put(s3, run.address, ".lock", THEIRS)
        deadline = time.monotonic() + 10
        while not is_halted():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        before = stored(s3, run.address)
        for write in (
            interrupts.raise_if_stopped,
            lambda: run.rounds.write(2, {"number": 2}),
            lambda: run.marks.commit("plan", 0, "x", []),
            lambda: run.marks.withdraw("judge"),
            lambda: run.facts.write_spec({"name": "x"}),
        ):
            with pytest.raises(RunError, match=f"^pid 7 on elsewhere has taken over {run.address}, since this process"):
                write()
    assert stored(s3, run.address) == before
    assert before[".lock"] == THEIRS and len(before) == 2


def test_a_holder_whose_store_was_away_looks_before_it_puts_again(
    s3: Any, url: str, machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = aiobotocore.client.AioBaseClient._make_api_call

    async def call(self: Any, operation: str, arguments: dict[str, Any]) -> Any:
        if arguments.get("Key", "").endswith("quality.json") and not away:
            away.append(operation)
            raise ConnectionResetError("the line is dead")
        return await send(self, operation, arguments)

    away: list[str] = []
    run = Run.at(local_folder(url), "fruit", 1)
    with run.lock():
        run.paths.quality.write_bytes(b"ours")
        monkeypatch.setattr(aiobotocore.client.AioBaseClient, "_make_api_call", call)
        monkeypatch.setattr(lease, "LEASE_SECONDS", 0.0)
        monkeypatch.setattr(objects.time, "sleep", lambda seconds: put(s3, run.address, ".lock", THEIRS))
        with pytest.raises(RunError, match=f"^pid 7 on elsewhere has taken over {run.address}, since this process"):
            run.marks.commit("judge", None, "inputs", [run.paths.quality])
    assert away == ["PutObject"]
    assert stored(s3, run.address) == {".lock": THEIRS}


def test_the_same_machine_does_not_wait_for_itself(
    s3: Any, url: str, machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process of ours that was killed has left its name; the lock beside the mirror says that it is gone."""
    run = Run.at(local_folder(url), "fruit", 1)
    with run.lock():
        left = stored(s3, run.address)[".lock"]
        with pytest.raises(RunError, match=rf"^another process \(pid {os.getpid()} on "), run.lock():
            pytest.fail("twice in one folder")
    put(s3, run.address, ".lock", left)
    with monkeypatch.context() as patch:
        patch.setattr(objects, "SETTLE_SECONDS", 10_000)  # whoever waits for it does not come back
        with run.lock():
            pass
    put(s3, run.address, ".lock", left)
    machine("second")  # another user, or another container, of the same host: its lock is another
    with pytest.raises(RunError, match="is at work in s3://"), Run.at(local_folder(url), "fruit", 1).lock():
        pytest.fail("two in one folder")


# Workers


def test_a_worker_on_another_machine_takes_and_gives_its_shards_only(
    s3: Any, url: str, machine: Any, monkeypatch: pytest.MonkeyPatch, quick: Any, run_through: Any, finished: Build
) -> None:
    from synthgen import flow
    from synthgen.pipeline.stages import Stages
    from synthgen.spec import DatasetSpec

    for name in ("generate", "label", "measure"):  # without Prefect's server
        monkeypatch.setattr(flow, name, getattr(flow, name).fn)
    spec = DatasetSpec.parse(quick)
    head = Run.at(local_folder(url), spec.name, 1)
    with head.lock():
        build = Build.start(head, spec, Stages.of(spec))
        plan_shards(build)
        generate_shard(build, 0)
        address = head.address
        machine("worker")
        assert flow.make_on_worker.fn(address, [1], False, False) == 1
        there = Run(local_run_folder(address)).root
        assert there != head.root
        assert {p.parent.name for p in there.glob("images/*/*.png")} == {"00001"}
        assert {p.name for p in there.glob("jobs/*")} == {"00001.parquet"}
        machine("another")  # and one that was given it again makes nothing twice
        monkeypatch.setattr("synthgen.generators.diffusion.Backend.generate", None)
        assert flow.make_on_worker.fn(address, [1], False, False) == 1
        monkeypatch.undo()
        machine("first")
        head.sync(files=False, drop=False)
        assert build.is_done("measure", 1) and not (head.root / "images" / "00001").exists()
        head.sync()
        assert len(list(head.root.glob("images/00001/*.png"))) == 4
    named(stored(s3, address))
    build = run_through(quick, local_folder(url))
    assert results(build.run.root) == results(finished.run.root)


@pytest.mark.slow
def test_workers_of_ray_are_given_the_url(
    url: str, machine: Any, quick: Any, finished: Build, tmp_path: Path, migrated: Any
) -> None:
    from ray_runs import TWO, run, written

    spec, profile = written(tmp_path / "spec.yaml", quick), written(tmp_path / "ray.yaml", TWO)
    done = run(spec, url, profile, tmp_path / "home", migrated)
    assert done.returncode in {0, 3}, done.stderr
    machine("home")
    assert results(Run.at(local_folder(url), "fruit", 1).root) == results(finished.run.root)


# People


def test_commands_take_the_url_of_a_run(
    s3: Any, url: str, machine: Any, quick: Any, spec_file: Any, run_through: Any, synthgen: Any, tmp_path: Path
) -> None:
    """On a machine that has nothing of it: what is read is fetched, and no more."""
    run_through(quick, local_folder(url))
    machine("second")
    run, root = f"{url}/fruit/run-0001", Run.at(local_folder(url), "fruit", 1).root
    code, out, err = synthgen("status", run)
    assert (code, err) == (0, "") and "generate: 2 of 2 shards, 8 images" in out and "go on" not in out
    assert not list(root.glob("images/*/*.png"))
    code, out, err = synthgen("show", run, "-o", tmp_path / "sheet.png", "--images", "2")
    assert (code, err) == (0, "") and "2 images" in out
    assert len(list(root.glob("images/*/*.png"))) == 2
    with ReviewLog.open(tmp_path / "log") as log:
        queue = ReviewQueue(Build.open(Run.existing(root)), "random", None, log)
        images = {item.image_id: queue.image(item.image_id) for item in queue.items}
    assert all(data == (root / f"images/{(i - 1) // 4:05d}/{i:012d}.png").read_bytes() for i, data in images.items())
    code, out, err = synthgen("runs", spec_file(quick), "--out", url)
    assert (code, err) == (0, "") and "finished" in out
    code, out, err = synthgen("judge", run, "--set", "filters.sharpness.min=1e9", "-q")
    assert code == 3, err
    content = stored(s3, run)
    assert not [n for n in content if n.startswith("coco/") and n.endswith(".png")]
    assert orjson.loads(content["quality.json"])["accepted"] == 0
    code, out, err = synthgen("verify", run)
    assert (code, err) == (0, "") and ", 0 damages" in out
    code, out, err = synthgen("run", spec_file(quick), "--out", url, "--set", "seed=7")
    assert code == 2 and "holds images that were made differently (seed" in err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("s33://bucket/x", "got 's33://bucket/x'; there is no store 's33' (did you mean 's3'?)"),
        ("gsc://bucket/x", "got 'gsc://bucket/x'; there is no store 'gsc' (did you mean 'gs'?)"),
        ("S3://bucket/x", "got 'S3://bucket/x'; there is no store 'S3' (did you mean 's3'?)"),
        ("s3://", "got 's3://'; takes a folder, or a URL such as s3://bucket/datasets"),
        ("s3:///bucket/x", "got 's3:///bucket/x'; takes a folder, or a URL such as s3://bucket/datasets"),
        ("s3:/bucket/x", "got 's3:/bucket/x'; takes a folder, or a URL such as s3://bucket/x"),
        ("file://here/x", "got 'file://here/x'; takes a folder, or a URL such as file:///disk/datasets"),
        ("file://~/x", "got 'file://~/x'; takes a folder, or a URL such as file:///disk/datasets"),
        ("simplecache::s3://bucket/x", "there is no store 'simplecache::s3'"),
        ("s3://bucket/a*", "takes a folder, or a URL"),
        ("s3://a::s3://bucket/x", "takes a folder, or a URL"),
        ("s3://nobucket/x", "s3://nobucket/x/fruit/run-0001 cannot be used: "),
    ],
)
def test_a_store_that_is_none(
    given: str, message: str, s3: Any, machine: Any, quick: Any, spec_file: Any, synthgen: Any
) -> None:
    code, out, err = synthgen("run", spec_file(quick), "--out", given)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ") and message in err


@pytest.mark.parametrize("command", ["check", "status"])
@pytest.mark.parametrize(
    "scheme",
    [
        "memory",
        "data",
        "dir",
        "ftp",
        "github",
        "http",
        "https",
        "hf",
        "sftp",
        "webdav",
        "hdfs",
        "asynclocal",
        "",
        "a b",
    ],
)
def test_what_is_no_store_is_refused_before_it_is_opened(
    scheme: str, command: str, machine: Any, quick: Any, spec_file: Any, synthgen: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("fsspec.url_to_fs", lambda *_, **__: pytest.fail("opened"))
    file = spec_file(quick)
    there, url = set(tmp_path.rglob("*")), f"{scheme}://127.0.0.1:9/x"
    given = [file, "--out", url] if command == "check" else [f"{url}/fruit/run-0001"]
    code, out, err = synthgen(command, *given)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: got {url!r}; there is no store {scheme!r}")
    assert "; takes a folder, or a URL of s3://, s3a://, gs://, gcs://, az://, abfs://, abfss://, file://, loc" in err
    assert set(tmp_path.rglob("*")) == there


@pytest.mark.parametrize("url", ["s3://bucket/x", "gs://bucket/x", "gcs://b", "az://b/x", "abfss://b@c/x", "file:///x"])
def test_a_url_is_read_without_a_store(url: str, machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """gcsfs and adlfs connect as soon as they are made."""
    monkeypatch.setattr("fsspec.url_to_fs", lambda *_, **__: pytest.fail("opened"))
    monkeypatch.setattr(objects, "find_spec", lambda name: name)
    assert address(local_folder(url)) == url
    assert local_run_folder(f"{url}/fruit/run-0001") == local_folder(url) / "fruit" / "run-0001"


@pytest.mark.parametrize("run", ["s3://bucket/fruit", "s3://run-0001", "s3://bucket/x/fruit/run-1", "s3://b/x/fruit/"])
def test_a_url_of_no_run(run: str, s3: Any, machine: Any, synthgen: Any) -> None:
    code, out, err = synthgen("status", run)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "is no run folder; it takes one such as s3://bucket/datasets/fruit/run-0001" in err


def test_a_run_that_is_not_there(s3: Any, url: str, machine: Any, synthgen: Any) -> None:
    code, _, err = synthgen("show", f"{url}/fruit/run-0001")
    assert code == 2 and err.startswith(f"error: '{url}/fruit/run-0001' is no run folder")


@pytest.mark.parametrize(
    ("url", "package", "install"),
    [("s3://bucket/x", "s3fs", "'synthgen[s3]'"), ("gs://bucket/x", "gcsfs", "gcsfs"), ("az://b/x", "adlfs", "adlfs")],
)
def test_a_package_that_is_not_installed(
    url: str, package: str, install: str, machine: Any, quick: Any, spec_file: Any, synthgen: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, package, None)
    code, _, err = synthgen("check", spec_file(quick), "--out", url)
    assert code == 2 and err == f"error: got {url!r}; {package} is not installed: pip install {install}\n"


def test_credentials_that_are_refused(
    url: str, machine: Any, quick: Any, spec_file: Any, synthgen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.exceptions import ClientError, NoCredentialsError

    for raised, said in (
        (NoCredentialsError(), "NoCredentialsError: Unable to locate credentials"),
        (ClientError({"Error": {"Code": "AccessDenied", "Message": "Access Denied"}}, "x"), "PermissionError: Access"),
    ):

        async def refuse(*_: Any, error: Exception = raised) -> None:
            raise error

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(aiobotocore.client.AioBaseClient, "_make_api_call", refuse)
            code, out, err = synthgen("run", spec_file(quick), "--out", url)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith(f"error: {url}/fruit/run-0001 cannot be used: its store refuses ({said}")


def test_a_store_that_does_not_look_at_conditions(
    s3: Any, url: str, machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = aiobotocore.client.AioBaseClient._make_api_call

    async def call(self: Any, operation: str, arguments: dict[str, Any]) -> Any:
        return await send(self, operation, {k: v for k, v in arguments.items() if k != "IfNoneMatch"})

    monkeypatch.setattr(aiobotocore.client.AioBaseClient, "_make_api_call", call)
    run = Run.at(local_folder(url), "fruit", 1)
    with pytest.raises(RunError, match=f"^{run.address} cannot be used: its store ignores the condition"), run.lock():
        pytest.fail("a lock that is none")


def test_a_store_that_goes_away_is_asked_again_and_then_it_is_said(
    s3: Any, url: str, machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, away = aiobotocore.client.AioBaseClient._make_api_call, [2]

    async def call(self: Any, operation: str, arguments: dict[str, Any]) -> Any:
        if arguments.get("Key", "").endswith("round-0001.json") and away[0]:
            away[0] -= 1
            raise ConnectionResetError("the line is dead")
        return await send(self, operation, arguments)

    monkeypatch.setattr(aiobotocore.client.AioBaseClient, "_make_api_call", call)
    monkeypatch.setattr(objects.time, "sleep", lambda seconds: None)
    run = Run.at(local_folder(url), "fruit", 1)
    with run.lock():
        run.rounds.write(1, {"number": 1})
        assert "commits/round-0001.json" in stored(s3, run.address) and away == [0]
        away[0] = 1000
        monkeypatch.setattr(objects, "RETRY_SECONDS", 0.05)
        with pytest.raises(
            RunError, match=r"cannot be reached \(ConnectionResetError: the line is dead\); what is fin"
        ):
            run.rounds.write(1, {"number": 1, "count": 2})


def test_plain_paths_open_no_store(tmp_path: Path) -> None:
    code = "import sys; from synthgen import cli; from synthgen.store.run import *; Run(Path('x')); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert not {"fsspec", "s3fs", "aiobotocore"} & set(done.stdout.split())


# What is there


def test_verdicts_of_people_go_to_the_store(s3: Any, url: str, machine: Any, run_through: Any, quick: Any) -> None:
    run = run_through(quick, local_folder(url)).run
    said = Review(1, None, "reject", None, "borderline", "x")
    with run.reviewing(), ReviewLog.open(run.paths.reviews, run.files.publish) as log:
        log.add(said)
        assert stored(s3, run.address)["reviews.jsonl"] == run.paths.reviews.read_bytes()
        machine("second")
        other = Run.at(local_folder(url), "fruit", 1)
        with (
            pytest.raises(RunError, match=rf"^another process \(pid {os.getpid()} .* is at work in s3://"),
            other.reviewing(),
        ):
            pytest.fail("two reviewers of one run")
        other.refresh()
        assert read_reviews(other.paths.reviews).of == {said.about: said}
    with other.reviewing(), ReviewLog.open(other.paths.reviews, other.files.publish) as log:
        assert log.undo() == (said,)
    with run.reviewing():
        assert read_reviews(run.paths.reviews).of == {}
    assert set(stored(s3, run.address)) & {".review", ".lock"} == set()


def test_masks_of_people_go_to_the_store(s3: Any, url: str, machine: Any, run_through: Any, quick: Any) -> None:
    build = run_through(quick, local_folder(url))
    (label, *_) = build.run.tables.read(build.run.paths.table("labels", 0)).to_pylist()
    mask = square(3, 4, 9)["counts"]
    digest = labels_digests(build, 0, {label["image_id"]})[label["image_id"]]
    with build.run.reviewing(), ReviewLog.open(build.run.paths.reviews, build.run.files.publish) as log:
        log.add(Review(label["image_id"], label["instance"], "bad_mask", None, "import", digest, rle=mask))
    with build.run.lock():
        judge_run(build)
    machine("second")
    other = Run.at(local_folder(url), "fruit", 1)
    other.refresh()
    found = read_corrections(other)
    assert found is not None and found["rle"].to_pylist() == [mask]
    with build.run.reviewing(), ReviewLog.open(build.run.paths.reviews, build.run.files.publish) as log:
        log.undo()
    with other.lock():
        judge_run(Build.open(other))
    assert read_corrections(other) is None and "corrections.parquet" not in stored(s3, other.address)


def test_a_dataset_grows_in_a_store(
    s3: Any, url: str, machine: Any, quick: Any, run_through: Any, tmp_path: Path
) -> None:
    for number in (1, 2):
        machine(f"machine-{number}")  # each knows only its own run until it merges
        build = run_through(quick, local_folder(url), number)
        plain = run_through(quick, tmp_path / "plain", number)
    assert [run.number for run in runs_of(build.run.root.parent)] == [1, 2]
    assert grow(build) == grow(plain)
    content = stored(s3, f"{url}/fruit/dataset")
    expected = tmp_path / "plain" / "fruit" / "dataset"
    assert Growth.read(expected / "dataset.json")
    kept = {p.relative_to(expected).as_posix(): p for p in expected.rglob("*") if p.is_file()}
    assert {n: d for n, d in content.items() if not n.startswith("commits/")} == {
        n: p.read_bytes() for n, p in kept.items() if n != ".lock" and not n.startswith("commits/")
    }
    assert named(content) >= {n for n in kept if n.startswith("coco/")}
    machine("third")
    assert grow(Build.open(run_through(quick, local_folder(url), 1).run)).runs == grow(plain).runs


def test_an_object_that_is_damaged_or_gone_is_made_anew(
    s3: Any, url: str, machine: Any, quick: Any, run_through: Any, finished: Build
) -> None:
    run = run_through(quick, local_folder(url)).run
    before = stored(s3, run.address)
    image = sorted(n for n in before if n.startswith("images/"))
    put(s3, run.address, image[0], before[image[0]][:-1] + b"\0")
    s3.delete_object(Bucket="bucket", Key=f"{run.address.removeprefix('s3://bucket/')}/{image[5]}")
    machine("second")
    build = run_through(quick, local_folder(url))
    assert results(build.run.root) == results(finished.run.root)
    content = stored(s3, run.address)
    assert named(content) == named(before)
    assert {n: content[n] for n in image} == {n: before[n] for n in image}


def test_names_that_lead_out_of_the_folder_are_not_followed(s3: Any, url: str, machine: Any, tmp_path: Path) -> None:
    run = Run.at(local_folder(url), "fruit", 1)
    with run.lock():
        (run.root / "x").write_bytes(b"x")
        run.marks.commit("judge", None, "inputs", [run.root / "x"])
    content = stored(s3, run.address)
    mark = orjson.loads(content["commits/judge.json"])
    mark.pop("seal")
    mark["files"] = {"../../../outside": mark["files"]["x"], "/outside": mark["files"]["x"]}
    put(s3, run.address, "commits/judge.json", orjson.dumps({**mark, "seal": sha256_json(mark)}))
    machine("second")
    other = Run.at(local_folder(url), "fruit", 1)
    with other.lock():
        assert {p.name for p in other.root.rglob("*") if p.is_file()} == {".lock", "judge.json"}
    assert not list(tmp_path.rglob("outside"))


def test_files_of_an_earlier_making_do_not_pass_for_the_stores(s3: Any, url: str, machine: Any) -> None:
    """Of the same size, under the same name, named by a mark that another machine has put."""
    run = Run.at(local_folder(url), "fruit", 1)
    with run.lock():
        run.paths.quality.write_bytes(b"ours")
        run.marks.commit("judge", None, "inputs", [run.paths.quality])
    machine("second")
    other = Run.at(local_folder(url), "fruit", 1)
    with other.lock():
        assert other.paths.quality.read_bytes() == b"ours"
        other.marks.withdraw("judge")
        other.paths.quality.write_bytes(b"them")
        other.marks.commit("judge", None, "inputs", [other.paths.quality])
        assert stored(s3, run.address)["quality.json"] == b"them"
    run.refresh()
    assert run.paths.quality.read_bytes() == b"them"
