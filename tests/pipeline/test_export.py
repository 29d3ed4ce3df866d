"""Exports: read by the readers of their format, and kept in line with the verdicts."""

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from builds import changed, load_coco
from pycocotools.cocoeval import COCOeval
from runs import images


def test_no_dates_in_an_export(finished, quick, run_through, tmp_path):
    """Bytes agree above although both ran within one day: so dates are sought by their keys and by their year, too."""
    for file in finished.run.root.glob("coco/annotations/*.json"):
        text = file.read_text()
        assert "date" not in text
        assert time.strftime("%Y-") not in text


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


@pytest.mark.parametrize("segmentation", ["rle", "polygon"])
def test_coco_reads_it(copied, quick, run_through, segmentation):
    build = run_through(changed(quick, {"exporters.coco": {"segmentation": segmentation}}), copied)
    quality = build.quality()
    assert quality is not None and quality.instances > 0
    image_ids: list[int] = []
    annotation_ids: list[int] = []
    for split, count in quality.splits.items():
        coco = load_coco(build.run.root, split)
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
        truth = load_coco(finished.run.root, split)
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
