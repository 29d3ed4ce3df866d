"""Runs merged into one dataset: nothing twice, and nothing that moves when it grows."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pycocotools.coco import COCO

from synthgen.cli.preview import last_run
from synthgen.dataset import growth
from synthgen.dataset.growth import ANNOTATIONS_PER_RUN, Growth, Merge, grow
from synthgen.dataset.history import history, is_finished, runs_of
from synthgen.errors import RunError
from synthgen.pipeline.build import Build
from synthgen.pipeline.export import export_run
from synthgen.pipeline.judge import judge_run
from synthgen.pipeline.stages import Stages
from synthgen.pipeline.verification import inspect
from synthgen.planning.jobs import split_of
from synthgen.planning.rounds import IMAGES_PER_RUN
from synthgen.report.page import write
from synthgen.schedule import at_work, number_of_next
from synthgen.spec import DatasetSpec
from synthgen.store.run import Run

GROW = """
import sys
from pathlib import Path
from synthgen.dataset.growth import grow
from synthgen.pipeline.build import Build
from synthgen.store.run import Run
grow(Build.open(Run(Path(sys.argv[1]))))
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, run_through: Callable[..., Any], finished: Build) -> Path:
    """A dataset's folder with two finished runs of `quick`, not merged. Only for reading."""
    out = tmp_path_factory.mktemp("two")
    for number in (1, 2):
        run_through(finished.run.facts.read_spec(), out, number)
    return out / "fruit"


@pytest.fixture
def folder(two: Path, tmp_path: Path) -> Path:
    """A copy of `two` for a test to change."""
    return Path(shutil.copytree(two, tmp_path / "fruit"))


def opened(folder: Path, number: int) -> Build:
    return Build.open(Run(folder / f"run-{number:04d}"))


def rows(root: Path) -> tuple[dict[int, tuple[str, dict[str, Any]]], dict[int, dict[str, Any]]]:
    """A COCO export -> image id -> (split, image), annotation id -> annotation."""
    images: dict[int, tuple[str, dict[str, Any]]] = {}
    annotations: dict[int, dict[str, Any]] = {}
    for file in sorted((root / "coco" / "annotations").iterdir()):
        split = file.stem.removeprefix("instances_")
        content = orjson.loads(file.read_bytes())
        for image in content["images"]:
            assert image["id"] not in images
            images[image["id"]] = (split, image)
        for annotation in content["annotations"]:
            assert annotation["id"] not in annotations
            annotations[annotation["id"]] = annotation
    return images, annotations


