"""The marks in the images of a run, read by a library that nobody here wrote: Exiv2."""

import io
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pyexiv2
import pytest
from builds import Killed, changed, remove, rewritten, state
from PIL import Image
from runs import images, results

from synthgen import __version__
from synthgen.backends import ImageOptions, backend_module, builtin
from synthgen.errors import RunError
from synthgen.generators import diffusion
from synthgen.pipeline.generate import remake_image
from synthgen.pipeline.provenance import ai_system
from synthgen.pipeline.verification import inspect, withdraw

TYPE, SYSTEM, VERSION, PROMPT = (
    f"Xmp.iptcExt.{name}"
    for name in ("DigitalSourceType", "AISystemUsed", "AISystemVersionUsed", "AIPromptInformation")
)
ENDINGS = {".png", ".jpg", ".webp"}
KEYWORD = b"XML:com.adobe.xmp"
TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"


def xmp(file: Path | bytes) -> dict[str, Any]:
    with pyexiv2.ImageData(file.read_bytes() if isinstance(file, Path) else file) as image:
        return dict(image.read_xmp())


def test_every_image_says_what_made_it(finished) -> None:
    weights = finished.run.facts.read()["models"]["generator"]["weights"]
    prompts = {job.id: job.prompt for shard in finished.run.marks.shards() for job in finished.jobs(shard)}
    paths = sorted(finished.run.root.glob("images/*/*.png"))
    assert len(paths) == len(prompts) == 8
    for path in paths:
        assert xmp(path) == {
            TYPE: f"{TYPES}trainedAlgorithmicMedia",
            SYSTEM: "synthgen mini",
            VERSION: weights,
            PROMPT: prompts[int(path.stem)],
            "Xmp.xmp.CreatorTool": f"synthgen {__version__}",
        }


@pytest.mark.parametrize("images_as", ["link", "copy", "jpeg", "webp"])
def test_every_image_of_every_format_says_the_same(copied, quick, run_through, images_as: str) -> None:
    """But pictures that are labels, such as masks."""
    formats = [n for n in builtin("exporter") if issubclass(backend_module("exporter", n).Config, ImageOptions)]
    assert {"coco", "huggingface", "webdataset", "yolo"} <= {*formats}
    build = run_through({**quick, "exporters": {name: {"images": images_as} for name in formats}}, copied)
    made = {tuple(sorted(xmp(data).items())) for data in images(build.run.root).values()}
    assert len(made) > 4 and all(len(said) == 5 for said in made)
    for name in formats:
        found = [data for data in pictures(build.run.root / name) if not is_label(data)]
        assert len(found) >= 8, name
        assert {tuple(sorted(xmp(data).items())) for data in found} <= made, name


def pictures(folder: Path) -> Iterator[bytes]:
    """All picture files of an export, and those within other files."""
    for path in folder.rglob("*.*"):
        if path.suffix in ENDINGS:
            yield path.read_bytes()
        elif path.suffix == ".parquet":
            yield from (image["bytes"] for image in pq.read_table(path)["image"].to_pylist())
        elif path.suffix == ".tar":
            with tarfile.open(path) as tar:
                members = [m for m in tar if Path(m.name).suffix in ENDINGS]
                yield from (file.read() for m in members if (file := tar.extractfile(m)))


def is_label(data: bytes) -> bool:
    with Image.open(io.BytesIO(data)) as picture:
        return picture.mode != "RGB"


def test_a_photo_in_the_image_and_a_negative_prompt_are_said(quick, run_through, tmp_path, monkeypatch) -> None:
    def kind(self, job):
        return "compositeWithTrainedAlgorithmicMedia" if job.id % 2 else "trainedAlgorithmicMedia"

    monkeypatch.setattr(diffusion.Backend, "digital_source_type", kind)
    build = run_through(changed(quick, {"count": 2, "prompts.negative_prompt": "snow"}), tmp_path)
    found = [xmp(path) for path in sorted(build.run.root.glob("images/*/*.png"))]
    assert [one[TYPE].removeprefix(TYPES) for one in found] == [
        "compositeWithTrainedAlgorithmicMedia",
        "trainedAlgorithmicMedia",
    ]
    assert all(one[PROMPT].endswith("\nNegative prompt: snow") for one in found)


