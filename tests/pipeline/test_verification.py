"""Damage to any file of a run is found, and what can be made anew is."""

import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from runs import images, results

from synthgen import cli
from synthgen.base import json_stream
from synthgen.base.file_lists import read_entries
from synthgen.base.files import sha256
from synthgen.base.sealed import read_sealed, write_sealed
from synthgen.bench import synthesis
from synthgen.errors import RunError, SynthgenError
from synthgen.judging.reviews import Review, ReviewLog
from synthgen.pipeline import verification
from synthgen.pipeline.build import Build
from synthgen.pipeline.export import export_run
from synthgen.pipeline.generate import generate_shard
from synthgen.pipeline.judge import judge_run
from synthgen.pipeline.plan import plan_shards
from synthgen.pipeline.stages import Stages
from synthgen.pipeline.verification import inspect, withdraw
from synthgen.report.page import write
from synthgen.spec import DatasetSpec
from synthgen.store import facts, marks
from synthgen.store.run import Run

Tamper = Callable[[Path, Path], None]  # changes a run folder, given another run of the same spec


def flip(path: Path, place: int) -> None:
    """One bit of one byte, in place: a hard link shows it under every name."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.chmod(0o644)
    with open(path, "r+b") as file:
        file.write(data)


def found_in(root: Path) -> set[str]:
    try:
        return {damage.file for damage in inspect(Build.open(Run(root))).damages}
    except SynthgenError as error:  # a spec that cannot be read
        return {"spec.yaml"} if "spec" in str(error) or error.exit_code == 2 else set()


def reviewed(root: Path) -> Path:
    with ReviewLog.open(root / "reviews.jsonl") as log:
        log.add(Review(1, 0, "accept", None, "random", "0" * 16))
    return root


def test_a_finished_run_is_whole(finished: Any) -> None:
    found = inspect(finished)
    assert found.damages == () and found.stray == ()
    assert found.files == sum(p.is_file() for p in finished.run.root.rglob("*")) > 40


@pytest.mark.parametrize("share", [0.0, 0.37, 0.999])
def test_a_flipped_bit_in_any_file_is_found(copied: Path, share: float) -> None:
    root = reviewed(copied / "fruit" / "run-0001")
    for path in sorted(p for p in root.rglob("*") if p.is_file() and p.name != ".lock"):
        place = int(share * path.stat().st_size)
        flip(path, place)
        name = path.relative_to(root).as_posix()
        assert name in found_in(root), name
        flip(path, place)
    assert inspect(Build.open(Run(root))).damages == ()


REMADE = [
    "spec.yaml", "run.json", "jobs/00001.parquet", "images/00000/000000000002.png", "labels/00000.parquet",
    "measures/00001.parquet", "verdicts.parquet", "quality.json", "report.html", "README.md",
    "coco/annotations/instances_train.json", "commits/round-0001.json", "commits/plan-00000.json",
    "commits/generate-00001.json", "commits/label-00000.json", "commits/measure-00000.json", "commits/judge.json",
    "commits/export-coco.json", "commits/report.json",
]  # fmt: skip


@pytest.mark.parametrize("name", REMADE)
def test_what_is_damaged_is_made_anew(copied: Path, finished: Any, quick: Any, run_through: Any, name: str) -> None:
    root = copied / "fruit" / "run-0001"
    flip(root / name, (root / name).stat().st_size // 3)
    if name != "spec.yaml":
        build = Build.open(Run(root))
        damages = inspect(build).damages
        assert name in {d.file for d in damages}
        withdraw(build, damages)
    build = run_through(quick, copied)
    assert inspect(build).damages == () and build.is_complete()
    assert results(root) == results(finished.run.root)
    assert images(root) == images(finished.run.root)


@pytest.mark.parametrize("name", [n for n in REMADE if n not in {"spec.yaml", "run.json", "commits/round-0001.json"}])
def test_what_is_gone_is_made_anew(copied: Path, finished: Any, quick: Any, run_through: Any, name: str) -> None:
    (copied / "fruit" / "run-0001" / name).unlink()
    build = run_through(quick, copied)
    assert inspect(build).damages == ()
    assert results(build.run.root) == results(finished.run.root)


def test_a_damaged_mark_has_the_name_of_its_file(copied: Path) -> None:
    root = copied / "fruit" / "run-0001"
    marks = ["generate-00001.json", "judge.json", "export-coco.json"]
    for name in marks:
        flip(root / "commits" / name, 50)
    assert found_in(root) >= {f"commits/{name}" for name in marks}


def test_every_file_is_read_for_its_checksum_once(finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Path] = []
    for module in (verification, facts, marks):
        monkeypatch.setattr(module, "sha256", lambda path: seen.append(path) or sha256(path))
    assert inspect(finished).damages == ()
    known = {name for _, _, mark in finished.run.marks.read_all() for name, _ in finished.run.marks.files_of(mark)}
    assert sorted(seen) == sorted([finished.run.paths.spec, *(finished.run.root / name for name in known)])


def test_records_that_disagree(copied: Path) -> None:
    """Whole by their checksums, and wrong."""
    import pyarrow as pa

    build = Build.open(Run(copied / "fruit" / "run-0001"))
    run, file = build.run, build.run.paths.table("labels", 0)
    mark, rows = run.marks.read("label", 0), run.tables.read(build.run.paths.table("labels", 0)).to_pylist()
    assert mark is not None and len(rows) > 1
    schema = run.tables.read(file).schema
    for change, what in (
        ({"area": rows[0]["area"] + 1}, "the mask's area differs"),
        ({"bbox_xyxy": [0.0, 0.0, 5.0, 5.0]}, "the mask's box differs"),
        ({"image_id": 999}, "not in the plan"),
        ({"image_id": rows[1]["image_id"], "instance": rows[1]["instance"]}, "a label twice"),
    ):
        run.tables.write(file, pa.Table.from_pylist([{**rows[0], **change}, *rows[1:]], schema))
        run.marks.commit("label", 0, mark.inputs, [file], counts=mark.counts, environment=mark.environment)
        assert any(what in str(d) for d in inspect(build).damages), what


def test_an_export_that_disagrees(copied: Path) -> None:
    build = Build.open(Run(copied / "fruit" / "run-0001"))
    file = next(f for f in sorted(build.run.root.glob("coco/annotations/*.json")) if b'"area"' in f.read_bytes())
    content = orjson.loads(file.read_bytes())
    content["annotations"][0]["category_id"] = content["annotations"][0]["category_id"] % 3 + 1
    file.write_bytes(orjson.dumps(content))
    mark = build.run.marks.read("export", "coco")
    assert mark is not None
    build.run.marks.commit(
        "export",
        "coco",
        mark.inputs,
        [build.run.root / n for n, _ in read_entries(build.run.paths.export_list("coco"))],
    )
    assert "does not have the labels that were kept" in str([*map(str, inspect(build).damages)])


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthesis, "SPEC", synthesis.SPEC | {"shard_size": 50})
    monkeypatch.setattr(json_stream, "CHUNK_BYTES", 1024)  # less than the smallest file of a split

    def peak(images: int) -> int:
        build = synthesis.synthesise(tmp_path / f"{images}", images, side=64)
        judge_run(build)
        export_run(build)
        tracemalloc.start()
        found = inspect(build)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found.damages == () and found.files > 1.5 * images
        return most

    peak(50)  # what is imported and cached once
    assert peak(500) < 1.25 * peak(100)


def test_a_damaged_run_json_does_not_let_another_dataset_in(copied: Path, quick: Any, run_through: Any) -> None:
    root = copied / "fruit" / "run-0001"
    flip(root / "run.json", 40)
    assert read_sealed(root / "run.json") is None
    with pytest.raises(RunError, match=r"run\.json is damaged"):
        run_through({**quick, "seed": 5}, copied)
    assert run_through(quick, copied).is_complete()


def test_a_folder_of_an_earlier_format_is_refused(copied: Path, quick: Any, run_through: Any) -> None:
    """Its marks have no seals, and would be read as nothing done."""
    root = copied / "fruit" / "run-0001"
    for file in [root / "run.json", *root.glob("commits/*.json")]:
        content = orjson.loads(file.read_bytes())
        del content["seal"]
        content.pop("format", None)
        file.write_bytes(orjson.dumps(content))
    before = {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}
    with pytest.raises(RunError, match="run folder of format 1, made by synthgen"):
        run_through(quick, copied)
    assert {p: p.read_bytes() for p in root.rglob("*") if p.is_file()} == before


def test_a_folder_of_a_later_format_is_refused(copied: Path, quick: Any, run_through: Any) -> None:
    from synthgen.base.sealed import write_sealed

    facts = Run(copied / "fruit" / "run-0001").paths.facts
    write_sealed(facts, {**(read_sealed(facts) or {}), "format": 99})
    with pytest.raises(RunError, match="run folder of format 99"):
        run_through(quick, copied)


def test_what_killed_processes_left_is_swept(copied: Path, quick: Any, run_through: Any) -> None:
    root = copied / "fruit" / "run-0001"
    (root / "commits" / "generate-00001.json").unlink()
    (root / "commits" / "export-coco.json").unlink()
    left = [root / f for f in (".run.json.9.tmp", "labels/.00000.parquet.9.tmp", "images/00001/.000000000005.png.9.tmp",
                               "commits/.judge.json.9.tmp", "coco/annotations/.instances_val.json.9.tmp")]  # fmt: skip
    for file in left:
        file.write_bytes(b"half")
    run_through(quick, copied)
    assert not any(file.exists() for file in left)
    assert not list(root.rglob(".*.tmp"))


def synthgen(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "synthgen.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def without(*names: str) -> Tamper:
    def tamper(root: Path, _: Path) -> None:
        for name in names:
            (root / name).unlink()

    return tamper


def flipped(name: str) -> Tamper:
    return lambda root, _: flip(root / name, (root / name).stat().st_size // 2)


def cut(name: str) -> Tamper:
    return lambda root, _: rewrite(root / name, (root / name).read_bytes()[:-1])


def rewrite(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def of_the_other(*names: str) -> Tamper:
    """Files of another run of the same spec, in place of this one's."""

    def tamper(root: Path, other: Path) -> None:
        for name in names:
            for file in sorted(p for p in (other / name, *(other / name).rglob("*")) if p.is_file()):
                rewrite(root / file.relative_to(other), file.read_bytes())

    return tamper


