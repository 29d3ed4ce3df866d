"""Images: batches, what is kept of them, and what they may differ in."""

import numpy as np
import pytest
import torch
from builds import Killed, changed
from PIL import Image
from runs import images, results

from synthgen.base.sealed import read_sealed, write_sealed
from synthgen.devices import torch_dtype
from synthgen.errors import RunError
from synthgen.generators import diffusion
from synthgen.generators._diffusion_call import over_white
from synthgen.pipeline.build import Build
from synthgen.pipeline.generate import remake_image
from synthgen.pipeline.label import labelled_samples
from synthgen.store.run import Run

DEFAULT_DTYPE = str(torch_dtype("auto", torch.device("cpu"))).removeprefix("torch.")  # if a spec names none
OTHER_DTYPE = "bfloat16" if DEFAULT_DTYPE == "float32" else "float32"


def test_killed_between_batches(finished, quick, run_through, tmp_path, monkeypatch, generated):
    spied = diffusion.Backend.generate
    calls = 0

    def dies(self, jobs):
        nonlocal calls
        calls += 1
        if calls == 2:
            raise Killed
        return spied(self, jobs)

    monkeypatch.setattr(diffusion.Backend, "generate", dies)
    with pytest.raises(Killed):
        run_through(quick, tmp_path)
    root = tmp_path / "fruit" / "run-0001"
    assert len(images(root)) == 2 == len(generated)
    build = run_through(quick, tmp_path)
    assert generated == list(range(1, 9))  # each once: the finished batch was not made again
    assert results(build.run.root) == results(finished.run.root)
    assert not (root / "commits" / "partial").exists()


def test_a_harmed_batch_of_an_unfinished_shard_is_made_again(finished, quick, run_through, tmp_path, monkeypatch):
    spied, calls = diffusion.Backend.generate, []

    def dies(self, jobs):
        calls.append([job.id for job in jobs])
        if len(calls) == 2:
            raise Killed
        return spied(self, jobs)

    monkeypatch.setattr(diffusion.Backend, "generate", dies)
    with pytest.raises(Killed):
        run_through(quick, tmp_path)
    file = tmp_path / "fruit" / "run-0001" / "images" / "00000" / f"{1:012d}.png"
    data = bytearray(file.read_bytes())
    data[-20] ^= 1  # the same size
    file.chmod(0o644)
    file.write_bytes(data)
    build = run_through(quick, tmp_path)
    assert calls[2] == [1, 2]
    assert results(build.run.root) == results(finished.run.root)


def test_an_unfinished_shard_goes_on_with_batches_of_another_size(quick, run_through, tmp_path, monkeypatch):
    spied, calls = diffusion.Backend.generate, []

    def dies(self, jobs):
        calls.append([job.id for job in jobs])
        if len(calls) == 2:
            raise Killed
        return spied(self, jobs)

    monkeypatch.setattr(diffusion.Backend, "generate", dies)
    with pytest.raises(Killed):
        run_through(quick, tmp_path / "stopped")
    other = changed(quick, {"generator.batch_size": 3})
    build = run_through(other, tmp_path / "stopped")
    assert calls[2:] == [[1, 2, 3], [4], [5, 6, 7], [8]]  # a shard is of one batch size throughout
    assert results(build.run.root) == results(run_through(other, tmp_path / "whole").run.root)


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"generator.batch_size": 3}, "batch_size: 2 -> 3"),
     ({"generator.torch_dtype": OTHER_DTYPE}, f"torch_dtype: '{DEFAULT_DTYPE}' -> '{OTHER_DTYPE}'")],
)  # fmt: skip
def test_mixed_shards_only_if_allowed(copied, quick, run_through, generated, changes, named):
    raw = {**changed(quick, changes), "count": 9}
    with pytest.raises(RunError, match="--allow-mixed") as refused:
        run_through(raw, copied)
    assert named in str(refused.value)
    assert generated == []
    build = run_through(raw, copied, allow_mixed=True)
    assert generated == [9]
    assert build.is_complete()


def test_marks_of_earlier_versions_do_not_name_the_variant(copied, quick, run_through, generated):
    """Such a run goes on; one whose marks name it does not go on with another."""
    raw = {**quick, "count": 9}
    marks = list((copied / "fruit" / "run-0001" / "commits").glob("generate-*.json"))
    for mark in marks:
        content = read_sealed(mark)
        assert content["environment"]["generator"].pop("variant", "") is None
        write_sealed(mark, content)
    assert run_through(raw, copied).is_complete() and generated == [9]
    generated.clear()
    with pytest.raises(RunError, match=r"variant: .*'fp16'.*--allow-mixed"):
        for mark in marks:
            content = read_sealed(mark)
            content["environment"]["generator"]["variant"] = "fp16"
            write_sealed(mark, content)
        run_through({**quick, "count": 10}, copied)
    assert generated == []


def test_remake_gives_the_same_pixels(finished):
    for image_id in (1, 4, 8):
        old, now = remake_image(finished, image_id)
        np.testing.assert_array_equal(old, now)
    with pytest.raises(RunError, match=r"no image of .* has the id 99"):
        remake_image(finished, 99)


def test_a_harmed_image_is_named(copied):
    root = copied / "fruit" / "run-0001"
    file = root / "images" / "00001" / f"{6:012d}.png"
    data = bytearray(file.read_bytes())
    data[-20] ^= 1
    file.chmod(0o644)
    file.write_bytes(data)
    build = Build.open(Run(root))
    with pytest.raises(RunError, match=r"images/00001/000000000006\.png is not the image that was made"):
        remake_image(build, 6)
    with pytest.raises(RunError, match="000000000006"):
        list(labelled_samples(build, 1))


def test_a_transparent_image_is_kept_and_seen_as_over_white(quick, run_through, tmp_path, monkeypatch):
    """A generator that gives an alpha channel: the files keep it, and labels, measures and exports see its colours."""
    spied = diffusion.Backend.generate

    def transparent(self, jobs):
        made = np.asarray(spied(self, jobs))
        alpha = np.full((*made.shape[:3], 1), 255, np.uint8)
        alpha[:, :20] = 0
        return over_white(np.concatenate([made, alpha], -1))

    monkeypatch.setattr(diffusion.Backend, "generate", transparent)
    build = run_through(quick, tmp_path)
    run = build.run
    for shard in run.marks.shards():
        for job in build.jobs(shard):
            with Image.open(run.paths.image(shard, job.id)) as stored:
                assert stored.mode == "RGBA"
                pixels = np.asarray(stored)
            assert not pixels[:20, :, 3].any() and (pixels[20:, :, 3] == 255).all()
            assert (pixels[:20, :, :3] == 255).all()
            np.testing.assert_array_equal(run.images.read(shard, job.id), pixels[..., :3])
    image, again = remake_image(build, 1)
    np.testing.assert_array_equal(image, again)


def test_colours_over_white():
    pixels = np.array([[[[10, 20, 30, 255], [10, 20, 30, 0], [0, 100, 255, 128]]]], np.uint8)
    # 128/255 of the colour and 127/255 of white
    assert over_white(pixels).tolist() == [[[[10, 20, 30, 255], [255, 255, 255, 0], [127, 177, 255, 128]]]]
    opaque = pixels[..., :3]
    assert over_white(opaque) is opaque
