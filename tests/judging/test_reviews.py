"""The log of verdicts, and what they do at the next judging."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

import orjson
import pytest
from judged import of_images, of_instances, table
from starlette.testclient import TestClient

from synthgen.base.sealed import SEAL, sha256_json
from synthgen.errors import RunError, SynthgenError
from synthgen.judging.counting import label_precision
from synthgen.judging.reviews import Review, ReviewLog, read_reviews
from synthgen.pipeline.build import Build
from synthgen.pipeline.export import export_run
from synthgen.pipeline.judge import judge_run
from synthgen.pipeline.label import labels_digests
from synthgen.pipeline.verification import inspect
from synthgen.report.page import write
from synthgen.review.queue import ReviewQueue
from synthgen.review.server import app
from synthgen.store.marks import Marks
from synthgen.store.run import Run

WRITER = """
import sys
from pathlib import Path
from synthgen.judging.reviews import Review, ReviewLog
with ReviewLog.open(Path(sys.argv[1])) as log:
    for i in range(1000):
        log.add(Review(i, 0, "accept", None, "random", "d"))
        print(i, flush=True)
"""


def said(image_id: int, instance: int | None, verdict: str, queue: str = "random", category_id: int | None = None,
         labels: str = "d") -> Review:  # fmt: skip
    return Review(image_id, instance, verdict, category_id, queue, labels)  # type: ignore[arg-type]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "reviews.jsonl"
    with ReviewLog.open(path) as log:
        log.add(said(1, 0, "accept"))
        log.add(said(2, None, "reject", "borderline"))
        log.add(said(1, 0, "bad_mask"))
        taken = log.undo()
        assert [review.verdict for review in taken] == ["bad_mask"] and len(log.made) == 2
    found = read_reviews(path)
    assert {about: r.verdict for about, r in found.of.items()} == {(1, 0): "accept", (2, None): "reject"}
    with ReviewLog.open(path) as log:
        assert [r.verdict for r in log.made] == ["accept", "reject"]
        assert log.undo() and log.undo() and log.undo() == ()
    assert len(read_reviews(path)) == 0


def test_every_verdict_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "reviews.jsonl"
    with subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        acknowledged = 0
        for line in process.stdout:
            acknowledged = int(line) + 1
            if acknowledged == 37:
                process.send_signal(signal.SIGKILL)
                break
    assert len(read_reviews(path)) >= acknowledged == 37


def test_a_torn_line_counts_as_none_and_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "reviews.jsonl"
    with ReviewLog.open(path) as log:
        log.add(said(1, 0, "accept"))
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:20])
    assert len(read_reviews(path)) == 1
    with ReviewLog.open(path) as log:
        log.add(said(2, 0, "accept"))
    assert path.read_bytes().startswith(whole) and path.read_bytes().count(b"\n") == 2
    assert len(read_reviews(path)) == 2


@pytest.mark.parametrize("line", [b"x", b"{}", b"[1]", b'{"undo": true}', b'{"image_id": 1}'])
def test_a_changed_line_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "reviews.jsonl"
    path.write_bytes(line + b"\n")
    with pytest.raises(RunError, match=r"reviews\.jsonl, line 1"):
        read_reviews(path)


def unlinked(review: Review) -> bytes:
    """A line as earlier versions wrote it: it does not name the one before it."""
    content = {name: getattr(review, name) for name in Review.__slots__}
    return orjson.dumps({**content, SEAL: sha256_json(content)[:8]}) + b"\n"


def test_lines_that_are_taken_out_are_missed(tmp_path: Path) -> None:
    """Of eight verdicts with two on wrong labels, to be rid of these two."""
    path = tmp_path / "reviews.jsonl"
    with ReviewLog.open(path) as log:
        for i in range(8):
            log.add(said(i, 0, "bad_mask" if i in {2, 5} else "accept"))
    lines = path.read_bytes().splitlines(keepends=True)
    whole = read_reviews(path)
    for left, line in ((lines[:2] + lines[3:], 3), (lines[1:], 1), ([lines[1], lines[0], *lines[2:]], 1)):
        path.write_bytes(b"".join(left))
        with pytest.raises(RunError, match=f"line {line} does not follow the line before it: lines are missing there"):
            read_reviews(path)
    path.write_bytes(b"".join(lines[:5]))
    assert len(read_reviews(path)) == 5 and not read_reviews(path).has(whole.extent())
    path.write_bytes(b"".join(lines))
    with ReviewLog.open(path) as log:
        log.undo()
    assert read_reviews(path).has(whole.extent()) and read_reviews(path).has([0, ""])


def test_a_log_of_an_earlier_version_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "reviews.jsonl"
    old = [unlinked(said(i, 0, "accept")) for i in range(3)]
    path.write_bytes(b"".join(old))
    with ReviewLog.open(path) as log:
        log.add(said(3, 0, "reject"))
    assert len(read_reviews(path)) == 4
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], lines[3]]))
    with pytest.raises(RunError, match="line 3 does not follow"):
        read_reviews(path)
    path.write_bytes(b"".join([*lines, old[0]]))
    with pytest.raises(RunError, match="line 5 does not follow"):
        read_reviews(path)


@pytest.mark.parametrize(("code", "words"), [(errno.ENOSPC, "no room left on the disk"), (errno.EIO, "Input/output")])
def test_a_verdict_that_was_refused_does_not_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: str
) -> None:
    """What reached the disk of it is cut away; the next verdict brings nothing with it."""
    path = tmp_path / "reviews.jsonl"
    with ReviewLog.open(path) as log:
        log.add(said(1, 0, "accept"))
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(code, os.strerror(code))))
            with pytest.raises(SynthgenError, match=f"{words}.*; the verdict was not saved"):
                log.add(said(2, 0, "reject"))
        log.add(said(3, 0, "accept"))
        assert [review.image_id for review in log.made] == [1, 3]
    assert [about for about, _ in read_reviews(path).of] == [1, 3]


def test_the_judge_says_which_verdicts_it_took(copied: Path) -> None:
    build = Build.open(Run(copied / "fruit" / "run-0001"))
    path = build.run.paths.reviews
    with ReviewLog.open(path) as log:
        for i in range(1, 5):
            log.add(said(i, 0, "accept"))
    with build.run.lock():
        judge_run(build)
        export_run(build)
        write(build)
    assert inspect(build).damages == ()
    whole = path.read_bytes()
    for left in (b"".join(whole.splitlines(keepends=True)[:3]), None):
        path.write_bytes(left) if left else path.unlink()
        (damage,) = inspect(build).damages
        assert str(damage).startswith("reviews.jsonl: the last judging read 4 lines, and some of them are missing")
    with build.run.lock():  # without them, since a person says so
        judge_run(build)
    assert inspect(build).damages == ()


def test_two_reviewers_do_not_share_a_log(tmp_path: Path) -> None:
    path = tmp_path / "reviews.jsonl"
    with ReviewLog.open(path), pytest.raises(RunError, match="another review"), ReviewLog.open(path):
        pass


def test_a_file_system_without_locks_is_no_other_reviewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOLCK, "no locks")))
    with ReviewLog.open(tmp_path / "reviews.jsonl") as log:
        log.add(said(1, 0, "accept"))
    assert len(read_reviews(tmp_path / "reviews.jsonl")) == 1


def test_a_review_without_a_verdict_leaves_no_log(tmp_path: Path) -> None:
    path = tmp_path / "reviews.jsonl"
    with pytest.raises(KeyboardInterrupt), ReviewLog.open(path):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    path.touch()  # of an earlier release
    with ReviewLog.open(path):
        pass
    assert not path.exists()


def test_a_log_that_goes_before_it_is_locked_is_opened_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, lock = tmp_path / "reviews.jsonl", fcntl.flock

    def removed_first(file: IO[bytes], how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        path.unlink()
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", removed_first)
    with ReviewLog.open(path) as log:
        log.add(said(1, 0, "accept"))
    assert len(read_reviews(path)) == 1


def test_an_empty_log_is_whole(copied: Path) -> None:
    build = Build.open(Run(copied / "fruit" / "run-0001"))
    build.run.paths.reviews.touch()
    assert "reviews.jsonl" not in {damage.file for damage in inspect(build).damages}


def test_a_label_of_the_sample_stays_of_it(tmp_path: Path) -> None:
    """Whichever queue it comes up in again; if its labels have changed meanwhile, it is another one."""
    path = tmp_path / "reviews.jsonl"
    with ReviewLog.open(path) as log:
        log.add(said(1, 0, "accept"))
        log.add(said(1, 0, "bad_mask", "borderline"))
        log.add(said(2, 0, "accept"))
        log.add(said(2, 0, "bad_mask", "borderline", labels="e"))
        log.add(said(3, 0, "accept", "borderline"))
    found = {about: (r.verdict, r.queue) for about, r in read_reviews(path).of.items()}
    assert found == {(1, 0): ("bad_mask", "random"), (2, 0): ("bad_mask", "borderline"),
                     (3, 0): ("accept", "borderline")}  # fmt: skip


# What verdicts do


def iou(*values: float) -> dict[str, object]:
    return {"objects": [{"predicted_iou": value} for value in values]}


IMAGES = [iou(0.9, 0.4), iou(0.9), iou(0.9, 0.9), iou(0.4)]
FILTERS = {"predicted_iou": {"min": 0.8}}


@pytest.mark.parametrize(
    ("verdicts", "images", "instances"),
    [
        ([], "R A A R", "k r k k k r"),
        ([said(1, 1, "accept")], "A A A R", "k k k k k r"),  # of its image, nothing else failed
        ([said(4, None, "accept", "borderline")], "R A A A", "k r k k k k"),
        ([said(2, 0, "reject")], "R R A R", "k r r k k r"),
        ([said(2, 0, "bad_mask")], "R R A R", "k r r k k r"),
        ([said(3, 1, "wrong_class")], "R A R R", "k r k k r r"),
        ([said(3, 1, "wrong_class", category_id=2)], "R A A R", "k r k k k r"),  # it is that class
        ([said(3, None, "reject", "borderline")], "R A R R", "k r k k k r"),
        ([said(1, None, "accept", "borderline"), said(1, 0, "bad_mask", "borderline")], "R A A R", "r k k k k r"),
    ],
)
def test_verdicts_override_filters(verdicts: list[Review], images: str, instances: str) -> None:
    found = table(IMAGES, FILTERS, reviews=verdicts, count=9)
    short = {"accepted": "A", "surplus": "S", "rejected": "R"}
    assert " ".join(short[v] for v, _ in of_images(found)) == images
    assert " ".join(v[0] for v, _ in of_instances(found)) == instances


def test_reasons_of_a_reviewer() -> None:
    found = table(IMAGES, FILTERS, reviews=[said(2, 0, "bad_mask"), said(3, None, "reject", "borderline")], count=9)
    assert [r for _, r in of_images(found)] == [
        ["predicted_iou"],
        ["review_bad_mask"],
        ["review_reject"],
        ["predicted_iou"],
    ]
    corrected = table(IMAGES, FILTERS, reviews=[said(3, 1, "wrong_class", category_id=2)], count=9)
    assert corrected.instances["category_id"].tolist() == [1, 1, 1, 1, 2, 1]


def test_precision_is_of_the_random_sample_and_of_what_filters_let_through() -> None:
    verdicts = [said(2, 0, "accept"), said(3, 0, "bad_mask"), said(3, 1, "accept", "borderline"), said(4, 0, "accept")]
    p = label_precision(table(IMAGES, FILTERS, reviews=verdicts, count=9))
    assert (p.population, p.verdicts, p.right) == (3, 2, 1)  # image 4 did not pass, 3's second label was not drawn


def test_near_duplicates_stay_so_whoever_accepts_them() -> None:
    images = [{**iou(0.9), "near_duplicate": 7}, {**iou(0.4), "near_duplicate": 7}]
    filters = {**FILTERS, "near_duplicate": {}}
    found = table(images, filters, reviews=[said(2, None, "accept", "borderline")], count=9)
    assert of_images(found)[1] == ("rejected", ["near_duplicate"])
    assert found.images["passed"].tolist() == [True, False]


# In a run


def test_the_next_judging_honours_them(copied: Path, quick, run_through) -> None:
    build = run_through(quick, copied)
    rows = build.run.tables.read(build.run.paths.verdicts).to_pandas()
    labels = rows[rows["instance"].notna()]
    image_id, instance, shard = (int(labels.iloc[0][n]) for n in ("image_id", "instance", "shard"))
    labels = labels_digests(build, shard, {image_id})[image_id]
    before = {p: p.stat().st_mtime_ns for p in build.run.root.rglob("*.png")}
    with ReviewLog.open(build.run.paths.reviews) as log:
        log.add(said(image_id, instance, "wrong_class", category_id=3, labels=labels))
    assert not Build.open(Run(build.run.root)).is_complete()
    again = run_through(quick, copied)
    now = again.run.tables.read(again.run.paths.verdicts).to_pandas()
    label = now[(now["image_id"] == image_id) & (now["instance"] == instance)].iloc[0]
    assert (label["category_id"], label["verdict"]) == (3, "kept")
    exported = b"".join(p.read_bytes() for p in sorted(again.run.root.glob("coco/annotations/*.json")))
    assert b'"image_id":%d,"category_id":3' % image_id in exported
    assert before.items() <= {p: p.stat().st_mtime_ns for p in again.run.root.rglob("*.png")}.items()
    quality = again.quality()
    assert quality is not None and (quality.precision.verdicts, quality.precision.right) == (1, 0)


def test_a_verdict_on_other_labels_does_not_count(copied: Path, quick, run_through) -> None:
    build = run_through(quick, copied)
    with ReviewLog.open(build.run.paths.reviews) as log:
        log.add(said(1, None, "reject", "borderline", labels="0" * 16))
    again = run_through(quick, copied)
    assert "review_reject" not in again.run.paths.quality.read_text()
    assert again.run.paths.reviews.stat().st_size > 0


@pytest.fixture
def asked(copied: Path) -> Iterator[tuple[Build, TestClient]]:
    """The review page of a run."""
    build = Build.open(Run(copied / "fruit" / "run-0001"))
    with ReviewLog.open(build.run.paths.reviews) as log:
        client = TestClient(app(ReviewQueue(build, "random", None, log), "secret"), base_url="http://127.0.0.1")
        client.headers["X-Token"] = "secret"
        yield build, client


def test_a_verdict_on_labels_that_were_made_anew_meanwhile_is_refused(asked: tuple[Build, TestClient]) -> None:
    """It would be dropped by the next judging, without a word."""
    build, client = asked
    verdict = {"item": 0, "verdict": "accept"}
    assert client.post("/verdicts", json=verdict).status_code == 200
    for shard in build.run.marks.shards():  # as `synthgen label` does in another terminal
        build.run.marks.commit("label", shard, "other inputs", [build.run.paths.table("labels", shard)])
    answer = client.post("/verdicts", json={**verdict, "item": 1})
    assert (answer.status_code, answer.text) == (
        422, "The labels of this image have changed since the review began. End the review and open it again.",
    )  # fmt: skip
    assert len(read_reviews(build.run.paths.reviews)) == 1


def test_the_page_says_that_a_verdict_could_not_be_written(
    asked: tuple[Build, TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    build, client = asked
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        answer = client.post("/verdicts", json={"item": 0, "verdict": "reject"})
        assert answer.status_code == 422 and answer.text.endswith("; the verdict was not saved")
    assert client.post("/verdicts", json={"item": 1, "verdict": "accept"}).status_code == 200
    assert [r.verdict for r in read_reviews(build.run.paths.reviews).of.values()] == ["accept"]


def test_a_report_that_was_killed_half_way_is_to_be_done(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not damaged: its mark is of the report before it."""
    before = Build.open(Run(copied / "fruit" / "run-0001"))
    build = replace(before, spec=before.spec.model_copy(update={"description": "other words"}))
    with build.run.lock():
        export_run(build)
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(Marks, "commit", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
            write(build)
    found = inspect(build)
    assert found.damages == () and found.missing == ("report",)
