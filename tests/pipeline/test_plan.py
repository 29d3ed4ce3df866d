"""Rounds: what judging threw away, and what quotas are short of, is made up."""

import errno
import sys
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest
import yaml
from builds import Killed, Raw, changed, load_coco, state
from runs import images, results

from synthgen.errors import RunError, of_system
from synthgen.generators import diffusion
from synthgen.pipeline.plan import add_round
from synthgen.store.marks import Marks
from synthgen.store.rounds import Rounds


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
    assert str(told).startswith(
        {"is another": f"{file} does not hold what was just written"}.get(fault, f"{file}: input/output error")
    )
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
        coco = load_coco(build.run.root, split)
        assert coco.imgs == coco.anns == {}
        assert sorted(coco.cats) == [1, 2, 3]


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
    assert sum(len(load_coco(build.run.root, split).imgs) for split in build.spec.splits) == exported
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


def test_jobs_come_back_as_planned(finished):
    from synthgen.planning.jobs import plan_round
    from synthgen.planning.rounds import first_round

    planned = plan_round(finished.spec, 1, first_round(finished.spec), finished.stages.generator.aspect_ratios())
    assert [job for shard in finished.run.marks.shards() for job in finished.jobs(shard)] == list(planned)
