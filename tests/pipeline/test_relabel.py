"""The stages after the images, again."""

from pathlib import Path

import pytest

from synthgen.errors import RunError
from synthgen.pipeline.build import Build
from synthgen.pipeline.relabel import relabel
from synthgen.store.run import Run


def test_shards_that_have_something_to_do_are_announced(copied: Path) -> None:
    root, shards = copied / "fruit" / "run-0001", list[int]()
    before = Build.open(Run(root)).quality()
    assert relabel(Build.open(Run(root)), on_shard=shards.append) == before and shards == []
    (root / "commits" / "measure-00001.json").unlink()
    assert relabel(Build.open(Run(root)), on_shard=shards.append) == before and shards == [1]
    (root / "commits" / "label-00000.json").unlink()
    assert relabel(Build.open(Run(root)), on_shard=shards.append) == before and shards == [1, 0]


def test_nothing_is_done_for_a_run_without_all_of_its_images(copied: Path) -> None:
    root = copied / "fruit" / "run-0001"
    for name in ("generate-00001", "label-00000"):
        (root / "commits" / f"{name}.json").unlink()
    with pytest.raises(RunError, match="1 shards have no images yet; run the spec to make them"):
        relabel(Build.open(Run(root)))
    assert not (root / "commits" / "label-00000.json").exists()
