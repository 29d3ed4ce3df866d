"""Labels: what they depend on, and how they are read."""

import numpy as np
import pytest
from builds import changed, load_coco, remove
from runs import results

from synthgen.errors import RunError
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
