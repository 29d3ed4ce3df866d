"""The store: whole files or none, work that is done if and only if its mark agrees, one process at a time."""

import errno
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from folders import names, write

from synthgen.base.files import sha256
from synthgen.base.safe_yaml import MAX_BYTES
from synthgen.errors import OutOfRoom, RunError
from synthgen.spec import MAX_CLASSES, MAX_VALUES, DatasetSpec
from synthgen.store.marks import Mark
from synthgen.store.paths import is_commit
from synthgen.store.run import Run
from synthgen.store.tables import JOB_SCHEMA
from synthgen.types import Job

JOB = Job(
    id=10_000_001,
    run=2,
    round=1,
    index=0,
    family="00ff00ff00ff00ff",
    split="train",
    prompt="a photo of a café, “quoted”\nand a line",
    negative_prompt="blur",
    slots={"ground": "sand", "light": "{x}"},
    asked=(3, 1),
    layout=((1, 2, 30, 40), (50, 60, 70, 128)),
    seed=2**63 - 1,
    height=96,
    width=128,
)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.at(tmp_path, "fruit", 1)


# Files


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.EINVAL, errno.EIO])
def test_file_systems_that_know_no_modes_or_sync_no_folders(
    number: int, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def of_files_only(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        sync(handle)

    def refused(path: Path, mode: int) -> None:
        raise OSError(number, os.strerror(number), str(path))

    image = np.zeros((4, 4, 3), np.uint8)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", of_files_only)
        with nullcontext() if number != errno.EIO else pytest.raises(OSError, match="output"):
            run.images.write(0, 1, image)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "chmod", refused)
        known = number in {errno.EINVAL, errno.EIO}
        with pytest.raises(OSError, match=r"000000000002\.png") if known else nullcontext():
            run.images.write(0, 2, image)
    assert run.paths.image(0, 2).exists() == (not known)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no /dev/full")
def test_a_lock_without_room_for_its_holder(run: Run) -> None:
    run.root.mkdir(parents=True, exist_ok=True)
    run.paths.lock.symlink_to("/dev/full")
    with pytest.raises(OutOfRoom, match=r"no room left on the disk for .*\.lock; free some"), run.lock():
        pytest.fail("nobody is named")
    with run.reading() as locked:
        assert not locked


# Marks


def test_work_is_done_once_its_mark_is_there(run: Run) -> None:
    file = write(run.root / "labels" / "00003.parquet")
    assert not run.marks.is_done("label", 3, "inputs")
    mark = run.marks.commit(
        "label", 3, "inputs", [file], seconds=1.23456, counts={"images": 2}, environment={"torch": "2"}
    )
    assert run.marks.is_done("label", 3, "inputs")
    assert run.marks.read("label", 3) == mark
    assert mark.files == {"labels/00003.parquet": (4, sha256(file))}
    assert (mark.seconds, mark.counts, mark.environment) == (1.235, {"images": 2}, {"torch": "2"})
    assert names(run.root) == ["commits/label-00003.json", "labels/00003.parquet"]
    for stage, shard in (("label", 4), ("measure", 3), ("label", None)):
        assert not run.marks.is_done(stage, shard, "inputs")  # type: ignore[arg-type]


def torn(run: Run, file: Path, mark: Path) -> None:
    mark.write_bytes(mark.read_bytes()[:40])


def empty(run: Run, file: Path, mark: Path) -> None:
    mark.write_bytes(b"")


def not_json(run: Run, file: Path, mark: Path) -> None:
    mark.write_bytes(b"\xff\xfe\x00")


def a_list(run: Run, file: Path, mark: Path) -> None:
    mark.write_text("[]")


def of_another_time(run: Run, file: Path, mark: Path) -> None:
    mark.write_text(json.dumps({**json.loads(mark.read_text()), "new": 1}))


def without_files(run: Run, file: Path, mark: Path) -> None:
    mark.write_text(json.dumps({"inputs": "inputs"}))


def odd_files(run: Run, file: Path, mark: Path) -> None:
    mark.write_text(json.dumps({"inputs": "inputs", "files": ["labels/00003.parquet"]}))


def no_file(run: Run, file: Path, mark: Path) -> None:
    file.unlink()


def shorter(run: Run, file: Path, mark: Path) -> None:
    file.write_bytes(b"dat")


def longer(run: Run, file: Path, mark: Path) -> None:
    file.write_bytes(b"data!")


DAMAGE = [torn, empty, not_json, a_list, of_another_time, without_files, odd_files, no_file, shorter, longer]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda d: d.__name__)
def test_a_mark_that_does_not_agree_says_nothing_is_done(damage: Callable[..., None], run: Run) -> None:
    file = write(run.root / "labels" / "00003.parquet")
    run.marks.commit("label", 3, "inputs", [file])
    assert run.marks.is_done("label", 3, "inputs")
    damage(run, file, run.root / "commits" / "label-00003.json")
    assert not run.marks.is_done("label", 3, "inputs")


