"""A model that fails on some images: what is kept, what is tried again, and what is said."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
import pytest
import torch

from synthgen import devices
from synthgen.errors import BackendError, OutOfRoom, SynthgenError
from synthgen.generators import diffusion
from synthgen.judging.verdicts import NOT_MADE
from synthgen.models import find_model
from synthgen.pipeline.attempts import RETRIES, Attempts
from synthgen.pipeline.generate import remake_image
from synthgen.planning.jobs import retry_seed
from synthgen.types import Job


def jobs(n: int) -> list[Job]:
    return [Job(i + 1, 1, 1, i, "f", "train", "a", "", {}, (), None, seed=100 + i, height=8, width=8) for i in range(n)]


class Model:
    """Images whose first pixel tells the seed; fails for the seeds in `bad`, or for more than `room` at once."""

    def __init__(self, bad: dict[int, Any] | None = None, room: int = 99) -> None:
        self.bad, self.room, self.calls = bad or {}, room, list[int]()

    def __call__(self, batch: Sequence[Job]) -> np.ndarray[Any, Any]:
        self.calls.append(len(batch))
        if len(batch) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        images = np.zeros((len(batch), 8, 8, 3), np.uint8)
        for image, job in zip(images, batch, strict=True):
            what = self.bad.get(job.seed)
            if isinstance(what, Exception):
                raise what
            if what != "blank":
                image[0, 0] = np.frombuffer((job.seed % 2**24).to_bytes(3, "little"), np.uint8)
                image[1, 1] = 255
        return images


def seeds(images: list[Any]) -> list[int]:
    return [int.from_bytes(image[0, 0].tobytes(), "little") for image in images]


def test_nothing_wrong() -> None:
    model = Model()
    attempts = Attempts(model)
    assert seeds(attempts.make(jobs(4))) == [100, 101, 102, 103]
    assert model.calls == [4] and attempts.notes(jobs(4)) == {}


@pytest.mark.parametrize("what", ["blank", ValueError("not this one")])
def test_one_bad_image_is_made_with_its_next_seed_and_the_others_are_kept(what: Any) -> None:
    attempts = Attempts(Model({101: what}))
    again = retry_seed(101, 1)
    assert seeds(attempts.make(jobs(4))) == [100, again % 2**24, 102, 103]
    assert attempts.notes(jobs(4)) == {"again": {"2": 1}}
    assert attempts.notes(jobs(1)) == {}


def test_a_second_seed_may_fail_too() -> None:
    attempts = Attempts(Model({101: "blank", retry_seed(101, 1): ValueError("x")}))
    assert seeds(attempts.make(jobs(2))) == [100, retry_seed(101, 2) % 2**24]
    assert attempts.notes(jobs(2)) == {"again": {"2": 2}}


def test_an_image_that_cannot_be_made_is_black_and_says_why() -> None:
    bad = {
        101: ValueError("bad words"),
        **{retry_seed(101, n): ValueError("bad\nwords") for n in range(1, RETRIES + 1)},
    }
    attempts = Attempts(Model(bad))
    images = attempts.make(jobs(3))
    assert seeds(images) == [100, 0, 102] and images[1].max() == 0 and images[1].shape == (8, 8, 3)
    assert attempts.notes(jobs(3)) == {"failed": {"2": "ValueError: bad words"}}


def test_a_model_that_never_works_is_an_error() -> None:
    broken = Model({100 + i: ValueError("wrong option") for i in range(4)})
    with pytest.raises(BackendError, match="no image of this batch can be made: ValueError: wrong option"):
        Attempts(broken).make(jobs(4))


@pytest.fixture(autouse=True)
def no_other_models() -> None:
    """They would be let go first, and tests before this one may have left some."""
    devices.forget(devices.loaded())


def test_out_of_memory_makes_smaller_batches_from_then_on() -> None:
    model = Model(room=3)
    attempts = Attempts(model)
    for _ in range(2):
        assert seeds(attempts.make(jobs(8))) == list(range(100, 108))
    assert model.calls == [8, 4, 2, 2, 2, 2, 2, 2, 2, 2]
    assert attempts.smaller == 2


def test_out_of_memory_where_smaller_batches_are_not_wanted() -> None:
    with pytest.raises(OutOfRoom, match="not enough memory for 8 images of 8x8 px at once"):
        Attempts(Model(room=3), strict=True).make(jobs(8))


def test_no_memory_for_one_image() -> None:
    with pytest.raises(OutOfRoom, match="not enough memory for 1 image of 8x8 px at once"):
        Attempts(Model(room=0)).make(jobs(4))


@pytest.mark.parametrize(
    ("error", "expected"),
    [(MemoryError(), True), (torch.OutOfMemoryError("x"), True),
     (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), True),
     (RuntimeError("MPS backend out of memory"), True), (RuntimeError("shape mismatch"), False),
     (ValueError("out of memory"), False)],
)  # fmt: skip
def test_what_is_out_of_memory(error: Exception, expected: bool) -> None:
    assert devices.is_out_of_memory(error) == expected


def test_in_a_run(quick: Any, run_through: Any, tmp_path: Any, monkeypatch: Any, finished: Any) -> None:
    """Image 2 is blank once; image 3 cannot be made at all; the others are those of a run without faults, unless they
    were in a batch with one that raised."""
    generate = diffusion.Backend.generate
    plan = {job.id: job.seed for shard in finished.run.marks.shards() for job in finished.jobs(shard)}
    hopeless = {plan[3], *(retry_seed(plan[3], n) for n in range(1, RETRIES + 1))}

    def faulty(self: Any, batch: Sequence[Job]) -> Any:
        if any(job.seed in hopeless for job in batch):
            raise ValueError("not this one")
        images = generate(self, batch)
        for image, job in zip(images, batch, strict=True):
            if job.seed == plan[2]:
                image[:] = 0
        return images

    monkeypatch.setattr(diffusion.Backend, "generate", faulty)
    build = run_through(quick, tmp_path)
    rows = build.run.tables.read(build.run.paths.verdicts).to_pylist()
    images = {row["image_id"]: row for row in rows if row["instance"] is None}
    assert images[3]["reasons"] == [NOT_MADE] and images[2]["verdict"] == "accepted"
    made = {job.id: job.seed for shard in build.run.marks.shards() for job in build.jobs(shard)}
    assert made == {**plan, 2: retry_seed(plan[2], 1)}
    old, new = remake_image(build, 2)
    np.testing.assert_array_equal(old, new)
    for image_id in (1, 5, 6, 7, 8):
        np.testing.assert_array_equal(
            build.run.images.read((image_id - 1) // 4, image_id),
            finished.run.images.read((image_id - 1) // 4, image_id),
        )
    exported = b"".join(f.read_bytes() for f in sorted(build.run.root.glob("coco/annotations/*.json")))
    assert b'"seed":%d' % made[2] in exported and b'"id":3,"file_name"' not in exported
    steps = {s["step"]: s for s in orjson.loads(build.run.paths.quality.read_bytes())["funnel"]}
    assert steps[NOT_MADE]["first"] == 1
    assert build.is_complete()


def test_other_models_go_before_batches_become_smaller() -> None:
    devices.forget(devices.loaded())
    for name in ("sam", "diffusion"):
        devices.resident(name, object)
    model = Model(room=3)

    def generate(batch: Sequence[Job]) -> np.ndarray[Any, Any]:
        model.room = 3 if "sam" in devices.loaded() else 8
        return model(batch)

    attempts = Attempts(generate, strict=True)
    assert seeds(attempts.make(jobs(8))) == list(range(100, 108))
    assert model.calls == [8, 8] and attempts.smaller == 0
    assert list(devices.loaded()) == ["diffusion"]
    devices.forget(["diffusion"])


def test_an_error_for_people_comes_out_as_it_is() -> None:
    def generate(batch: Sequence[Job]) -> np.ndarray[Any, Any]:
        find_model("./taken-away", "diffusion")
        raise AssertionError

    with pytest.raises(SynthgenError, match=r"taken-away' does not exist") as told:
        Attempts(generate).make(jobs(2))
    assert told.value.exit_code == 2


@pytest.mark.parametrize("made", [np.ones((2, 8, 16, 3)), np.ones((2, 8, 8, 2)), np.ones((1, 8, 8, 3)), np.ones(3)])
def test_images_of_another_size_are_refused_where_they_arrive(made: Any) -> None:
    """Some pipelines round sizes, and labels of such images would fit no job."""
    attempts = Attempts(lambda batch: made.astype(np.uint8))
    with pytest.raises(BackendError, match=r"takes uint8 of shape .* \(images, height, width, RGB\)"):
        attempts.make(jobs(2))
    with pytest.raises(BackendError, match="made float64 images"):
        Attempts(lambda batch: np.ones((len(batch), 8, 8, 3))).make(jobs(2))  # type: ignore[arg-type,return-value]
