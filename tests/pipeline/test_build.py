"""A run folder through everything that can happen to it. No Prefect here."""

import contextlib
import errno
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from runs import images, results

from synthgen import models
from synthgen.devices import torch_dtype
from synthgen.errors import RunError, of_system
from synthgen.generators import diffusion
from synthgen.pipeline.build import Build
from synthgen.pipeline.generate import remake_image
from synthgen.pipeline.judge import judge_shards
from synthgen.pipeline.label import labelled_samples
from synthgen.pipeline.plan import add_round
from synthgen.planning.rounds import IMAGES_PER_RUN
from synthgen.store.marks import Marks
from synthgen.store.rounds import Rounds
from synthgen.store.run import Run

Raw = dict[str, Any]


def state(root: Path) -> dict[str, int]:
    """Name -> when it was last written, of everything below a run folder."""
    return {p.relative_to(root).as_posix(): p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}


def rewritten(root: Path, before: dict[str, int]) -> set[str]:
    """Marks that are new or were written again."""
    now = state(root)
    return {
        Path(n).stem.removeprefix("export-coco") or "export"
        for n, at in now.items()
        if n.startswith("commits/") and before.get(n) != at
    }


def changed(raw: Raw, changes: dict[str, Any]) -> Raw:
    """A spec with `key.path: value` put in."""
    raw = deepcopy(raw)
    for path, value in changes.items():
        *above, key = path.split(".")
        place = raw
        for part in above:
            if place.get(part) is None:
                place[part] = {}
            place = place[part]
        place[key] = value
    return raw


def numbers(build: Build, name: str) -> np.ndarray:
    """What a filter of images measured, in order of id."""
    tables = [pq.read_table(f).to_pandas() for f in sorted(build.run.root.glob("measures/*.parquet"))]
    return np.concatenate([t.loc[t["instance"].isna(), name].to_numpy(np.float32) for t in tables])


class Killed(BaseException):
    """No error that any code would catch."""


@pytest.fixture
def generated(monkeypatch) -> list[int]:
    """Ids of images in the order in which the generator makes them."""
    made: list[int] = []
    generate = diffusion.Backend.generate

    def spy(self, jobs):
        made.extend(job.id for job in jobs)
        return generate(self, jobs)

    monkeypatch.setattr(diffusion.Backend, "generate", spy)
    return made


# The same bytes


def test_two_runs_agree_to_the_last_byte(finished, quick, run_through, tmp_path):
    again = run_through(quick, tmp_path)
    assert results(again.run.root) == results(finished.run.root)
    assert len(images(again.run.root)) == 8


def test_marks_agree_but_for_their_times(finished, quick, run_through, tmp_path):
    def marks(root: Path) -> dict[str, Any]:
        found = {f.name: orjson.loads(f.read_bytes()) for f in root.glob("commits/*.json")}
        for name in ("judge.json", "report.json"):  # of files with times
            timed = found[name]["files"]
            assert timed.pop("quality.json", None) or timed.pop("report.html")
        found["report.json"].pop("inputs")
        for mark in found.values():
            mark.pop("seal")
        return {n: {k: v for k, v in mark.items() if k != "seconds"} for n, mark in found.items()}

    assert marks(run_through(quick, tmp_path).run.root) == marks(finished.run.root)


@pytest.mark.parametrize(("seed", "number"), [(1, 1), (0, 2)])
def test_another_seed_or_run_shares_no_image(finished, quick, run_through, tmp_path, seed, number):
    other = run_through({**quick, "seed": seed}, tmp_path, number)
    assert other.run.root.name == f"run-{number:04d}"
    here, there = images(finished.run.root), images(other.run.root)
    assert not set(here.values()) & set(there.values())
    if number == 2:
        assert sorted(there) == [f"{IMAGES_PER_RUN + i:012d}.png" for i in range(1, 9)]


def test_no_dates_in_an_export(finished, quick, run_through, tmp_path):
    """Bytes agree above although both ran within one day: so dates are sought by their keys and by their year, too."""
    for file in finished.run.root.glob("coco/annotations/*.json"):
        text = file.read_text()
        assert "date" not in text
        assert time.strftime("%Y-") not in text


# Taking up again


def test_a_finished_run_makes_nothing(copied, quick, run_through, generated):
    before = state(copied)
    build = run_through(quick, copied)
    assert build.is_complete()
    assert generated == []
    after = state(copied)
    assert {n for n in after if before.get(n) != after[n]} <= {"fruit/run-0001/.lock"}


def remove(pattern: str) -> Callable[[Path], None]:
    def act(root: Path) -> None:
        found = sorted(root.glob(pattern))
        assert found
        found[0].unlink()

    act.__name__ = f"remove {pattern}"
    return act