def test_other_inputs_are_other_work(run: Run) -> None:
    run.marks.commit("label", 3, "inputs", [write(run.root / "labels" / "00003.parquet")])
    assert not run.marks.is_done("label", 3, "others")


def test_outputs_of_a_mark_are_what_its_files_hold() -> None:
    mark = Mark("x", {"a": (1, "aa"), "b": (2, "bb")}, seconds=3)
    assert mark.outputs == Mark("y", {"b": (2, "bb"), "a": (1, "aa")}, counts={"n": 1}).outputs
    assert mark.outputs != Mark("x", {"a": (1, "aa"), "b": (2, "bc")}).outputs


def test_checksums_that_are_known_are_not_computed_again(run: Run) -> None:
    file = write(run.root / "a.bin")
    mark = run.marks.commit("export", "coco", "inputs", [file], known={"a.bin": (4, "known")})
    assert mark.files == {"a.bin": (4, "known")}
    assert names(run.root / "commits") == ["export-coco.json"]


def test_batches_are_checked_to_the_last_byte(run: Run) -> None:
    files = [write(run.root / "images" / "00001" / f"{i}.png", b"data%d" % i) for i in range(3)]
    mark = run.marks.commit_batch(1, 0, "inputs", files)
    run.marks.commit_batch(1, 1, "inputs", [])
    run.marks.commit_batch(2, 0, "inputs", [])
    assert run.marks.read_batch(1, 0, "inputs") == mark
    assert run.marks.read_batch(1, 0, "others") is None
    assert run.marks.read_batch(1, 2, "inputs") is None
    files[1].write_bytes(b"dataX")  # of the same size
    assert run.marks.read_batch(1, 0, "inputs") is None
    run.marks.clear_batches(1)
    assert names(run.root / "commits") == ["partial/generate-00002-0000.json"]
    run.marks.clear_batches(2)
    assert not (run.root / "commits" / "partial").exists()
    run.marks.clear_batches(2)


def test_marks_of_batches_go_once_their_shard_is_done(run: Run) -> None:
    """Though it was killed between the one and the other."""
    for shard in (1, 2):
        run.marks.commit_batch(shard, 0, "inputs", [])
    run.marks.commit("generate", 1, "inputs", [])
    run.marks.sweep()
    assert names(run.root / "commits") == ["generate-00001.json", "partial/generate-00002-0000.json"]
    torn(run, run.root, run.paths.mark("generate", 1))
    run.marks.commit_batch(1, 0, "inputs", [])
    run.marks.sweep()  # its batches are all that is known of it
    assert names(run.root / "commits" / "partial") == ["generate-00001-0000.json", "generate-00002-0000.json"]


