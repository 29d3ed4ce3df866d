"""Labels: what they depend on, and how they are read."""

import sys

import numpy as np
import pytest
from builds import changed, load_coco, remove
from cheap import SPEC, write_parts
from runs import results

from synthgen.errors import RunError
from synthgen.pipeline.build import Build
from synthgen.pipeline.fingerprints import labelled_by
from synthgen.pipeline.label import labelled_samples


def test_the_generators_batches_are_not_those_of_the_labels(copied, finished, quick, run_through):
    """Else labels would depend on an option that no mark of theirs names."""
    (copied / "fruit" / "run-0001" / "commits" / "label-00000.json").unlink()
    build = run_through(changed(quick, {"generator.batch_size": 1}), copied)
    assert results(build.run.root) == results(finished.run.root)


def test_mixed_labels_only_if_allowed(copied, quick, run_through):
    raw = {**quick, "segmenter": {"batch_size": 1}}
    root = copied / "fruit" / "run-0001"
    run_through(raw, copied)
    remove("commits/label-00001.json")(root)
    with pytest.raises(RunError, match=r"batch_size: 8 -> 1.*--allow-mixed"):
        run_through(raw, copied)
    assert run_through(raw, copied, allow_mixed=True).is_complete()


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
    found = [a for split in build.spec.splits for a in load_coco(build.run.root, split).anns]
    assert len(found) == quality.instances


HALF = """
import numpy as np
from synthgen.backends import Config as Base, Grounder
from synthgen.types import Grounding
class Config(Base):
    sees: int = 1
class Backend(Grounder[Config]):
    def ground(self, jobs, images):
        return [self.one(job) for job in jobs]
    def one(self, job):
        boxes = [box for box, asked in zip(job.layout, job.asked) if asked == self.config.sees]
        classes = np.full(len(boxes), self.config.sees, np.int64)
        scores = {"grounding_score": np.full(len(boxes), 0.5, np.float32)}
        return Grounding(np.array(boxes, np.float32).reshape(-1, 4), classes, scores)
"""


def forget_parts():
    for name in [name for name in sys.modules if name.partition(".")[0] == "cheap_parts"]:
        del sys.modules[name]


@pytest.fixture
def half(tmp_path, monkeypatch):
    write_parts(tmp_path)
    (tmp_path / "cheap_parts" / "half.py").write_text(HALF)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    forget_parts()


def test_what_one_of_two_grounders_sees_is_ignored(half, tmp_path, run_through):
    """One is the layout, and the other is the user's and sees only apples. A command that only reads the run does not
    import it."""
    raw = {
        **SPEC, "count": 12, "objects_per_image": 2, "exporters": {"coco": {}}, "splits": {"all": 1.0},
        "grounder": {"use": "agreement", "of": ["layout", {"use": "cheap_parts.half"}]},
        "filters": {"witnesses": {"on_fail": "ignore"}},
    }  # fmt: skip
    build = run_through(raw, tmp_path / "out")
    found = load_coco(build.run.root, "all").anns.values()
    apple = {1: 0, 2: 1}  # class -> whether it is ignored
    assert {a["category_id"] for a in found} == set(apple)
    assert all(a["iscrowd"] == apple[a["category_id"]] for a in found)
    forget_parts()
    read = Build.read(build.run)
    assert read.is_complete() and read.stages.grounder.identity() == ""
    assert not any(name.startswith("cheap_parts") for name in sys.modules)
    other = {**raw["grounder"], "of": ["layout", {"use": "cheap_parts.half", "sees": 2}]}
    build = run_through({**raw, "grounder": other}, tmp_path / "out")
    assert all(a["iscrowd"] == 1 - apple[a["category_id"]] for a in load_coco(build.run.root, "all").anns.values())


def test_weights_of_nested_backends_are_recorded_one_by_one(tmp_path, quick, run_through):
    """So labels are made anew if those of one change, and a run is judged without models."""
    everything = {"use": "everything", "points_per_side": 2}
    grounder = {"use": "agreement", "of": ["layout", everything], "min_iou": 0.3}
    raw = {**quick, "count": 2, "grounder": grounder, "filters": {"witnesses": {"on_fail": "drop"}}}
    build = run_through(raw, tmp_path)
    models = build.run.facts.read()["models"]
    assert [key for key in models if key.startswith("grounder")] == ["grounder.of.1"]
    assert models["grounder.of.1"]["weights"] == build.stages.grounder.identity()
    labelled = labelled_by(build.spec, models)
    assert labelled["grounder"]["weights"] == build.stages.grounder.identity()
    mark = build.run.marks.read("label", 0)
    assert set(mark.environment) == {"grounder", "segmenter"} and set(mark.environment["grounder"]) == {"of.1"}