def cut(pattern: str) -> Callable[[Path], None]:
    def act(root: Path) -> None:
        found = sorted(root.glob(pattern))[-1]
        data = found.read_bytes()
        found.chmod(0o644)
        found.write_bytes(data[: len(data) // 2])

    act.__name__ = f"cut {pattern}"
    return act


@pytest.mark.parametrize(
    ("harm", "makes"),
    [
        (remove("commits/generate-00001.json"), 4),
        (remove("commits/label-00000.json"), 0),
        (remove("commits/measure-00000.json"), 0),
        (remove("commits/plan-00000.json"), 0),
        (remove("commits/judge.json"), 0),
        (remove("commits/export-coco.json"), 0),
        (remove("images/00000/*.png"), 4),
        (remove("jobs/*"), 0),
        (remove("labels/*"), 0),
        (remove("measures/*"), 0),
        (remove("verdicts.parquet"), 0),
        (remove("quality.json"), 0),
        (remove("coco/annotations/*"), 0),
        (remove("coco/*/*.png"), 0),
        (cut("jobs/*"), 0),
        (cut("labels/*"), 0),
        (cut("measures/*"), 0),
        (cut("verdicts.parquet"), 0),
        (cut("images/*/*.png"), 4),
        (cut("commits/generate-*.json"), 4),
        (cut("coco/annotations/*"), 0),
    ],
)
def test_harm_is_mended(copied, finished, quick, run_through, generated, harm, makes):
    root = copied / "fruit" / "run-0001"
    harm(root)
    run_through(quick, copied)
    assert len(generated) == makes
    assert results(root) == results(finished.run.root)


@pytest.mark.parametrize("pattern", ["jobs/*", "labels/*", "measures/*", "verdicts.parquet", "coco/*/*", "report.html"])
def test_a_run_without_the_results_of_a_stage_is_not_complete(copied, pattern):
    root = copied / "fruit" / "run-0001"
    assert Build.open(Run(root)).is_complete()
    remove(pattern)(root)
    assert not Build.open(Run(root)).is_complete()


def test_harm_to_the_rounds_is_mended(copied, finished, quick, run_through, generated):
    """Recorded rounds are facts of the past; the first is what the spec says, and comes back the same."""
    root = copied / "fruit" / "run-0001"
    remove("commits/round-*.json")(root)
    run_through(quick, copied)
    assert generated == []
    assert results(root) == results(finished.run.root)


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


def test_the_generators_batches_are_not_those_of_the_labels(copied, finished, quick, run_through):
    """Else labels would depend on an option that no mark of theirs names."""
    (copied / "fruit" / "run-0001" / "commits" / "label-00000.json").unlink()
    build = run_through(changed(quick, {"generator.batch_size": 1}), copied)
    assert results(build.run.root) == results(finished.run.root)


@pytest.mark.parametrize("stage", ["label", "measure", "judge", "export"])
def test_killed_before_a_mark(finished, quick, run_through, tmp_path, monkeypatch, stage, generated):
    commit = Marks.commit

    def dies(self, name, *arguments, **options):
        if name == stage:
            raise Killed
        return commit(self, name, *arguments, **options)

    monkeypatch.setattr(Marks, "commit", dies)
    with pytest.raises(Killed):
        run_through(quick, tmp_path)
    monkeypatch.setattr(Marks, "commit", commit)
    build = run_through(quick, tmp_path)
    assert generated == list(range(1, 9))
    assert results(build.run.root) == results(finished.run.root)


WORKER = """
import sys, yaml
from pathlib import Path
from synthgen.pipeline.build import Build
from synthgen.pipeline.export import export_run
from synthgen.pipeline.generate import generate_shard
from synthgen.pipeline.judge import judge_run
from synthgen.pipeline.label import label_shard
from synthgen.pipeline.measure import measure_shard
from synthgen.pipeline.plan import add_round, plan_shards
from synthgen.report.page import write
from synthgen.spec import DatasetSpec
from synthgen.pipeline.check import check
from synthgen.store.run import Run

spec, out = DatasetSpec.parse(yaml.safe_load(Path(sys.argv[1]).read_text())), Path(sys.argv[2])
folder = Run.at(out, spec.name, 1)
with folder.lock():
    build = Build.start(folder, spec, check(spec, out))
    plan_shards(build)
    print("planned", flush=True)
    for shard in build.pending():
        generate_shard(build, shard), label_shard(build, shard), measure_shard(build, shard)
    judge_run(build)
    add_round(build)
    export_run(build)
    write(build)
"""


@pytest.mark.slow
def test_killed_for_real(finished, quick, tmp_path):
    """Three times, each somewhere in what was left to do; then to the end."""
    spec, out, random_ = tmp_path / "spec.yaml", tmp_path / "out", random.Random(0)
    spec.write_text(yaml.safe_dump(quick, sort_keys=False))
    root, killed = out / "fruit" / "run-0001", 0
    for kill in (True, True, True, False):
        done = len(images(root))
        with subprocess.Popen([sys.executable, "-c", WORKER, spec, out], stdout=subprocess.PIPE) as process:
            if kill:
                until = time.monotonic() + 120
                while process.poll() is None and len(images(root)) < min(8, done + 2) and time.monotonic() < until:
                    time.sleep(0.005)
                time.sleep(random_.uniform(0, 0.3))
                process.send_signal(signal.SIGKILL)
            killed += process.wait() == -signal.SIGKILL
    assert process.returncode == 0
    assert killed == 3
    assert results(root) == results(finished.run.root)
    assert not list(root.glob("commits/partial/*"))


def test_half_written_files_of_a_killed_process_are_no_part_of_anything(copied, finished, quick, run_through):
    root = copied / "fruit" / "run-0001"
    (root / "images" / "00000" / ".000000000001.png.999.tmp").write_bytes(b"half")
    remove("commits/generate-00000.json")(root)
    build = run_through(quick, copied)
    assert build.run.images.count(0) == 4
    assert images(root) == images(finished.run.root)


def test_two_processes_do_not_share_a_folder(copied, quick, run_through):
    with Run.at(copied, "fruit", 1).lock(), pytest.raises(RunError, match="is at work in"):
        run_through(quick, copied)


# What depends on what: a row a test

JUDGED = {"judge", "export", "report"}
MEASURED = {"measure-00000", "measure-00001"}
LABELLED = {"label-00000", "label-00001"}


@pytest.fixture(scope="session")
def perturbed_sam(tmp_path_factory) -> str:
    """The embedded SAM with slightly other weights."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("models") / "sam"
    shutil.copytree(models.MINI / "sam", folder)
    file = folder / models.read_card(folder).weights
    state = load_file(file)
    save_file({n: t * 1.01 if n.startswith("mask_decoder") else t for n, t in state.items()}, file)
    return str(folder)


@pytest.fixture
def acme(tmp_path, monkeypatch) -> str:
    """A user's own grounder, by its dotted name: the layout's boxes made smaller by `shrink` px."""
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme" / "grounder.py").write_text(
        "import numpy as np\n"
        "from synthgen.backends import Config as Base, Grounder\n"
        "from synthgen.types import Grounding\n"
        "class Config(Base):\n"
        "    shrink: int = 1\n"
        "class Backend(Grounder[Config]):\n"
        "    def ground(self, jobs, images):\n"
        "        inwards = np.float32([1, 1, -1, -1]) * self.config.shrink\n"
        "        boxes = [np.array(job.layout, np.float32).reshape(-1, 4) + inwards for job in jobs]\n"
        "        return [Grounding(b, np.array(j.asked, np.int64)) for b, j in zip(boxes, jobs)]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "acme.grounder"
    for name in ("acme.grounder", "acme"):
        sys.modules.pop(name, None)


@pytest.fixture
def median(finished) -> float:
    """A least sharpness that half of the images of the finished run have."""
    return float(np.median(numbers(finished, "sharpness")))


def embedded(kind: str) -> str:
    return str(models.MINI / kind)


ORANGE = {"name": "orange", "synonyms": ["tangerine"]}


@pytest.mark.parametrize(
    ("changes", "marks"),
    [
        ({"filters.sharpness.min": "median"}, JUDGED),
        ({"filters.predicted_iou": {"min": 2, "on_fail": "ignore"}}, JUDGED),
        ({"splits": {"train": 0.5, "val": 0.5}}, JUDGED),
        ({"splits": {"test": 0.1, "val": 0.1, "train": 0.8}}, JUDGED),  # their order says who is in which
        ({"filters.sharper": {"use": "sharpness"}}, MEASURED | JUDGED),
        ({"exporters.coco": {"segmentation": "polygon"}}, {"export"}),
        ({"exporters.coco": {"images": "copy"}}, {"export"}),
        ({"description": "Other words."}, {"export", "report"}),
        ({"classes": ["apple", ORANGE, "tree"]}, LABELLED),  # the labels are the same, so nothing follows
        ({"segmenter": {"model": "perturbed_sam"}}, LABELLED | MEASURED | JUDGED),
        ({"grounder": {"use": "acme"}}, LABELLED | MEASURED | JUDGED),
        ({"generator.model": embedded("diffusion")}, set()),  # the same weights are the same model
        ({"segmenter": {"model": embedded("sam")}}, set()),
        ({"generator.device": "cpu", "segmenter": {"device": "cpu"}}, set()),
        ({"generator.batch_size": 3, "segmenter": {"batch_size": 3}}, set()),  # nothing is left to make
        ({"generator.torch_dtype": "bfloat16", "segmenter": {"torch_dtype": "bfloat16"}}, set()),
        ({"budget": 1.1}, set()),
        ({"min_instances_per_class": 5}, {"judge", "report"}),  # the verdicts are the same
        ({"classes": ["apple", {"name": "orange", "min_instances": 2}, "tree"]}, {"judge", "report"}),
        ({"classes": ["apple", {"name": "orange", "min_instances": 0}, "tree"]}, set()),
    ],
    ids=lambda part: str(sorted(part) if isinstance(part, set) else part),  # a set's own order differs between workers
)
def test_what_runs_again(copied, quick, run_through, generated, changes, marks, request):
    def given(value: Any) -> Any:
        """Names of fixtures are put in their values."""
        if isinstance(value, dict):
            return {k: given(v) for k, v in value.items()}
        return request.getfixturevalue(value) if value in ("median", "perturbed_sam", "acme") else value

    root = copied / "fruit" / "run-0001"
    before = state(root)
    values = {key: given(value) for key, value in changes.items()}
    build = run_through(changed(quick, values), copied)
    assert build.is_complete()
    assert generated == []
    after = state(root)
    assert {n for n in before if n.startswith("images/") and after.get(n) != before[n]} == set()
    assert rewritten(root, before) == marks


def test_more_images_are_new_shards(copied, quick, run_through, generated):
    root = copied / "fruit" / "run-0001"
    before = state(root)
    build = run_through({**quick, "count": 11}, copied)
    assert generated == [9, 10, 11]
    after = state(root)
    assert {n for n in before if after.get(n) != before[n] and n.startswith(("images/", "jobs/", "labels/"))} == set()
    assert {n for n in rewritten(root, before) if n.endswith(("-00000", "-00001"))} == set()
    quality = build.quality()
    assert quality is not None and (quality.made, quality.wanted) == (11, 11)
    assert [r["start"] for r in build.run.rounds.read()] == [0, 8]


def test_fewer_images_are_a_smaller_export(copied, quick, run_through, generated):
    root = copied / "fruit" / "run-0001"
    build = run_through({**quick, "count": 3}, copied)
    quality = build.quality()
    assert quality is not None and quality.accepted == 3 and quality.made == 8
    assert len(list(root.glob("coco/*/*.png"))) == 3
    assert generated == []
    assert len(images(root)) == 8


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 5}, "seed: 0 -> 5"),
        ({"generator.num_inference_steps": 5}, "generator.num_inference_steps: 4 -> 5"),
        ({"generator.guidance_scale": 2}, "generator.guidance_scale: 3.0 -> 2.0"),
        ({"generator.scheduler": "DDIMScheduler"}, "generator.scheduler: None -> 'DDIMScheduler'"),
        ({"prompts.templates": ["{objects} on {ground}"]}, "prompts.templates"),
        ({"prompts.negative_prompt": "snow"}, "prompts.negative_prompt: '' -> 'snow'"),
        ({"classes": ["apple", "orange"]}, "class_order"),
        ({"classes": ["orange", "apple", "tree"]}, "class_order"),
        ({"objects_per_image": {1: 1}}, "objects_per_image"),
        ({"layout.margin": 0.03}, "layout.margin: 0.02 -> 0.03"),
        ({"shard_size": 5}, "shard_size: 4 -> 5"),
    ],
    ids=str,
)
def test_another_dataset_is_refused(copied, quick, run_through, changes, named):
    before = state(copied)
    with pytest.raises(RunError, match="holds images made otherwise") as refused:
        run_through(changed(quick, changes), copied)
    assert named in str(refused.value)
    after = state(copied)
    assert {n for n in after if before.get(n) != after[n]} <= {"fruit/run-0001/.lock"}


def test_other_weights_are_another_dataset(copied, quick, run_through, tmp_path):
    folder = shutil.copytree(models.MINI / "diffusion", tmp_path / "model")
    scheduler = folder / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps({**json.loads(scheduler.read_text()), "steps_offset": 1}))
    with pytest.raises(RunError, match=r"generator\.weights"):
        run_through(changed(quick, {"generator.model": str(folder)}), copied)


OWN = str(torch_dtype("auto", torch.device("cpu"))).removeprefix("torch.")  # what a spec gets that names none
OTHER = "bfloat16" if OWN == "float32" else "float32"


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"generator.batch_size": 3}, "batch_size: 2 -> 3"),
     ({"generator.torch_dtype": OTHER}, f"torch_dtype: '{OWN}' -> '{OTHER}'")],
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


def test_mixed_labels_only_if_allowed(copied, quick, run_through):
    raw = {**quick, "segmenter": {"batch_size": 1}}
    root = copied / "fruit" / "run-0001"
    run_through(raw, copied)
    remove("commits/label-00001.json")(root)
    with pytest.raises(RunError, match=r"batch_size: 8 -> 1.*--allow-mixed"):
        run_through(raw, copied)
    assert run_through(raw, copied, allow_mixed=True).is_complete()


# Making up what was thrown away


def test_a_deficit_is_made_up(copied, quick, run_through, generated, median):
    root = copied / "fruit" / "run-0001"
    before = images(root)
    build = run_through(changed(quick, {"filters.sharpness.min": median, "budget": 6}), copied)
    quality = build.quality()
    assert quality is not None
    assert generated == list(range(9, quality.made + 1))
    assert quality.accepted == 8 or quality.made == 48
    assert quality.rejected >= 3
    assert before.items() <= images(root).items()
    assert len(list(root.glob("coco/*/*.png"))) == quality.accepted
    assert build.is_complete()


def test_the_same_dataset_however_often_it_was_stopped(quick, run_through, tmp_path, monkeypatch, median):
    """With rounds: killed at every third call of the generator."""
    raw = changed(quick, {"filters.sharpness.min": median, "budget": 3})
    whole = run_through(raw, tmp_path / "whole")
    generate, calls = diffusion.Backend.generate, 0

    def dies(self, jobs):
        nonlocal calls
        calls += 1
        if calls % 3 == 0:
            raise Killed
        return generate(self, jobs)

    monkeypatch.setattr(diffusion.Backend, "generate", dies)
    kills = 0
    while True:
        try:
            build = run_through(raw, tmp_path / "stopped")
            break
        except Killed:
            kills += 1
    assert kills >= 2
    assert results(build.run.root) == results(whole.run.root)
    assert len(build.run.rounds.read()) > 1


@pytest.mark.parametrize("fault", ["cannot be read", "is another"])
@pytest.mark.parametrize("number", [1, 2])
def test_a_round_that_does_not_read_back_ends_the_run(parts, run_through, tmp_path, monkeypatch, number, fault):
    """And does not let it plan the same round for ever."""
    read, write, written = Path.read_bytes, Rounds.write, []

    def broken(path):
        if path.name != f"round-{number:04d}.json":
            return read(path)
        if fault == "is another":
            return b"what was here before"
        raise OSError(errno.EIO, "Input/output error")

    def counted(self, *arguments):
        written.append(arguments)
        assert len(written) < 5
        write(self, *arguments)

    with monkeypatch.context() as patch, pytest.raises((OSError, RunError)) as stop:
        patch.setattr(Path, "read_bytes", broken)
        patch.setattr(Rounds, "write", counted)
        run_through(changed(parts, {"segmenter.apples": 0}), tmp_path)
    file = tmp_path / "parts" / "run-0001" / "commits" / f"round-{number:04d}.json"
    told = of_system(stop.value) if isinstance(stop.value, OSError) else stop.value
    assert told.exit_code == 2
    assert str(told).startswith({"is another": f"{file} does not read back"}.get(fault, f"{file}: input/output error"))
    build = run_through(changed(parts, {"segmenter.apples": 0}), tmp_path)
    assert build.is_complete() and len(build.run.rounds.read()) > 1


def test_budget_spent(quick, run_through, tmp_path):
    build = run_through(changed(quick, {"filters.sharpness.min": 1e9, "budget": 1.5}), tmp_path)
    quality = build.quality()
    assert quality is not None
    assert (quality.accepted, quality.missing, quality.made, quality.rejected) == (0, 8, 12, 12)
    assert quality.reasons["sharpness"].images == quality.reasons["sharpness"].alone == 12
    assert "would let" in quality.reasons["sharpness"].advice
    assert build.is_complete()
    assert not add_round(build)
    for split in build.spec.splits:
        coco = load(build.run.root, split)
        assert coco.imgs == coco.anns == {}
        assert sorted(coco.cats) == [1, 2, 3]


def test_what_advice_says_comes_true(copied, quick, run_through):
    raw = changed(quick, {"filters.sharpness.min": 1e9})
    first = run_through(raw, copied).quality()
    assert first is not None
    words, _, rest = first.reasons["sharpness"].advice.partition(" would let ")
    then = run_through(changed(raw, {"filters.sharpness.min": float(words.removeprefix("min: "))}), copied).quality()
    assert then is not None
    duplicates = then.reasons["near_duplicate"].images if "near_duplicate" in then.reasons else 0
    assert then.accepted + then.surplus + duplicates == int(rest.split()[0])


# Quotas, with parts that are known to the last pixel


@pytest.fixture
def parts(tmp_path, monkeypatch) -> Raw:
    """A spec whose images are noise, the red of their first pixel being their seed's last 8 bits. Masks are the
    layout's boxes; an apple's has a predicted IoU of 0.9 where that red is below `apples`, else of 0.1, and a tree's
    always one of 0.9. Half the objects are apples."""
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "noise.py").write_text(
        "import numpy as np\n"
        "from synthgen.backends import Config, Generator\n"
        "class Backend(Generator[Config]):\n"
        "    def generate(self, jobs):\n"
        "        images = [np.random.default_rng(j.seed).integers(0, 256, (j.height, j.width, 3)) for j in jobs]\n"
        "        images = np.array(images, np.uint8)\n"
        "        images[:, 0, 0, 0] = [j.seed % 256 for j in jobs]\n"
        "        return images\n"
    )
    (tmp_path / "parts" / "boxes.py").write_text(
        "import numpy as np\n"
        "from synthgen.backends import Config as Base, Segmenter\n"
        "from synthgen.types import Instances\n"
        "class Config(Base):\n"
        "    apples: int = 256\n"
        "class Backend(Segmenter[Config]):\n"
        "    def segment(self, images, groundings):\n"
        "        return [self.one(i, g) for i, g in zip(images, groundings)]\n"
        "    def one(self, image, g):\n"
        "        masks = np.zeros((len(g), *image.shape[:2]), bool)\n"
        "        for mask, (x0, y0, x1, y1) in zip(masks, g.boxes.astype(int)):\n"
        "            mask[y0:y1, x0:x1] = True\n"
        "        good = (g.category_id != 1) | (image[0, 0, 0] < self.config.apples)\n"
        "        iou = np.where(good, 0.9, 0.1).astype(np.float32)\n"
        "        return Instances(masks, g.boxes, g.category_id, {'predicted_iou': iou})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield {
        "name": "parts",
        "count": 8,
        "budget": 3,
        "height": 64,
        "width": 64,
        "shard_size": 4,
        "classes": ["apple", "tree"],
        "objects_per_image": 1,
        "prompts": {"templates": ["{objects}"]},
        "layout": {},
        "generator": {"use": "parts.noise"},
        "segmenter": {"use": "parts.boxes"},
        "filters": {"predicted_iou": {"min": 0.5}},
    }
    for name in ("parts.noise", "parts.boxes", "parts"):
        sys.modules.pop(name, None)


def with_quota(raw: Raw, apples: int, **changes: Any) -> Raw:
    return {**raw, "classes": [{"name": "apple", "min_instances": apples}, "tree"], **changes}


def cli_of(monkeypatch, capsys, *arguments: Any) -> tuple[int, str, list[str]]:
    """The command line in this process -> exit code, output, lines of errors but for those of modules imported."""
    from synthgen import cli

    monkeypatch.setattr(sys, "argv", ["synthgen", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if ": imported your module from " not in line]
    return int(stop.value.code or 0), out, lines


def test_rounds_meet_a_quota(parts, run_through, tmp_path, monkeypatch, capsys):
    """Every third apple or so passes. What is accepted is worked out anew, by hand."""
    raw = with_quota(parts, 9, budget=9, segmenter={"use": "parts.boxes", "apples": 90})
    build = run_through(raw, tmp_path)
    jobs = [job for shard in build.run.marks.shards() for job in build.jobs(shard)]
    accepted, surplus, apples = [], [], 0
    for job in jobs:
        apple = job.asked == (1,)
        if apple and job.seed % 256 >= 90:
            continue
        take = len(accepted) < 8 or (apple and apples < 9)
        (accepted if take else surplus).append(job.id)
        apples += take and apple
    rows = pq.read_table(build.run.paths.verdicts).to_pandas()
    rows = rows[rows["instance"].isna()]
    assert rows.loc[rows["verdict"] == "accepted", "image_id"].tolist() == accepted
    assert rows.loc[rows["verdict"] == "surplus", "image_id"].tolist() == surplus
    assert {p.name for p in build.run.root.glob("coco/*/*.png")} == {f"{i:012d}.png" for i in accepted}
    quality = build.quality()
    assert quality.classes["apple"].accepted == apples == 9
    assert len(accepted) > 8 and quality.made == len(jobs) < 72 and not quality.is_short
    rounds = build.run.rounds.read()
    assert len(rounds) >= 2 and rounds[0]["classes"] == {1: 1.0, 2: 1.0}
    for round in rounds[1:]:  # trees had their share in the first
        assert round["classes"][1] > 0 and round["classes"][2] == 0
    assert {job.asked for job in jobs if job.round > 1} == {(1,)}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(raw))
    code, out, err = cli_of(monkeypatch, capsys, "run", tmp_path / "spec.yaml", "--out", tmp_path, "--quiet")
    assert (code, err) == (0, [])
    assert out.startswith(f"nothing to do: 8 of 8 images accepted, and {len(accepted) - 8} more for quotas, with ")


@pytest.mark.parametrize("on_fail", ["reject", "drop"])
def test_a_quota_that_cannot_be_met(parts, run_through, tmp_path, monkeypatch, capsys, on_fail):
    """No apple passes: the first round asks for 4 of 8, every other one for nothing else, until 24 images are made."""
    filters = {"predicted_iou": {"min": 0.5, "on_fail": on_fail}}
    raw = with_quota(parts, 3, segmenter={"use": "parts.boxes", "apples": 0}, filters=filters)
    build = run_through(raw, tmp_path)
    assert [r["count"] for r in build.run.rounds.read()] == [
        8,
        16,
    ]  # at the least yield there is, 35 are to be asked for
    exported = 4 if on_fail == "reject" else 8  # without its apple, an image that was dropped from is a background
    assert sum(len(load(build.run.root, split).imgs) for split in build.spec.splits) == exported
    stored = orjson.loads(build.run.paths.quality.read_bytes())
    assert stored["made"] == 24 and stored["accepted"] == exported
    assert stored["classes"]["apple"] == {
        "asked": 20, "accepted": 0, "quota": 3, "lost": 20, "reasons": {"predicted_iou": 20}
    }  # fmt: skip
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(raw))
    code, out, err = cli_of(monkeypatch, capsys, "run", tmp_path / "spec.yaml", "--out", tmp_path)
    assert code == 3
    assert f"nothing to do: {exported} of 8 images accepted" in out and "quota" in out
    what = "4 images are missing" if on_fail == "reject" else "1 of 2 classes are short"
    assert err[0] == f"short: {what}, and the budget is spent (24 images made)"
    assert err[1] == "short: apple: 0 of 3 instances; of 20 asked, 20 were lost: predicted_iou 20"
    assert err[-1].startswith("short: raise `budget`, relax a filter")
    arguments = ["judge", build.run.root, "--quiet", "--set", "filters.predicted_iou.min=0.05"]
    code, out, err = cli_of(monkeypatch, capsys, *arguments)
    assert (code, err) == (0, [])  # the images that exist will do


def test_quotas_of_a_folder_may_change(parts, run_through, tmp_path, monkeypatch, capsys):
    plain = run_through(parts, tmp_path)
    root = plain.run.root
    before, pictures, verdicts = state(root), images(root), (root / "verdicts.parquet").read_bytes()
    assert len(pictures) == 8
    code, _, err = cli_of(monkeypatch, capsys, "judge", root, "--quiet", "--set", "min_instances_per_class=7")
    assert (code, err[0]) == (3, "short: 2 of 2 classes are short, and running the spec would add a round")
    assert images(root) == pictures
    build = run_through({**parts, "min_instances_per_class": 7}, tmp_path)
    quality = build.quality()
    assert quality is not None and {n: c.accepted for n, c in quality.classes.items()} == {"apple": 7, "tree": 7}
    assert (quality.accepted, quality.wanted, quality.made) == (14, 8, 8 + quality.surplus + 6)
    assert pictures.items() < images(root).items()
    first = ("images/00000", "images/00001", "jobs/00000", "jobs/00001", "labels/00000", "labels/00001")
    assert {n for n in before if n.startswith(first) and state(root).get(n) != before[n]} == set()
    made = images(root)
    again = run_through(parts, tmp_path)  # without quotas, it is as it was; what is made stays
    assert images(root) == made
    rows = pq.read_table(again.run.paths.verdicts).to_pandas()
    rows = rows[rows["instance"].isna() & (rows["verdict"] == "accepted")]
    assert rows["image_id"].tolist() == list(range(1, 9))
    assert {p.name for p in root.glob("coco/*/*.png")} == set(pictures)
    assert verdicts != (root / "verdicts.parquet").read_bytes()  # surplus images stand in it


def test_the_same_quotas_however_often_it_was_stopped(parts, run_through, tmp_path, monkeypatch):
    raw = with_quota(parts, 9, budget=9, segmenter={"use": "parts.boxes", "apples": 90})
    whole = run_through(raw, tmp_path / "whole")
    commit, calls = Marks.commit, 0

    def dies(self, *arguments, **options):
        nonlocal calls
        calls += 1
        if calls % 4 == 0:
            raise Killed
        return commit(self, *arguments, **options)

    monkeypatch.setattr(Marks, "commit", dies)
    kills = 0
    while True:
        try:
            build = run_through(raw, tmp_path / "stopped")
            break
        except Killed:
            kills += 1
    assert kills >= 4
    assert build.run.rounds.read() == whole.run.rounds.read()
    assert len(build.run.rounds.read()) > 1
    assert results(build.run.root) == results(whole.run.root)


# What is written


def test_quality_agrees_with_the_tables(finished):
    stored = orjson.loads(finished.run.paths.quality.read_bytes())
    counted = orjson.loads(orjson.dumps(asdict(judge_shards(finished, finished.run.marks.shards()).quality())))
    assert {name: stored[name] for name in counted} == counted
    rows = pq.read_table(finished.run.paths.verdicts).to_pandas()
    whole = rows[rows["instance"].isna()]
    assert stored["made"] == len(whole) == 8
    assert stored["accepted"] == (whole["verdict"] == "accepted").sum()
    asked = [c for shard in finished.run.marks.shards() for job in finished.jobs(shard) for c in job.asked]
    assert [c["asked"] for c in stored["classes"].values()] == [asked.count(i) for i in (1, 2, 3)]
    assert sum(stored["splits"].values()) == sum(stored["objects"].values()) == stored["accepted"]


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


def test_a_rejected_image_leaves_the_export_and_nothing_else_does(copied, quick, run_through, median):
    root = copied / "fruit" / "run-0001"
    exported = {p.name for p in root.glob("coco/*/*.png")}
    foreign = [root / "coco" / "notes.txt", root / "coco" / "train" / "mine.png", root / "mine.txt"]
    for file in foreign:
        file.parent.mkdir(exist_ok=True)
        file.write_text("mine")
    build = run_through(changed(quick, {"filters.sharpness.min": median}), copied)
    rows = pq.read_table(build.run.paths.verdicts).to_pandas()
    accepted = rows[rows["instance"].isna() & (rows["verdict"] == "accepted")]["image_id"]
    left = {p.name for p in root.glob("coco/*/0*.png")}
    assert left == {f"{i:012d}.png" for i in accepted} < exported
    assert [file.read_text() for file in foreign] == ["mine"] * 3
    assert len(images(root)) == 8


def test_exported_images_are_read_only_links(finished):
    exported = list(finished.run.root.glob("coco/*/*.png"))
    assert exported
    for path in exported:
        (image,) = finished.run.root.glob(f"images/*/{path.name}")
        assert path.samefile(image)
        assert path.stat().st_mode & 0o222 == 0


def test_an_export_follows_the_labels(copied, quick, run_through, perturbed_sam):
    """Although every verdict stays: what is exported are the masks."""
    run_through({**quick, "segmenter": {"model": perturbed_sam}}, copied)
    root = copied / "fruit" / "run-0001"
    labels = [row for f in sorted(root.glob("labels/*.parquet")) for row in pq.read_table(f).to_pylist()]
    masks = {(row["image_id"], row["rle"]) for row in labels}
    exported = [a for f in root.glob("coco/annotations/*.json") for a in json.loads(f.read_bytes())["annotations"]]
    assert exported
    assert {(a["image_id"], a["segmentation"]["counts"]) for a in exported} <= masks


def test_jobs_come_back_as_planned(finished):
    from synthgen.planning.jobs import plan_round
    from synthgen.planning.rounds import first_round

    planned = plan_round(finished.spec, 1, first_round(finished.spec), finished.stages.generator.aspect_ratios())
    assert [job for shard in finished.run.marks.shards() for job in finished.jobs(shard)] == list(planned)


def test_labels_come_back_as_segmented(finished):
    """Through RLE and Parquet and back: what a filter sees is what SAM said."""
    sample = next(s for s in labelled_samples(finished, 0) if len(s.instances) == 2)
    grounding = finished.stages.grounder.ground([sample.job], [sample.image])
    (fresh,) = finished.stages.segmenter.segment([sample.image], grounding)
    assert (fresh.masks != sample.instances.masks).sum() <= 2  # alone, and in a batch
    np.testing.assert_allclose(fresh.boxes, sample.instances.boxes, atol=1)
    np.testing.assert_array_equal(fresh.category_id, sample.instances.category_id)
    for name, values in fresh.scores.items():
        np.testing.assert_allclose(values, sample.instances.scores[name], atol=1e-4)


@pytest.mark.parametrize("objects", [0, 1])
def test_shards_without_objects(quick, run_through, tmp_path, objects):
    """Background images only, or some shard of them."""
    raw = {**quick, "objects_per_image": {0: 1} if objects == 0 else {0: 5, 1: 1}, "shard_size": 1, "count": 4}
    build = run_through(raw, tmp_path)
    quality = build.quality()
    assert quality is not None and quality.made == 4
    assert build.is_complete()
    found = [a for split in build.spec.splits for a in load(build.run.root, split).anns]
    assert len(found) == quality.instances


def test_a_run_without_filters(quick, run_through, tmp_path):
    build = run_through({**quick, "filters": {}, "count": 4}, tmp_path)
    quality = build.quality()
    assert quality is not None and quality.accepted + quality.rejected == 4
    assert set(quality.reasons) <= {"empty_mask"}


# COCO's own readers


def load(root: Path, split: str) -> COCO:
    with contextlib.redirect_stdout(None):
        return COCO(str(root / "coco" / "annotations" / f"instances_{split}.json"))


@pytest.mark.parametrize("segmentation", ["rle", "polygon"])
def test_coco_reads_it(copied, quick, run_through, segmentation):
    build = run_through(changed(quick, {"exporters.coco": {"segmentation": segmentation}}), copied)
    quality = build.quality()
    assert quality is not None and quality.instances > 0
    image_ids: list[int] = []
    annotation_ids: list[int] = []
    for split, count in quality.splits.items():
        coco = load(build.run.root, split)
        image_ids += coco.imgs
        annotation_ids += coco.anns
        assert len(coco.imgs) == count
        for annotation in coco.anns.values():
            mask = coco.annToMask(annotation)
            ys, xs = mask.nonzero()
            if segmentation == "rle":
                assert mask.sum() == annotation["area"]
                box = [xs.min(), ys.min(), xs.max() + 1 - xs.min(), ys.max() + 1 - ys.min()]
                assert annotation["bbox"] == box
            assert annotation["iscrowd"] == 0
        for image in coco.imgs.values():
            assert (build.run.root / "coco" / split / image["file_name"]).is_file()
    assert len(image_ids) == len(set(image_ids)) == quality.accepted
    assert sorted(annotation_ids) == list(range(1, quality.instances + 1))
    assert sorted(image_ids)[0] >= 1


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_truth_against_itself_is_perfect(finished, kind):
    scored = 0
    for split in finished.spec.splits:
        truth = load(finished.run.root, split)
        if not truth.anns:
            continue
        found = [
            {"image_id": a["image_id"], "category_id": a["category_id"], "score": 1.0}
            | ({"bbox": a["bbox"]} if kind == "bbox" else {"segmentation": a["segmentation"]})
            for a in truth.anns.values()
        ]
        with contextlib.redirect_stdout(None):
            scores = COCOeval(truth, truth.loadRes(found), kind)
            scores.evaluate()
            scores.accumulate()
            scores.summarize()
        assert scores.stats[0] == pytest.approx(1.0)
        scored += 1
    assert scored


def test_torchvision_iterates(finished):
    from torchvision.datasets import CocoDetection

    seen = 0
    for split in finished.spec.splits:
        root = finished.run.root / "coco"
        with contextlib.redirect_stdout(None):
            dataset = CocoDetection(str(root / split), str(root / "annotations" / f"instances_{split}.json"))
        for image, targets in dataset:
            assert image.size == (128, 128)
            seen += len(targets)
    assert seen == finished.quality().instances


def test_a_damaged_image_that_is_made_again_is_linked_again(
    copied: Path, quick: dict[str, Any], run_through: Any
) -> None:
    run = copied / "fruit" / "run-0001"
    link = next(path for path in sorted(run.glob("coco/*/*.png")))
    (image,) = run.glob(f"images/*/{link.name}")
    whole = image.read_bytes()
    image.chmod(0o644)
    with open(image, "r+b") as file:  # in place and of the same size, so the link is damaged with it
        file.seek(len(whole) // 2)
        file.write(b"damage")
    image.unlink()
    run_through(quick, copied)
    assert image.read_bytes() == link.read_bytes() == whole
    assert link.samefile(image)


def test_a_run_of_images_without_objects_warns_of_nothing(
    quick: dict[str, Any], run_through: Any, tmp_path: Path
) -> None:
    """Measures of instances have no numbers then, with thresholds all the same. Warnings are errors in all tests."""
    filters = dict.fromkeys(("predicted_iou", "stability", "mask_area", "box_agreement", "asked_found"))
    build = run_through({**quick, "count": 2, "objects_per_image": 0, "filters": filters}, tmp_path)
    quality = build.quality()
    assert (quality.made, quality.accepted, quality.instances, quality.reasons) == (2, 2, 0, {})
    assert build.spec.layout is not None