def test_marks_under_names_that_the_store_gives_to_none_stay_and_count_for_nothing(run: Run) -> None:
    """As copies that a sync tool makes: `plan-000000.json` would be shard 0 once more."""
    files = [write(run.root / "images" / "00000" / f"{i:012d}.png") for i in range(2)]
    run.marks.commit("plan", 0, "inputs", [])
    run.marks.commit_batch(0, 1, "inputs", files[:1])
    partial = run.root / "commits" / "partial"
    foreign = ["generate-00000-0001 (1).json", "generate-000000-0001.json", "generate-00000-1.json"]
    shutil.copy(run.paths.mark("plan", 0), run.root / "commits" / "plan-000000.json")
    run.marks.commit_batch(0, 2, "inputs", files[1:])
    for name in foreign:
        (partial / "generate-00000-0002.json").rename(partial / name)
        run.marks.commit_batch(0, 2, "inputs", files[1:])
    (partial / "generate-00000-0002.json").unlink()
    assert run.marks.shards() == [0]
    assert [(stage, shard) for stage, shard, _ in run.marks.read_all()] == [("plan", 0)]
    assert run.marks.images_in_batches(0) == 1
    run.marks.clear_batches(0)
    assert names(partial) == sorted(foreign)
    assert not any(is_commit(f"commits/partial/{name}") for name in foreign)
    assert not is_commit("commits/plan-000000.json")


def test_shards_and_rounds_are_read_in_order(run: Run) -> None:
    assert (run.marks.shards(), run.rounds.read()) == ([], [])
    for shard in (10, 2, 0):
        run.marks.commit("plan", shard, "inputs", [])
    assert run.marks.shards() == [0, 2, 10]
    rounds = [
        {"number": n, "start": 5, "count": 3, "classes": {1: 0.5, 12: 2.0}, "objects": {0: 1.0}} for n in (1, 2, 3)
    ]
    for round in reversed(rounds):
        run.rounds.write(round["number"], round)  # type: ignore[arg-type]
    assert run.rounds.read() == rounds


# The lock


