"""`synthgen export`: of the spec, and formats that the spec does not name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from synthgen.pipeline.build import Build
from synthgen.pipeline.export import content_hash
from synthgen.pipeline.verification import inspect
from synthgen.store.run import Run

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(finished: Build, tmp_path: Path) -> Path:
    """A copy of a finished run, for a test to change."""
    return Path(shutil.copytree(finished.run.root, tmp_path / "fruit" / "run-0001"))


def coco(folder: Path, split: str = "train") -> Any:
    return json.loads((folder / "annotations" / f"instances_{split}.json").read_bytes())


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_export_of_the_spec_has_the_version_of_the_run(run: Path, synthgen: Call) -> None:
    build = Build.open(Run(run))
    assert coco(run / "coco")["info"]["content_hash"] == content_hash(build)
    assert synthgen("export", run) == (0, f"coco: {len(files(run / 'coco'))} files in {run / 'coco'}\n", "")
    assert build.run.marks.read("export", "coco").notes == {"content_hash": content_hash(build)}  # type: ignore[union-attr]


def test_a_format_that_the_spec_does_not_name(run: Path, synthgen: Call, tmp_path: Path) -> None:
    spec, before = (run / "spec.yaml").read_bytes(), files(run / "coco")
    code, out, err = synthgen("export", run, "--to", "coco", "--classes", "apple,tree", "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    written = tmp_path / "out" / "coco"
    assert out == f"coco: {len(files(written))} files in {written}\n"
    loaded = coco(written)
    assert [c["name"] for c in loaded["categories"]] == ["apple", "tree"]
    assert loaded["info"]["subset"] == "only the classes apple, tree"
    assert loaded["info"]["content_hash"] != content_hash(Build.open(Run(run)))
    assert (run / "spec.yaml").read_bytes() == spec and files(run / "coco") == before
    assert synthgen("verify", run)[0] == 0

    first = {name: data for name, data in files(tmp_path / "out").items() if not name.startswith("commits/")}
    options = ["--set", "exporters.coco.images=jpeg", "--set", "exporters.coco.min_area=40"]
    assert synthgen("export", run, "--to", "coco", "--out", tmp_path / "out", *options)[0] == 0
    again = files(written)
    assert not {name for name in again if name.endswith(".png")}, "what the earlier export wrote is gone"
    assert synthgen("export", run, "--to", "coco", "--classes", "apple,tree", "--out", tmp_path / "out")[0] == 0
    found = {name: data for name, data in files(tmp_path / "out").items() if not name.startswith("commits/")}
    assert found == first


def test_rejected_images_too(run: Path, synthgen: Call, tmp_path: Path) -> None:
    assert synthgen("judge", run, "--set", "filters.mask_area.max=0.02")[0] in {0, 3}
    build = Build.open(Run(run))
    quality = build.quality()
    assert quality and quality.rejected
    for only, count in (("accepted", quality.accepted), ("all", quality.made)):
        code, _, err = synthgen("export", run, "--to", "coco", "--only", only, "--out", tmp_path / only)
        assert (code, err) == (0, "")
        splits = [coco(tmp_path / only / "coco", split) for split in build.spec.splits]
        assert sum(len(split["images"]) for split in splits) == count
    labels = sum(len(split["annotations"]) for split in splits)
    assert labels == sum(build.counts("label", shard)["instances"] for shard in build.run.marks.shards())


def test_beside_the_exports_of_the_run_under_another_name(run: Path, synthgen: Call) -> None:
    code, _, err = synthgen("export", run, "--to", "coco")
    assert code == 2 and err == f"error: {run} has an export coco by its spec; give --out DIR, or --set without --to\n"
    shutil.rmtree(run / "coco")
    assert synthgen("export", run)[0] == 0
    assert inspect(Build.open(Run(run))).damages == ()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--to", "cocoa"], "cocoa"),
        (
            ["--to", "coco", "--classes", "aple", "--out", "o"],
            "exporters.coco.classes: got 'aple' (did you mean 'apple'?)",
        ),
        (["--to", "coco", "--set", "count=3", "--out", "o"], "--set count=3: takes exporters.FORMAT.KEY=VALUE"),
        (["--to", "coco", "--set", "exporters.coco.imagez=jpeg", "--out", "o"], "exporters.coco.imagez: unknown key"),
        (["--classes", "apple"], "--classes, --only and --out go with --to FORMAT"),
        (["--only", "none", "--to", "coco"], "'none' is not one of 'accepted', 'all'"),
    ],
)
def test_what_it_takes(arguments: list[str], says: str, finished: Build, synthgen: Call, tmp_path: Path) -> None:
    code, out, err = synthgen("export", finished.run.root, *arguments)
    assert code == 2 and out == ""
    assert says in err and err.startswith("error: ") and err.count("\n") == 1
    assert not (tmp_path / "o").exists()
