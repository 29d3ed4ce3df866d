"""A run folder through everything that can happen to it. No Prefect here."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
import runs
import yaml
from builds import Killed, changed, cut, remove, rewritten, state
from runs import images, results

from synthgen import models
from synthgen.errors import RunError
from synthgen.pipeline.build import Build
from synthgen.planning.rounds import IMAGES_PER_RUN
from synthgen.store.marks import Marks
from synthgen.store.run import Run

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


# Taking up again


def test_a_finished_run_makes_nothing(copied, quick, run_through, generated):
    before = state(copied)
    build = run_through(quick, copied)
    assert build.is_complete()
    assert generated == []
    after = state(copied)
    assert {n for n in after if before.get(n) != after[n]} <= {"fruit/run-0001/.lock"}


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


@pytest.mark.slow
def test_killed_for_real(finished, quick, tmp_path):
    """Three times, each somewhere in what was left to do; then to the end."""
    spec, out, random_ = tmp_path / "spec.yaml", tmp_path / "out", random.Random(0)
    spec.write_text(yaml.safe_dump(quick, sort_keys=False))
    root, killed = out / "fruit" / "run-0001", 0
    for kill in (True, True, True, False):
        done = len(images(root))
        with subprocess.Popen([sys.executable, runs.__file__, spec, out]) as process:
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


JUDGED = {"judge", "export", "report"}
MEASURED = {"measure-00000", "measure-00001"}
LABELLED = {"label-00000", "label-00001"}


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
    with pytest.raises(RunError, match="holds images that were made differently") as refused:
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


# Making up what was thrown away


# Quotas, with parts that are known to the last pixel


# What is written


# COCO's own readers