HOLD = """
import sys, time
from pathlib import Path
from synthgen.store.paths import is_commit
from synthgen.store.run import Run
with Run(Path(sys.argv[1])).lock():
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_lock_keeps_others_out_and_dies_with_its_holder(run: Run) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, run.root], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        try:
            assert holder.stdout.readline() == "held\n"
            held = rf"another process \(pid {holder.pid} on .*\) is at work in "
            with pytest.raises(RunError, match=held), run.lock():
                pytest.fail("two processes in one folder")
        finally:
            holder.send_signal(signal.SIGKILL)
        holder.wait(20)
        with run.lock():
            assert run.paths.lock.read_text().startswith(f"pid {os.getpid()} on ")
    with run.lock():  # and again
        pass


def test_the_lock_is_let_go_if_the_block_fails(run: Run) -> None:
    with pytest.raises(ValueError, match="no"), run.lock():
        raise ValueError("no")
    with run.lock():
        pass


# The spec and the facts


def test_spec_and_facts_are_read_back_and_written_only_when_they_change(run: Run) -> None:
    assert run.facts.read() == {}
    spec, facts = {"name": "früchte", "splits": {"val": 0.5, "a": 0.5}}, {"made_from": {"seed": 7}}
    for _ in range(2):
        run.facts.write_spec(spec)
        run.facts.write(facts)
        assert (run.facts.read_spec(), run.facts.read()) == (spec, facts)
        assert list(run.facts.read_spec()["splits"]) == ["val", "a"]
        for path in (run.paths.spec, run.root / "run.json"):
            os.utime(path, (1, 1))
    run.facts.write_spec(spec)
    run.facts.write(facts)
    assert run.paths.spec.stat().st_mtime == (run.root / "run.json").stat().st_mtime == 1
    run.facts.write_spec({**spec, "count": 1})
    assert run.facts.read_spec()["count"] == 1


def test_a_run_folder_is_known_by_its_spec(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is no run folder; it takes one such as"):
        Run.existing(tmp_path)
    run = Run.at(tmp_path, "fruit", 12)
    assert run.root == tmp_path / "fruit" / "run-0012"
    assert run.number == 12
    assert not run.root.exists()
    run.facts.write_spec({"name": "fruit"})
    assert Run.existing(run.root).number == 12


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"name: [fruit", "not valid YAML: "),
        (b"name: a\nname: b\n", "the key 'name' stands twice, again in line 2"),
        (BOMB.encode(), "its aliases stand for more than 800,000 values"),
        (b"name: !!python/object/apply:os.getcwd []\n", "not valid YAML: "),
        (b"name: \xff", "can't decode byte 0xff"),
        (b"x" * 32_000_001, "a spec takes at most 8,000,000 characters"),
    ],
    ids=["torn", "twice", "bomb", "code", "no text", "long"],
)
def test_a_damaged_spec_is_named_and_written_anew(run: Run, content: bytes, reason: str) -> None:
    write(run.paths.spec, content)
    with pytest.raises(RunError) as stop:
        run.facts.read_spec()
    assert str(stop.value).startswith(f"{run.paths.spec} cannot be read: ") and reason in str(stop.value)
    assert str(stop.value).endswith("; run the spec again to write it anew")
    run.facts.write_spec({"name": "fruit"})
    assert run.facts.read_spec() == {"name": "fruit"}


def test_a_spec_as_large_as_may_be_is_read_back(run: Run, good: dict[str, Any]) -> None:
    """Written with all its keys it is longer than what a person may write."""
    names = [f"{i} {'x' * 60}" for i in range(MAX_CLASSES)]
    values = [f"{i}{'é' * 90}" for i in range(MAX_VALUES)]
    good["classes"] = [{"name": name, "synonyms": [f"{name} b", f"{name} c"]} for name in names]
    good["prompts"]["slots"] = {"ground": values[:5000], "light": values[:5000]}
    spec = DatasetSpec.parse(good).dump()
    assert len(yaml.safe_dump(spec, allow_unicode=True)) > MAX_BYTES
    run.facts.write_spec(spec)
    assert run.facts.read_spec() == spec


# Images


def test_images_are_read_back_and_read_only(run: Run) -> None:
    image = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    path = run.images.write(1, 42, image)
    assert path == run.root / "images" / "00001" / "000000000042.png"
    assert path.stat().st_mode & 0o777 == 0o444
    assert (run.images.read(1, 42) == image).all()
    mark = run.marks.commit("generate", 1, "inputs", [path])
    assert (run.images.read(1, 42, mark) == image).all()
    assert run.images.count(1) == 1 and run.images.count(2) == 0
    run.images.write(1, 42, image[::-1].copy())  # replaced, as a batch is that is made again
    with pytest.raises(RunError, match="is not the image that was made: its checksum differs"):
        run.images.read(1, 42, mark)


def test_images_that_cannot_be_read_are_named(run: Run) -> None:
    with pytest.raises(RunError, match=r"images/00001/000000000042.png cannot be read: No such file"):
        run.images.read(1, 42)
    write(run.paths.image(1, 42), b"no image")
    with pytest.raises(RunError, match=r"images/00001/000000000042.png is no readable image"):
        run.images.read(1, 42)


# Tables


JOBS = {
    "layout": JOB,
    "no layout": replace(JOB, layout=None),
    "no objects": replace(JOB, asked=(), layout=()),
    "no slots": replace(JOB, slots={}, negative_prompt="", seed=0),
}


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_jobs_are_read_back(job: Job, run: Run) -> None:
    run.tables.write_jobs(0, [job, JOB])
    row, other = run.tables.read_jobs(0)
    assert list(row) == JOB_SCHEMA.names
    row["id"] = row.pop("image_id")
    row["slots"] = dict(row["slots"])
    row["asked"] = tuple(row["asked"])
    row["layout"] = None if row["layout"] is None else tuple(map(tuple, row["layout"]))
    assert Job(**row, split=job.split) == job
    assert other["image_id"] == JOB.id
    fields = set(Job.__dataclass_fields__) - {"id", "split"} | {"image_id"}
    assert set(JOB_SCHEMA.names) == fields
    assert JOB_SCHEMA.field("seed").type == "int64"


def test_the_same_jobs_are_the_same_bytes(run: Run) -> None:
    job = replace(JOB, slots=dict(reversed(JOB.slots.items())))
    first = run.tables.write_jobs(0, [JOB]).read_bytes()
    assert run.tables.write_jobs(1, [job]).read_bytes() == first


def test_a_damaged_table_is_named(run: Run) -> None:
    write(run.paths.table("jobs", 3), b"PAR1 no table PAR1")
    with pytest.raises(RunError, match=r"^jobs/00003.parquet cannot be read: "):
        run.tables.read_jobs(3)
    with pytest.raises(RunError, match=r"^jobs/00004.parquet cannot be read: "):
        run.tables.read_jobs(4)