def edited(name: str, old: bytes, new: bytes) -> Tamper:
    def tamper(root: Path, _: Path) -> None:
        data = (root / name).read_bytes()
        assert old in data
        rewrite(root / name, data.replace(old, new, 1))

    return tamper


def sealed(name: str, **changes: Any) -> Tamper:
    """A record changed by one who can seal it again."""

    def tamper(root: Path, _: Path) -> None:
        (content := read_sealed(root / name) or {}).update(changes)
        write_sealed(root / name, content)

    return tamper


def both(*all_of: Tamper) -> Tamper:
    return lambda root, other: [t(root, other) for t in all_of] and None


def exchanged(a: str, b: str) -> Tamper:
    def tamper(root: Path, _: Path) -> None:
        first, second = (root / a).read_bytes(), (root / b).read_bytes()
        rewrite(root / a, second)
        rewrite(root / b, first)

    return tamper


def keeping(lines: slice) -> Tamper:
    """Of the verdicts, some alone."""

    def tamper(root: Path, _: Path) -> None:
        log = root / "reviews.jsonl"
        rewrite(log, b"".join(log.read_bytes().splitlines(keepends=True)[lines]))

    return tamper


IMAGE, ANNOTATIONS = "images/00000/000000000002.png", "coco/annotations/instances_train.json"
# What was done to a run, and what `verify` names.
TAMPERED: dict[str, tuple[Tamper, str]] = {
    "an image is another": (exchanged(IMAGE, "images/00000/000000000003.png"), f"damaged: {IMAGE}: "),
    "an image is gone": (without(IMAGE), f"damaged: {IMAGE}: cannot be read"),
    "an image is cut short": (cut(IMAGE), f"damaged: {IMAGE}: has "),
    "an exported image is gone": (without("coco/train/000000000001.png"), "damaged: coco/train/000000000001.png: "),
    "annotations are edited": (edited(ANNOTATIONS, b'"iscrowd":0', b'"iscrowd":1'), f"damaged: {ANNOTATIONS}: "),
    "annotations are gone": (without(ANNOTATIONS), f"damaged: {ANNOTATIONS}: cannot be read"),
    "annotations are edited and their mark is gone": (
        both(edited(ANNOTATIONS, b'"iscrowd":0', b'"iscrowd":1'), without("commits/export-coco.json")),
        "to be done: export coco",
    ),
    "labels are damaged": (flipped("labels/00000.parquet"), "damaged: labels/00000.parquet: "),
    "labels are gone": (without("labels/00001.parquet"), "damaged: labels/00001.parquet: cannot be read"),
    "measures are damaged": (flipped("measures/00000.parquet"), "damaged: measures/00000.parquet: "),
    "jobs are damaged": (flipped("jobs/00000.parquet"), "damaged: jobs/00000.parquet: "),
    "verdicts are damaged": (flipped("verdicts.parquet"), "damaged: verdicts.parquet: "),
    "numbers are edited": (edited("quality.json", b'"accepted": ', b'"accepted": 1'), "damaged: quality.json: has "),
    "the report is edited": (edited("report.html", b"<h1>", b"<h2>"), "damaged: report.html: its checksum differs"),
    "the card is gone": (without("README.md"), "damaged: README.md: cannot be read"),
    "the spec is edited": (edited("spec.yaml", b"seed: 0", b"seed: 1"), "damaged: spec.yaml: its checksum differs"),
    "run.json is damaged": (flipped("run.json"), "damaged: run.json: its checksum differs"),
    "a round is damaged": (flipped("commits/round-0001.json"), "damaged: commits/round-0001.json: its checksum"),
    "a mark is damaged": (flipped("commits/label-00000.json"), "damaged: commits/label-00000.json: the mark is"),
    "a mark of images is gone": (
        without("commits/generate-00000.json"),
        "to be done: generate: 1 of 2 shards, the",
    ),
    "a mark of labels is gone": (
        without("commits/label-00001.json"),
        "to be done: label: 1 of 2 shards, the",
    ),
    "a mark of measures is gone": (without("commits/measure-00001.json"), "to be done: measure: 1 of 2 shards"),
    "the mark of the judge is gone": (without("commits/judge.json"), "to be done: judge"),
    "the mark of the report is gone": (without("commits/report.json"), "to be done: report"),
    "the list of the export is gone": (without("commits/export-coco.files"), "damaged: commits/export-coco.files: "),
    "a shard is gone": (
        without(*(f"commits/{stage}-00001.json" for stage in ("plan", "generate", "label", "measure"))),
        "to be done: plan: some shards of a round that has begun",
    ),
    "images of another run, with their mark": (
        of_the_other("images/00000", "commits/generate-00000.json"),
        "damaged: commits/generate-00000.json: belongs to another run or to another shard",
    ),
    "a whole shard of another run": (
        of_the_other(
            *(f"commits/{s}-00000.json" for s in ("plan", "generate", "label", "measure")),
            "images/00000",
            "jobs/00000.parquet",
            "labels/00000.parquet",
            "measures/00000.parquet",
        ),
        "to be done: judge again: what it is made from has changed",
    ),
    "labels and measures of another run": (
        of_the_other(
            *(f"commits/{stage}-00000.json" for stage in ("label", "measure")),
            "labels/00000.parquet",
            "measures/00000.parquet",
        ),
        "damaged: labels/00000.parquet: has labels of images that are not in the plan",
    ),
    "the report of another run": (
        of_the_other("report.html", "README.md", "commits/report.json"),
        "to be done: report again: what",
    ),
    "the export of another run": (
        of_the_other("coco", "commits/export-coco.json", "commits/export-coco.files"),
        "to be done: export coco again: what",
    ),
    "a mark made from something else": (
        sealed("commits/generate-00000.json", inputs="0" * 64),
        "belongs to another run",
    ),
    "a verdict is cut off": (cut("reviews.jsonl"), "damaged: reviews.jsonl: its last line is cut short"),
    "the last verdicts are gone": (
        keeping(slice(1)),
        "damaged: reviews.jsonl: the last judging read 3 lines",
    ),
    "a verdict in the middle is gone": (
        keeping(slice(0, None, 2)),
        "damaged: reviews.jsonl: line 2 does not follow the line before it",
    ),
    "a verdict is edited": (
        edited("reviews.jsonl", b'"accept"', b'"reject"'),
        "reviews.jsonl: line 1 is damaged",
    ),
    "all verdicts are gone": (without("reviews.jsonl"), "damaged: reviews.jsonl: the last judging read 3 lines"),
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, run_through: Any, finished: Any) -> Path:
    """A dataset's folder with two runs of one spec, the first of them with three verdicts. Only for reading."""
    out = tmp_path_factory.mktemp("pair")
    build = run_through(finished.run.facts.read_spec(), out, 1)
    run_through(finished.run.facts.read_spec(), out, 2)
    with ReviewLog.open(build.run.paths.reviews) as log:
        for i in (1, 2, 3):
            log.add(Review(i, 0, "accept", None, "random", "0" * 16))
    with build.run.lock():
        judge_run(build)
        export_run(build)
        write(build)
    assert inspect(build) == replace(inspect(build), damages=(), stray=(), missing=())
    return out / "fruit"


