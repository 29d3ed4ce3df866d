"""Corrections from annotation tools: into the log, through the judge, into every export, and back out."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest
from annotated import TWO_EACH, exported_labels, square
from browser import CHROMIUM, REASON, opened, ready, serving
from starlette.testclient import TestClient

from synthgen.dataset.growth import grow
from synthgen.errors import OutOfRoom, RunError
from synthgen.judging.precision import LabelPrecision
from synthgen.judging.reviews import Review, ReviewLog, read_reviews
from synthgen.masks import decode_rle, encode_rle
from synthgen.pipeline.build import Build
from synthgen.pipeline.export import export_run
from synthgen.pipeline.judge import judge_run
from synthgen.pipeline.label import labels_digests
from synthgen.pipeline.verification import inspect
from synthgen.report.page import write
from synthgen.review.imports import import_file, take_back
from synthgen.review.queue import ReviewQueue
from synthgen.review.server import app
from synthgen.store.run import Run

Calls = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def made(run_through: Callable[..., Build], tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Only for reading."""
    return run_through({**TWO_EACH, "grow": True}, tmp_path_factory.mktemp("imports"))


@pytest.fixture
def build(made: Build, tmp_path: Path) -> Build:
    """A copy of the run."""
    return Build.open(Run(copytree(made.run.root.parent, tmp_path / "many") / "run-0001"))


def coco(folder: Build | Path) -> dict[str, Any]:
    """All splits of an export as one file, as tools write it: with ids of their own."""
    whole: dict[str, Any] = {"images": [], "annotations": []}
    root = folder if isinstance(folder, Path) else folder.run.root
    for file in sorted(root.glob("coco/annotations/*.json")):
        content = orjson.loads(file.read_bytes())
        whole["categories"] = content["categories"]
        for key in ("images", "annotations"):
            whole[key] += content[key]
    ids = {image["id"]: number for number, image in enumerate(whole["images"], 501)}
    whole["images"] = [{**image, "id": ids[image["id"]]} for image in whole["images"]]
    whole["annotations"] = [{**a, "image_id": ids[a["image_id"]], "iscrowd": 1} for a in whole["annotations"]]
    return whole


def of_image(content: dict[str, Any], image_id: int) -> list[dict[str, Any]]:
    """The annotations of an image of the run."""
    (number,) = (i["id"] for i in content["images"] if i["file_name"] == f"{image_id:012d}.png")
    return [a for a in content["annotations"] if a["image_id"] == number]


def labels_in(content: dict[str, Any]) -> set[tuple[int, str, str]]:
    names = {c["id"]: c["name"] for c in content["categories"]}
    images = {i["id"]: int(i["file_name"][:12]) for i in content["images"]}
    return {
        (images[a["image_id"]], names[a["category_id"]], a["segmentation"]["counts"]) for a in content["annotations"]
    }


def edited(build: Build) -> dict[str, Any]:
    """Image 1: another class; image 2: a mask without its left half; image 3: a label less; image 4: one more."""
    content = coco(build)
    of_image(content, 1)[0]["category_id"] = 2
    rle = of_image(content, 2)[1]["segmentation"]
    mask = decode_rle([rle], 128, 128)
    mask[0, :, : int(np.median(np.nonzero(mask[0])[1]))] = False
    rle["counts"] = encode_rle(mask)[0]["counts"]
    content["annotations"].remove(of_image(content, 3)[0])
    image = of_image(content, 4)[0]["image_id"]
    content["annotations"].append(
        {"id": 9999, "image_id": image, "category_id": 1, "segmentation": square(3, 4, 20), "bbox": [3, 4, 20, 20],
         "area": 400, "iscrowd": 0}
    )  # fmt: skip
    return content


def write_json(file: Path, content: Any) -> Path:
    file.write_bytes(orjson.dumps(content))
    return file


@pytest.fixture
def file(build: Build, tmp_path: Path) -> Path:
    return write_json(tmp_path / "corrected.json", edited(build))


def judge_anew(build: Build) -> Build:
    with build.run.lock():
        judge_run(build)
        export_run(build)
        write(build)
    return Build.open(Run(build.run.root))


