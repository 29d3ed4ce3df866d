"""Paths in a run folder and names of runs, made and read."""

from pathlib import Path

import pytest

from synthgen.store.paths import Paths, is_commit, is_record, run_folders, run_name, run_number, shard_of


@pytest.mark.parametrize("number", [1, 9_999, 10_000, 99_999])
def test_a_run_name_gives_its_number_back(number: int) -> None:
    assert run_number(run_name(number)) == number


@pytest.mark.parametrize("name", ["run-1", "run-00001", "run-010000", "run-0001 copy", "run-", "run-١٠٠٠", "0001"])
def test_other_names_are_no_runs(name: str) -> None:
    assert run_number(name) is None


def test_runs_are_sorted_by_number_and_those_without_come_last(tmp_path: Path) -> None:
    for name in ("run-10000", "run-9999", "run-10001", "run-0002", "run-0002 copy", "dataset"):
        (tmp_path / name).mkdir()
    (tmp_path / "run-0003").write_bytes(b"no folder")
    names = ["run-0002", "run-9999", "run-10000", "run-10001", "run-0002 copy"]
    assert [path.name for path in run_folders(tmp_path)] == names


def test_marks_batches_and_rounds_are_read_from_their_names(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    files = {
        paths.mark("plan", 3): 3, paths.mark("measure", 100_000): 100_000, paths.batch_mark(7, 2): 7,
        paths.mark("judge", None): None, paths.mark("export", "coco-2"): None, paths.round(12): None,
    }  # fmt: skip
    for file, shard in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        name = paths.name(file)
        assert is_commit(name) and is_record(name) and paths.is_unmarked(name)
        assert shard_of(name) == shard
    assert {(stage, shard) for stage, shard, _ in paths.marks()} == {
        ("plan", 3), ("measure", 100_000), ("judge", None), ("export", "coco-2"),
    }  # fmt: skip
    assert [(shard, file) for shard, file in paths.batch_marks()] == [(7, paths.batch_mark(7, 2))]
    assert paths.rounds() == [paths.round(12)]
    assert paths.records() == {paths.name(file) for file in files}
    assert is_commit(paths.name(paths.export_list("coco"))) and not is_record(paths.name(paths.export_list("coco")))
    assert not is_commit("commits/judge-1.json") and not paths.is_unmarked("quality.json")