def test_prompts_can_be_left_out(finished, quick, run_through, tmp_path, copied) -> None:
    """This decides files, so a run does not go on with the other value. Labels and pixels are the same."""
    silent = changed(quick, {"provenance.prompt": False})
    build = run_through(silent, tmp_path / "other")
    for path in build.run.root.glob("images/*/*.png"):
        assert PROMPT not in xmp(path) and xmp(path)[TYPE] == f"{TYPES}trainedAlgorithmicMedia"
        np.testing.assert_array_equal(
            *(Image.open(p) for p in (path, *finished.run.root.glob(f"images/*/{path.name}")))
        )
    for raw, out in ((silent, copied), (quick, tmp_path / "other")):
        with pytest.raises(RunError, match=r"provenance: .*put the spec back"):
            run_through(raw, out)


def test_the_default_written_out_changes_nothing(copied, quick, run_through) -> None:
    root = copied / "fruit" / "run-0001"
    before = state(root)
    run_through(changed(quick, {"provenance.prompt": True}), copied)
    assert rewritten(root, before) == set()


def test_a_run_of_an_earlier_version_goes_on(finished, quick, run_through, tmp_path, monkeypatch) -> None:
    """Its shards stay without marks, new ones and those that are made again have them, and labels are the same."""
    spied = diffusion.Backend.generate

    def dies(self, jobs):
        if jobs[0].id == 5:
            raise Killed
        return spied(self, jobs)

    monkeypatch.setattr("synthgen.pipeline.generate.packets", lambda build: lambda job: b"")
    monkeypatch.setattr(diffusion.Backend, "generate", dies)
    with pytest.raises(Killed):
        run_through(quick, tmp_path)
    root = tmp_path / "fruit" / "run-0001"
    old, new = images(root), images(finished.run.root)
    assert len(old) == 4 and not any(KEYWORD in data for data in old.values())
    monkeypatch.undo()
    build = run_through(quick, tmp_path)
    assert images(root) == {**new, **old}
    assert all(KEYWORD in new[name] for name in new.keys() - old.keys())
    before = state(root)
    assert run_through(quick, tmp_path).is_complete() and rewritten(root, before) == set()
    assert not inspect(build).damages
    for image_id in (1, 8):
        np.testing.assert_array_equal(*remake_image(build, image_id))
    remove("images/00000/*.png")(root)
    withdraw(build, inspect(build).damages)
    assert run_through(quick, tmp_path).is_complete()
    assert results(root) == results(finished.run.root)


@pytest.mark.parametrize(
    ("model", "name"),
    [("mini", "synthgen mini"), ("stabilityai/sdxl", "stabilityai/sdxl"), ("/home/jo/models/sdxl/", "sdxl"),
     ("./sdxl", "sdxl"), ("~/sdxl", "sdxl"), ("a/b/c", "c")],
)  # fmt: skip
def test_a_model_has_the_name_that_people_know_and_no_path(finished, model: str, name: str) -> None:
    models = {"generator": {"model": model, "weights": "w"}, "grounder": {"model": "x", "weights": "y"}}
    assert ai_system(SimpleNamespace(spec=finished.spec, models=models)) == (name, "w")
    assert ai_system(SimpleNamespace(spec=finished.spec, models={})) == ("diffusion", "")


def test_contact_sheets_and_remade_images_say_so(finished, tmp_path, synthgen) -> None:
    root = tmp_path / "run-0001"
    shutil.copytree(finished.run.root, root)
    for ending in ("png", "jpg", "webp"):
        assert synthgen("remake", root, 1, "-o", f"one.{ending}")[0] == 0
        assert xmp(tmp_path / f"one.{ending}") == xmp(next(root.glob("images/*/000000000001.png")))
        assert synthgen("show", root, "-o", f"sheet.{ending}")[0] == 0
        assert xmp(tmp_path / f"sheet.{ending}")[TYPE] == f"{TYPES}trainedAlgorithmicMedia"
    assert synthgen("remake", root, 1, "-o", "one.bmp")[0] == 0