def contents(build: Build) -> dict[str, bytes]:
    """The results of the run but those with times, by name."""
    names = ("verdicts.parquet", "corrections.parquet", "coco/annotations/*", "coco/*/*.png")
    found = (p for name in names for p in build.run.root.glob(name))
    return {str(p.relative_to(build.run.root)): p.read_bytes() for p in found}


def test_exports_have_the_corrections_exactly(build: Build, file: Path, synthgen: Calls) -> None:
    before = contents(build)
    code, out, err = synthgen("review", build.run.root, "--import", file, "--by", "Ann")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "images of the file: 6, changed: 4",
        "1 label: another class",
        "1 label: another mask",
        "1 label: removed",
        "1 label: added",
        f"apply them with: synthgen judge {build.run.root}",
    ]
    found = read_reviews(build.run.paths.reviews)
    assert len(found.lines) == 1 and {review.by for review in found.of.values()} == {"Ann"}
    assert all(review.at.startswith("20") for review in found.of.values())
    assert not build.is_complete()

    code, out, err = synthgen("judge", build.run.root, "-q")
    assert code == 0, err
    build = Build.open(build.run)
    content = orjson.loads(file.read_bytes())
    assert exported_labels(build) == labels_in(content) == labels_in(coco(build))
    quality = build.quality()
    assert quality and (quality.accepted, quality.instances) == (6, 12)
    for annotation in coco(build)["annotations"]:  # Areas and boxes are those of the masks.
        mask = decode_rle([annotation["segmentation"]], 128, 128)[0]
        y, x = np.nonzero(mask)
        assert annotation["area"] == mask.sum()
        assert annotation["bbox"] == [x.min(), y.min(), x.max() + 1 - x.min(), y.max() + 1 - y.min()]
    (corrected,) = (a for a in of_image(coco(build), 2) if a["segmentation"] == of_image(content, 2)[1]["segmentation"])
    assert corrected["scores"] == {} != of_image(coco(build), 2)[0]["scores"]  # They were the other mask's.
    verified = inspect(build)
    assert verified.damages == () and verified.stray == () and verified.missing == ()

    code, out, _ = synthgen("review", build.run.root, "--import", file)
    assert code == 0 and out.splitlines()[-1] == "nothing new to take"
    assert len(read_reviews(build.run.paths.reviews).lines) == 1

    code, out, _ = synthgen("review", build.run.root, "--undo")
    assert code == 0 and out.startswith(
        "the last import is taken back, with 8 verdicts; apply them with: synthgen judge"
    )
    assert contents(judge_anew(build)) == before


def test_readers_of_labels_show_the_corrections(build: Build, file: Path, synthgen: Calls, tmp_path: Path) -> None:
    """The table of verdicts, figures, the report, the sheet, and a dataset of several runs."""
    import_file(build, file)
    build = judge_anew(build)
    rows = pq.read_table(build.run.paths.verdicts).to_pylist()
    labels = {
        (r["image_id"], r["instance"]): (r["category_id"], r["verdict"], r["reasons"])
        for r in rows
        if r["split"] is None
    }
    assert labels[1, 0] == (2, "kept", [])
    assert labels[3, 0][1:] == ("dropped", ["review_removed"])
    assert labels[4, 2] == (1, "kept", [])
    numbers = orjson.loads(build.run.paths.quality.read_bytes())
    sizes = numbers["distributions"]["sizes"]["coco"]
    areas = [a["area"] for a in coco(build)["annotations"]]
    assert sizes["small"] == sum(area < 32**2 for area in areas)
    (scores,) = (s for s in numbers["scores"] if s["score"] == "predicted_iou")
    assert (scores["values"], scores["unmeasured"]) == (12, 0)  # The added label has none.
    assert sum(c["labelled"] for c in numbers["distributions"]["classes"]) == 12
    assert "M3 4L3 24L23 24L23 4Z" in build.run.paths.report.read_text()  # the outline of the added square
    sheet = tmp_path / "sheet.png"
    assert synthgen("show", build.run.root, "-o", sheet)[0] == 0
    with build.run.lock():
        growth = grow(build)
    assert (growth.images, growth.instances) == (6, 12)
    assert labels_in(coco(build.run.root.parent / "dataset")) == exported_labels(build)