@pytest.mark.parametrize("what", TAMPERED)
def test_tampering_is_named(pair: Path, tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(shutil.copytree(pair / "run-0001", tmp_path / "fruit" / "run-0001"))
    tamper, line = TAMPERED[what]
    tamper(root, pair / "run-0002")
    with pytest.MonkeyPatch.context() as patched, pytest.raises(SystemExit) as stop:
        patched.setattr(sys, "argv", ["synthgen", "verify", str(root)])
        cli.main()
    told = capsys.readouterr().err
    assert line in told
    assert stop.value.code == (2 if "damaged: " in told else 3)


def test_a_run_that_is_not_complete_is_not_called_whole(quick: Any, tmp_path: Path) -> None:
    spec = DatasetSpec.parse(quick)
    run = Run.at(tmp_path, spec.name, 1)
    with run.lock():
        build = Build.start(run, spec, Stages.of(spec))
        assert inspect(build).missing[0] == "nothing is planned"
        plan_shards(build)
        generate_shard(build, 0)
    done = synthgen("verify", run.root)
    assert done.returncode == 3 and ", 0 damages, and not complete" in done.stdout
    assert done.stderr.splitlines() == [
        "to be done: generate: 1 of 2 shards, the first of them shard 1",
        "to be done: label: 2 of 2 shards, the first of them shard 0",
        "to be done: measure: 2 of 2 shards, the first of them shard 0",
        "to be done: judge", "to be done: export coco", "to be done: report", "run the spec again to go on",
    ]  # fmt: skip


def test_on_the_command_line(copied: Path) -> None:
    root = copied / "fruit" / "run-0001"
    whole = synthgen("verify", root)
    assert (whole.returncode, whole.stderr) == (0, "") and " files read, 0 damages" in whole.stdout
    state = synthgen("status", root)
    assert state.returncode == 0 and "generate: 2 of 2 shards, 8 images" in state.stdout
    assert "not complete" not in state.stdout
    shutil.copy(root / "report.html", root / "sheet.png")
    flip(root / "labels" / "00000.parquet", 100)
    harmed = synthgen("verify", root)
    assert harmed.returncode == 2
    assert harmed.stderr.startswith("damaged: labels/00000.parquet: its checksum differs\n")
    assert "not part of the run: sheet.png" in harmed.stdout
    state = synthgen("status", root)
    assert "label: 1 of 2 shards, 4 images" in state.stdout and "not complete; go on with" in state.stdout


def test_a_copy_under_another_number_is_named(copied: Path) -> None:
    root = copied / "fruit" / "run-0001"
    done = synthgen("verify", shutil.copytree(root, root.with_name("run-0004")))
    assert done.returncode == 0
    told = (
        f"note: {root.with_name('run-0004')} holds the images of run 1, so it is a copy; runs and merges leave it out\n"
    )
    assert done.stderr == told


def test_status_without_torch(copied: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "synthgen.cli", "status", str(copied / "fruit" / "run-0001")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert done.returncode == 0 and imported & {"torch", "prefect", "diffusers", "transformers"} == set()


def test_status_names_who_is_at_work(copied: Path) -> None:
    run = Run(copied / "fruit" / "run-0001")
    with run.lock():
        assert "; pid " in synthgen("status", run.root).stdout
    assert run.holder() == ""