def files(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def judge_anew(build: Build) -> None:
    judge_run(build)
    export_run(build)
    write(build)


def with_hashes(folder: Path, number: int, hashes: dict[int, int]) -> Build:
    """A run with other numbers of `near_duplicate`: image id -> hash."""
    build = opened(folder, number)
    for shard in build.run.marks.shards():
        mark, file = build.run.marks.read("measure", shard), build.run.paths.table("measures", shard)
        table = build.run.tables.read(file)
        column = table.column_names.index("near_duplicate")
        keys = zip(table["image_id"].to_pylist(), table["near_duplicate"].to_pylist(), strict=True)
        values = pa.array([old if old is None else hashes.get(i, old) for i, old in keys], pa.uint64())
        build.run.tables.write(file, table.set_column(column, "near_duplicate", values))
        assert mark
        build.run.marks.commit("measure", shard, mark.inputs, [file], counts=mark.counts)
    build = opened(folder, number)
    judge_anew(build)
    return build


def hashes_of(build: Build) -> dict[int, int]:
    """Image id -> hash, of accepted images."""
    verdicts = build.run.tables.read(build.run.paths.verdicts)
    accepted = verdicts.filter(pc.field("instance").is_null() & (pc.field("verdict") == "accepted"))["image_id"]
    found = {}
    for shard in build.run.marks.shards():
        table = build.run.tables.read(build.run.paths.table("measures", shard))
        pairs = zip(table["image_id"].to_pylist(), table["near_duplicate"].to_pylist(), strict=True)
        found.update({i: h for i, h in pairs if h is not None and i in accepted.to_pylist()})
    return found


def test_it_is_what_its_runs_are(folder: Path) -> None:
    said = grow(opened(folder, 2))
    images, annotations = rows(folder / "dataset")
    alone = {n: rows(folder / f"run-{n:04d}") for n in (1, 2)}
    assert len(alone[1][0]) + len(alone[2][0]) - sum(sum(p.alike.values()) for p in said.runs) == len(images) > 8
    for number, (own_images, own_annotations) in alone.items():
        of_run = {i: found for i, found in images.items() if (i - 1) // IMAGES_PER_RUN == number - 1}
        assert of_run.items() <= own_images.items()
        shift = (number - 1) * ANNOTATIONS_PER_RUN
        left = [a for _, a in sorted(own_annotations.items()) if a["image_id"] in of_run]
        expected = {shift + k: {**a, "id": shift + k} for k, a in enumerate(left, 1)}
        assert expected == {k: a for k, a in annotations.items() if a["image_id"] in of_run}
    for i, (split, image) in images.items():
        link = folder / "dataset" / "coco" / split / image["file_name"]
        (source,) = folder.glob(f"run-*/images/*/{i:012d}.png")
        assert link.samefile(source)
    for split in ("train", "val", "test"):
        COCO(folder / "dataset" / "coco" / "annotations" / f"instances_{split}.json")
    croissant = orjson.loads((folder / "dataset" / "coco" / "croissant.json").read_bytes())
    made = sum(opened(folder, n).quality().made for n in (1, 2))  # type: ignore[union-attr]
    assert croissant["isLiveDataset"] is True and f" {made} images were made" in croissant["rai:dataCollection"]


def test_its_numbers(folder: Path) -> None:
    said = grow(opened(folder, 2))
    images, annotations = rows(folder / "dataset")
    names = dict(enumerate(("apple", "orange", "tree"), 1))
    assert (said.name, said.images, said.instances) == ("fruit", len(images), len(annotations))
    assert said.splits == {n: sum(s == n for s, _ in images.values()) for n in ("train", "val", "test")}
    assert said.classes == {n: sum(a["category_id"] == c for a in annotations.values()) for c, n in names.items()}
    assert [p.run for p in said.runs] == [1, 2]
    assert [p.accepted for p in said.runs] == [opened(folder, n).quality().accepted for n in (1, 2)]  # type: ignore[union-attr]
    assert said.left_out == ()
    assert Growth.read(folder / "dataset" / "dataset.json") == said


def test_a_dataset_of_an_earlier_version_is_not_merged_anew(tmp_path: Path) -> None:
    """The hash is the one that the first version that merged runs has computed."""
    raw = {
        "name": "fruit", "count": 8, "height": 128, "width": 128, "classes": ["apple", "orange", "tree"],
        "prompts": {
            "templates": ["a photo of {objects} on {ground}"], "slots": {"ground": ["grass", "sand", "snow"]},
        },
        "layout": {"size": [0.34, 0.5]}, "grow": True,
    }  # fmt: skip

    def inputs(raw: dict[str, Any]) -> str:
        spec = DatasetSpec.parse(raw)
        build = Build(Run(tmp_path / "fruit" / "run-0001"), spec, Stages.of(spec))
        return Merge(build, (), (), ()).inputs("coco")

    assert inputs(raw) == "3279af7c52fb7bec64c42ad62142b7087a8dd187492c1251a87f94d38c6642bc"
    assert inputs(raw | {"classes": [{"name": "apple", "id": 7}, "orange", "tree"]}) != inputs(raw)


def test_what_was_there_stays_as_it_was_when_runs_are_added(folder: Path) -> None:
    (folder / "run-0002").rename(folder / "later")
    assert [p.run for p in grow(opened(folder, 1)).runs] == [1]
    images, annotations = rows(folder / "dataset")
    assert images == rows(folder / "run-0001")[0]
    (folder / "later").rename(folder / "run-0002")
    grow(opened(folder, 2))
    more_images, more_annotations = rows(folder / "dataset")
    assert images.items() < more_images.items()
    assert annotations.items() < more_annotations.items()


def test_of_images_alike_the_earlier_run_keeps_its_own(folder: Path) -> None:
    first, second = (hashes_of(opened(folder, n)) for n in (1, 2))
    twin, original = min(second), max(first)
    # Far from one another, but for the twin, which differs from its original in 4 bits: as many as may be.
    apart = [int.from_bytes(np.random.default_rng(k).bytes(8)) for k in range(len(first) + len(second))]
    hashes = dict(zip([*sorted(first), *sorted(second)], apart, strict=True))
    hashes[twin] = hashes[original] ^ 0b1111
    with_hashes(folder, 1, hashes)
    said = grow(with_hashes(folder, 2, hashes))
    images, annotations = rows(folder / "dataset")
    assert set(images) == {*first, *second} - {twin}
    assert twin not in {a["image_id"] for a in annotations.values()}
    assert [dict(p.alike) for p in said.runs] == [{"near_duplicate": 0}, {"near_duplicate": 1}]
    assert [p.images for p in said.runs] == [len(first), len(second) - 1]
    assert str(said).endswith("; 1 more were near-duplicates of earlier ones")
    assert not list((folder / "dataset" / "coco").glob(f"*/{twin:012d}.png"))
    hashes[twin] = hashes[original] ^ 0b11111  # one bit more, and it is another picture
    assert grow(with_hashes(folder, 2, hashes)).images == said.images + 1
    assert list((folder / "dataset" / "coco").glob(f"*/{twin:012d}.png"))


@pytest.mark.parametrize(
    "fault",
    [
        "before */dataset/coco/annotations/instances_val.json",
        "after */dataset/coco/annotations/instances_test.json",
        "before */dataset/commits/export-coco.files",
        "before */dataset/commits/export-coco.json",
        "before */dataset/dataset.json",
    ],
)
def test_a_merge_that_is_killed_is_not_taken_for_done(folder: Path, tmp_path: Path, fault: str) -> None:
    undisturbed = Path(shutil.copytree(folder, tmp_path / "undisturbed" / "fruit"))
    grow(opened(undisturbed, 2))
    (folder / "run-0002").rename(folder / "later")
    grow(opened(folder, 1))
    (folder / "later").rename(folder / "run-0002")
    root = folder / "run-0002"
    environment = {**os.environ, "SYNTHGEN_FAULT": fault}
    killed = subprocess.run([sys.executable, "-c", GROW, root], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert Growth.read(folder / "dataset" / "dataset.json") is None
    grow(opened(folder, 2))
    names = ("coco/", "dataset.json")
    assert {n: c for n, c in files(folder / "dataset").items() if n.startswith(names)} == {
        n: c for n, c in files(undisturbed / "dataset").items() if n.startswith(names)
    }
    assert not list((folder / "dataset").rglob(".*.tmp"))


def test_what_is_merged_already_is_left_alone(folder: Path) -> None:
    said = grow(opened(folder, 2))

    def times() -> dict[Path, int]:
        return {p: p.stat().st_mtime_ns for p in (folder / "dataset").rglob("*") if p.name != ".lock" and p.is_file()}

    before = times()
    assert grow(opened(folder, 1)) == grow(opened(folder, 2)) == said
    assert times() == before
    next(iter((folder / "dataset" / "coco" / "train").iterdir())).unlink()
    assert grow(opened(folder, 2)) == said
    assert set(times()) == set(before)


def test_runs_that_are_no_part_of_it_are_named(folder: Path, run_through: Callable[..., Any]) -> None:
    raw = opened(folder, 1).run.facts.read_spec()
    run_through({**raw, "classes": ["apple", "tree", "orange"], "count": 2}, folder.parent, 3)
    (folder / "run-0001" / "commits" / "report.json").unlink()
    (folder / "run-0004").mkdir()
    (folder / "run-0004" / "spec.yaml").write_text("name: [")
    (folder / "run-0005").mkdir()  # nothing was begun there
    said = grow(opened(folder, 2))
    assert [p.run for p in said.runs] == [2]
    first, second, third = said.left_out
    assert (first, second) == ("run 1 is not finished", "run 3 has other classes")
    assert third.startswith("run 4 cannot be read: ")
    assert set(rows(folder / "dataset")[0]) == set(rows(folder / "run-0002")[0])


def test_a_run_that_was_split_otherwise_is_split_as_this_spec_says(folder: Path) -> None:
    first = opened(folder, 1)
    raw = first.run.facts.read_spec() | {"splits": {"train": 0.5, "val": 0.5}}
    with first.run.lock():
        judge_anew(Build.start(first.run, DatasetSpec.parse(raw), Stages.of(DatasetSpec.parse(raw))))
    assert {split for split, _ in rows(folder / "run-0001")[0].values()} <= {"train", "val"}
    grow(opened(folder, 2))
    families = {
        job.id: job.family
        for n in (1, 2)
        for b in [opened(folder, n)]
        for s in b.run.marks.shards()
        for job in b.jobs(s)
    }
    shares = {"train": 0.8, "val": 0.1, "test": 0.1}
    images, _ = rows(folder / "dataset")
    assert {i: split for i, (split, _) in images.items()} == {i: split_of(families[i], shares) for i in images}


def test_numbers_of_another_kind_are_not_compared(folder: Path, run_through: Callable[..., Any]) -> None:
    first = opened(folder, 1)
    raw = first.run.facts.read_spec()
    del raw["filters"]["near_duplicate"]
    run_through(raw, folder.parent, 1)
    said = grow(opened(folder, 2))
    assert [p.run for p in said.runs] == [1, 2]
    assert len(said.left_out) == 1 and said.left_out[0].startswith("run 1 has no numbers of `near_duplicate`")
    assert {*rows(folder / "run-0001")[0]} < {*rows(folder / "dataset")[0]}


def test_images_that_a_run_gives_no_longer_are_taken_out(folder: Path) -> None:
    grow(opened(folder, 2))
    first = opened(folder, 1)
    raw = first.run.facts.read_spec() | {"count": 2}
    with first.run.lock():
        judge_anew(Build.start(first.run, DatasetSpec.parse(raw), Stages.of(DatasetSpec.parse(raw))))
    said = grow(opened(folder, 2))
    assert said.runs[0].accepted == 2
    names = {p.stem for p in (folder / "dataset" / "coco").glob("*/*.png")}
    assert names == {f"{i:012d}" for i in rows(folder / "dataset")[0]}


def test_a_review_that_waits_for_its_judging_takes_nothing_out(folder: Path) -> None:
    said = grow(opened(folder, 2))
    first = opened(folder, 1)
    first.run.paths.reviews.write_bytes(b"no line that can be read\n")
    assert is_finished(opened(folder, 1))
    assert grow(opened(folder, 2)) == said


def test_one_who_merges_is_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Run(folder / "dataset")
    with other.lock():
        monkeypatch.setattr(growth, "WAIT_SECONDS", 0.2)
        with pytest.raises(RunError, match="is at work in"):
            grow(opened(folder, 2))
        assert not (folder / "dataset" / "dataset.json").exists()
    monkeypatch.setattr(growth, "WAIT_SECONDS", 60)
    held, let_go = threading.Event(), list[bool]()

    def hold() -> None:
        with other.lock():
            held.set()
            time.sleep(1.5)
            let_go.append(True)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    assert [p.run for p in grow(opened(folder, 2)).runs] == [1, 2]
    assert let_go == [True]
    thread.join()


def test_the_key_is_no_part_of_any_fingerprint(folder: Path) -> None:
    build = opened(folder, 1)
    raw = build.run.facts.read_spec()
    assert raw["grow"] is False and build.is_complete()
    spec = DatasetSpec.parse(raw | {"grow": True})
    with build.run.lock():
        assert Build.start(build.run, spec, Stages.of(spec)).is_complete()


def test_ids_are_exact_as_floats_to_the_last_run() -> None:
    last = 99_999 * ANNOTATIONS_PER_RUN
    assert int(float(last)) == last < 2**53


def test_runs_are_in_order_of_their_numbers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "recorded_number", None)  # else the second would count as a copy under another name
    (folder / "run-0002").rename(folder / "run-10000")
    (folder / "run-x").mkdir()
    assert [run.number for run in runs_of(folder)] == [1, 10000]


def test_a_copy_of_a_run_is_named_and_left_out(folder: Path) -> None:
    """`cp -r run-0001 run-0003`: its images have the ids of the first run's."""
    shutil.copytree(folder / "run-0001", folder / "run-0003")
    shutil.copytree(folder / "run-0001", folder / "run-1")
    shutil.copytree(folder / "run-0001", folder / "run-0001 copy")
    assert [run.number for run in runs_of(folder)] == [1, 2]
    assert [past.number for past in history(folder)] == [1, 2]
    found = grow(opened(folder, 2))
    assert [part.run for part in found.runs] == [1, 2]
    assert found.left_out[:3] == (
        "run-0003 holds the images of run 1: a copy?",
        "run-0001 copy has no name of a run, such as run-0001",
        "run-1 has no name of a run, such as run-0001",
    )
    copy = opened(folder, 3)
    assert number_of_next(folder, copy.spec) == 4
    with (
        copy.run.lock(),
        pytest.raises(RunError, match="run-0003 holds the images of run 1, so it is a copy; take another"),
    ):
        Build.start(copy.run, copy.spec, copy.stages)


@pytest.mark.parametrize("of_an_earlier_version", [False, True])
def test_a_copy_is_known_by_its_record_though_its_first_jobs_are_damaged(
    folder: Path, of_an_earlier_version: bool
) -> None:
    copy = folder / "run-0003"
    shutil.copytree(folder / "run-0001", copy)
    (copy / "jobs" / "00000.parquet").write_bytes(b"nothing")
    if of_an_earlier_version:  # which did not write the number into run.json: the next shard's jobs know it
        facts = Run(copy).facts.read()
        assert facts.pop("run") == 1
        Run(copy).facts.write(facts)
        assert len(Run(copy).marks.shards()) > 1
    assert Run(copy).is_another
    assert [part.run for part in grow(opened(folder, 2)).runs] == [1, 2]


def test_a_copy_that_says_it_is_another_run_is_left_out(folder: Path) -> None:
    """Each of its images would be there twice, under one id."""
    copy = Run(Path(shutil.copytree(folder / "run-0001", folder / "run-0003")))
    copy.facts.write({**copy.facts.read(), "run": 3})
    found = grow(opened(folder, 2))
    assert [part.run for part in found.runs] == [1, 2]
    assert found.left_out[0] == "run 3 holds the images of run 1: a copy?"
    assert "run.json: says that this is run 3, but its jobs belong to run 1" in map(
        str, inspect(Build.open(copy)).damages
    )


def test_a_copy_is_no_run_that_is_at_work_or_comes_next(folder: Path) -> None:
    shutil.copytree(folder / "run-0001", folder / "run-0009")
    spec = opened(folder, 2).spec
    with Run(folder / "run-0002").lock():
        assert at_work(folder).startswith("run 2 (pid")
    assert number_of_next(folder, spec) == 3
    (folder / "run-0003").mkdir()  # as one that was killed before it wrote its spec
    assert number_of_next(folder, spec) == 3
    with Run(folder / "run-0003").lock():
        assert at_work(folder).startswith("run 3 (pid")


def test_runs_are_taken_by_number_also_from_10000_on(
    quick: Any, run_through: Callable[..., Any], tmp_path: Path
) -> None:
    for number in (9_999, 10_000):
        build = run_through(quick, tmp_path, number)
    folder = build.run.root.parent
    assert [part.run for part in grow(build).runs] == [9_999, 10_000]
    ids = [int(path.stem) for path in sorted((folder / "dataset").glob("coco/*/*.png"))]
    assert {(i - 1) // IMAGES_PER_RUN + 1 for i in ids} == {9_999, 10_000}
    assert [past.number for past in history(folder)] == [9_999, 10_000]
    assert number_of_next(folder, build.spec) == 10_001
    with build.run.lock():
        assert at_work(folder).startswith("run 10000 (pid")


def test_a_dataset_whose_only_folder_is_of_another_run_has_its_first_run_still_to_make(folder: Path) -> None:
    shutil.rmtree(folder / "run-0001")
    (folder / "run-0002").rename(folder / "run-0001")
    assert number_of_next(folder, Build.open(Run(folder / "run-0001")).spec) == 2


def test_the_time_of_a_plan_is_by_the_run_of_the_highest_number(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(folder / "run-0002", folder / "run-0002 copy")
    new = Run(folder / "run-0003")
    assert last_run(new).root.name == "run-0002"
    monkeypatch.setattr(Run, "recorded_number", None)  # else the two would count as copies under other names
    (folder / "run-0001").rename(folder / "run-9999")
    (folder / "run-0002").rename(folder / "run-10000")
    assert last_run(new).root.name == "run-10000"


def test_a_run_that_is_called_otherwise_is_judged_as_before(folder: Path) -> None:
    (folder / "run-0002").rename(folder / "final")
    build = Build.open(Run(folder / "final"))
    assert build.run.number == 2
    with build.run.lock():
        again = Build.start(build.run, build.spec, build.stages)
        assert again.is_complete()
        judge_anew(again)
    with pytest.raises(RunError, match="neither its name nor a plan in it says the number"):
        _ = Run(folder / "nothing").number


FOREIGN = (
    "commits/plan-00000 (1).json", "commits/generate-00000 copy.json", "commits/judge-1.json", "commits/.DS_Store",
    "commits/round-0001 (1).json", "commits/export-coco (1).json", "commits/Thumbs.db", "images/Thumbs.db",
    "images/00000/.DS_Store", "images/0 1/x.png", "jobs/00000 (1).parquet", "labels/desktop.ini", "desktop.ini",
    "commits/partial/generate-00000-0001 (1).json", "commits/partial/generate-x.json",
)  # fmt: skip


def test_names_that_are_none_of_the_store_s_are_passed_over_and_listed(folder: Path) -> None:
    """What a sync tool or a file manager leaves in a run folder."""
    root = folder / "run-0001"
    for name in FOREIGN:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        source = root / (name.replace(" (1)", "").replace(" copy", ""))
        (root / name).write_bytes(source.read_bytes() if source.is_file() else b"x")
    build = opened(folder, 1)
    assert build.is_complete() and is_finished(build)
    with build.run.lock():
        assert Build.start(build.run, build.spec, build.stages).is_complete()
        judge_anew(build)
    seen = inspect(build)
    assert seen.damages == ()
    assert set(FOREIGN) <= set(seen.stray)
    assert [past.state for past in history(folder)] == ["finished", "finished"]
    build.run.marks.withdraw_exports()
    assert build.run.marks.shards() == list(range(len(list((root / "jobs").glob("[0-9]*[0-9].parquet")))))


def test_another_format_of_the_whole_dataset(folder: Path, synthgen: Callable[..., tuple[int, str, str]]) -> None:
    """The spec does not name it, and growing leaves it as it is."""
    grow(Build.open(runs_of(folder)[-1]))
    growth = Growth.read(folder / "dataset" / "dataset.json")
    assert growth is not None
    out = folder.parent / "out"
    for options in (["--out", out], ["--classes", "apple", "--out", folder.parent / "apples"]):
        code, printed, err = synthgen("export", folder / "dataset", "--to", "coco", *options)
        assert (code, err) == (0, "") and printed.startswith("coco: ")
    whole = images_of(out / "coco")
    assert whole == images_of(folder / "dataset" / "coco") and len(whole) == growth.images
    assert results_of(out / "coco") == results_of(folder / "dataset" / "coco")
    code, _, err = synthgen("export", folder / "dataset", "--to", "coco", "--only", "all", "--out", out)
    assert code == 2 and err == "error: --only all takes a run; a grown dataset holds accepted images\n"
    assert synthgen("export", folder / "dataset", "--to", "coco")[0] == 2, "it has one by its spec"


def images_of(export: Path) -> set[str]:
    return {p.relative_to(export).as_posix() for p in export.rglob("*.png")}


def results_of(export: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(export.rglob("*.json"))}