def test_a_rejected_image_is_kept_once_somebody_has_corrected_it(build: Build, synthgen: Calls, tmp_path: Path) -> None:
    """Its export shows the label that has it rejected; without that label, and with another one, the image is good."""
    scores = sorted(a["scores"]["predicted_iou"] for a in coco(build)["annotations"])
    assert synthgen("judge", build.run.root, "-q", "--set", f"filters.predicted_iou.min={scores[2] - 1e-5}")[0] == 3
    build = Build.open(build.run)
    rejected = sorted({1, 2, 3, 4, 5, 6} - {image_id for image_id, _, _ in exported_labels(build)})
    assert rejected
    out = tmp_path / "all"
    assert synthgen("export", build.run.root, "--to", "coco", "--only", "all", "--out", out)[0] == 0
    content = coco(out)
    assert len(content["images"]) == 6 and len(content["annotations"]) == 12
    worst = min(content["annotations"], key=lambda a: a["scores"]["predicted_iou"])
    (image_id,) = (i for i in rejected if worst in of_image(content, i))
    before = {row for row in labels_in(content) if row[0] == image_id}
    content["annotations"].remove(worst)
    import_file(build, write_json(tmp_path / "corrected.json", content))
    kept = {row for row in exported_labels(judge_anew(build)) if row[0] == image_id}
    assert len(kept) == 1 and kept < before


def test_a_grown_dataset_gives_each_run_its_corrections(
    build: Build, run_through: Callable[..., Build], tmp_path: Path, synthgen: Calls
) -> None:
    folder = build.run.root.parent
    second = run_through({**TWO_EACH, "grow": True}, folder.parent, 2)
    with second.run.lock():
        assert grow(second).images == 12
    content = coco(folder / "dataset")
    first_of_2 = min(image_id for image_id, _, _ in labels_in(content) if image_id > 6)
    of_image(content, 3)[0]["category_id"] = 3
    content["annotations"].remove(of_image(content, first_of_2)[0])
    (changed,) = (i for i in content["images"] if i["file_name"].startswith(f"{first_of_2:012d}"))
    stranger = {
        **content,
        "images": [{**i, "file_name": f"{9 * 10**7:012d}.png"} if i is changed else i for i in content["images"]],
    }
    file = write_json(tmp_path / "grown.json", stranger)
    code, _, err = synthgen("review", folder / "dataset", "--import", file)
    assert code == 2 and err.endswith(f"no run of {folder} has an image 90000000\n")
    unknown = orjson.loads(orjson.dumps({**content, "categories": [*content["categories"], {"id": 9, "name": "plum"}]}))
    of_image(unknown, first_of_2)[0]["category_id"] = 9
    code, _, err = synthgen("review", folder / "dataset", "--import", write_json(file, unknown))
    assert code == 2 and "the spec has no class 'plum'" in err
    assert not build.run.paths.reviews.exists()  # The first run is not changed either.
    code, out, err = synthgen("review", folder / "dataset", "--import", write_json(file, content), "--by", "Ann")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "run 1", "images of the file: 6, changed: 1", "1 label: another class",
        f"apply them with: synthgen judge {build.run.root}",
        "run 2", "images of the file: 6, changed: 1", "1 label: removed",
        f"apply them with: synthgen judge {second.run.root}",
    ]  # fmt: skip
    for run in (build.run.root, second.run.root):
        assert synthgen("judge", run, "-q")[0] == 0
    assert labels_in(coco(folder / "dataset")) == labels_in(content)


def test_a_mask_alone_makes_exports_anew(build: Build, tmp_path: Path) -> None:
    """The verdicts are the same: the file of corrected masks is what has changed. It goes with the last correction."""
    content = coco(build)
    for side in (40, 30):
        of_image(content, 2)[0]["segmentation"] = square(9, 9, side)
        import_file(build, write_json(tmp_path / "masks.json", content))
        if side == 40:
            build = judge_anew(build)
            verdicts = build.run.paths.verdicts.read_bytes()
    with build.run.lock():
        judge_run(build)
    build = Build.open(build.run)
    assert build.run.paths.verdicts.read_bytes() == verdicts
    assert not build.is_done("export", "coco") and not build.is_done("report")
    build = judge_anew(build)
    assert exported_labels(build) == labels_in(content)
    data = bytearray(build.run.paths.corrections.read_bytes())
    data[len(data) // 2] ^= 1
    build.run.paths.corrections.write_bytes(data)
    assert [damage.stage for damage in inspect(build).damages if damage.file == "corrections.parquet"] == ["judge"]
    take_back(build)
    take_back(build)
    build = judge_anew(build)
    assert not build.run.paths.corrections.exists() and inspect(build).damages == ()


def test_reviews_on_other_labels_do_not_hold(build: Build, file: Path) -> None:
    """As if the run had been labelled anew: the digests of the imported reviews are of other labels."""
    import_file(build, file)
    reviews = [*read_reviews(build.run.paths.reviews).of.values()]
    build.run.paths.reviews.unlink()
    with ReviewLog.open(build.run.paths.reviews) as log:
        log.add(*(Review(**{**review.record(), "labels": "0" * 16}) for review in reviews))
    before = exported_labels(build)
    assert exported_labels(judge_anew(build)) == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["categories"][0].update(name="aple"), "the spec has no class 'aple' (did you mean 'apple'?)"),
        (lambda c: c["images"][0].update(file_name="000000000099.png"), "has no image 99; is the file of another run?"),
        (lambda c: c["images"][0].update(height=64, width=64), "annotation 3 has RLE of another size than the image's"),
        (lambda c: c["images"].append(c["images"][0]), "is in the file twice"),
        (lambda c: c["annotations"][0].update(image_id=9), "has the image_id 9, and no image has this id"),
        (lambda c: c["annotations"][0].update(category_id=[]), "annotation 3 has a category that is not in the file"),
        (lambda c: c["annotations"][0].update(segmentation=[[1, 2, 3]]), "annotation 3 has a polygon of fewer than 3"),
        (lambda c: c["annotations"][0].update(segmentation=[], bbox=["x", 0, 1, 1]), "annotation 3 has a bbox, and a"),
        (lambda c: c.update(images=3), "its 'images' is no list"),
        (lambda c: c.pop("categories"), "it has no 'categories'"),
    ],
)  # fmt: skip
def test_a_file_is_taken_whole_or_not_at_all(
    build: Build, tmp_path: Path, synthgen: Calls, change: Callable[[Any], Any], words: str
) -> None:
    content = edited(build)
    change(content)
    file = write_json(tmp_path / "corrected.json", content)
    code, out, err = synthgen("review", build.run.root, "--import", file)
    assert code == 2 and out == "" and words in err and str(file) in err and err.count("\n") == 1
    assert not build.run.paths.reviews.exists()


def test_a_crash_leaves_all_of_an_import_or_nothing(build: Build, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every beginning of the line that an import writes is no verdict at all."""
    log = build.run.paths.reviews
    with ReviewLog.open(log) as opened:
        opened.add(Review(5, 0, "accept", None, "random", "d"))
    before = log.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        with pytest.raises(OutOfRoom):
            import_file(build, file)
    assert log.read_bytes() == before
    import_file(build, file)
    whole = log.read_bytes()
    assert whole.startswith(before) and len(read_reviews(log)) == 9
    for end in range(len(before), len(whole), 97):
        log.write_bytes(whole[:end])
        assert len(read_reviews(log)) == 1
    log.write_bytes(whole)
    assert take_back(build) == 8 and len(read_reviews(log)) == 1
    with pytest.raises(RunError, match="no import to take back: the last verdict comes from the review page"):
        take_back(build)


def test_another_review_keeps_an_import_out(build: Build, file: Path) -> None:
    with ReviewLog.open(build.run.paths.reviews), pytest.raises(RunError, match=r"another review of .* is open"):
        import_file(build, file)


# The page


@pytest.fixture
def page(build: Build, file: Path) -> Iterator[tuple[ReviewQueue, TestClient]]:
    import_file(build, file, "Ann")
    with ReviewLog.open(build.run.paths.reviews) as log:
        queue = ReviewQueue(build, "random", None, log, by="Ben")
        client = TestClient(app(queue, "secret"), base_url="http://127.0.0.1")
        client.headers["X-Token"] = "secret"
        yield queue, client


def item_of(queue: ReviewQueue, image_id: int, instance: int) -> int:
    return next(k for k, item in enumerate(queue.items) if (item.image_id, item.instance) == (image_id, instance))


def test_the_page_shows_corrections_that_are_not_judged_yet(page: tuple[ReviewQueue, TestClient]) -> None:
    queue, client = page
    shown = {
        image_id: {
            label["instance"]: (label["name"], label["note"], label["path"])
            for label in client.get(f"/items/{item_of(queue, image_id, 1)}").json()["labels"]
        }
        for image_id in (1, 2, 3, 4, 5)
    }
    assert shown[1][0][:2] == ("orange", "class corrected by Ann")
    assert shown[2][1][1] == "mask corrected by Ann" and shown[2][0][1] == ""
    assert shown[3][0][1] == "removed by Ann"
    assert shown[4][2] == ("apple", "added by Ann", "M3 4L3 24L23 24L23 4Z")
    assert {note for _, note, _ in shown[5].values()} == {""}


@pytest.mark.skipif(CHROMIUM is None, reason=REASON)
def test_a_browser_shows_who_corrected_what(build: Build, file: Path) -> None:
    import_file(build, file, "Ann <b>")
    with serving(build.run.root) as (_, address), opened() as (tab, complaints, _):
        tab.goto(address)
        for done in range(12):
            ready(tab, done, 12)
            if "#4," in tab.locator("#facts").inner_text():
                break
            tab.keyboard.press("a")
        assert sorted(tab.locator("#names small").all_inner_texts()) == ["added by Ann <b>"]
        assert tab.locator("#labels path.over").count() == 3 and complaints == []


def test_the_page_does_not_undo_an_import_by_the_way(page: tuple[ReviewQueue, TestClient]) -> None:
    queue, client = page
    log = read_reviews(queue.build.run.paths.reviews)
    assert client.post("/verdicts", json={"item": 0, "verdict": "accept"}).status_code == 200
    assert client.post("/undo").json()["undone"] == 0
    answer = client.post("/undo")
    assert answer.status_code == 422 and "come from an imported file; to take them all back, use" in answer.text
    assert read_reviews(queue.build.run.paths.reviews).of == log.of


def test_a_verdict_of_the_page_on_a_corrected_label_keeps_its_mask(page: tuple[ReviewQueue, TestClient]) -> None:
    """Whoever accepts it has seen the corrected mask; it still counts as a wrong label of the model."""
    queue, client = page
    mask = queue._log.standing().of[2, 1].rle
    assert mask
    client.post("/verdicts", json={"item": item_of(queue, 2, 1), "verdict": "accept"})
    state = client.post("/verdicts", json={"item": item_of(queue, 1, 0), "verdict": "accept"}).json()
    found = read_reviews(queue.build.run.paths.reviews).of
    assert (found[2, 1].verdict, found[2, 1].rle, found[2, 1].by) == ("accept", mask, "Ben")
    assert (found[1, 0].verdict, found[1, 0].category_id) == ("accept", 2)
    assert state["precision"] == {**state["precision"], "verdicts": 2, "right": 0}
    client.post("/verdicts", json={"item": item_of(queue, 2, 1), "verdict": "bad_mask"})
    assert read_reviews(queue.build.run.paths.reviews).of[2, 1].verdict == "reject"
    build = judge_anew(queue.build)
    assert {i for i, _, _ in exported_labels(build)} == {1, 3, 4, 5, 6}
    quality = build.quality()
    assert quality and quality.precision == LabelPrecision.of(0, 2, 12)
    digest = labels_digests(build, 0, {2})[2]
    assert found[2, 1].labels == digest
