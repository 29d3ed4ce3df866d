"""The version of a dataset: what changes it, and what does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from synthgen.store.content import Content
from synthgen.types import Annotation, Category, Job, Record

CATEGORIES = (Category(1, "cup"), Category(2, "chair"))


class Listed:
    def __init__(self, records: list[Record]) -> None:
        self.records, self.read = records, 0

    def __iter__(self) -> Iterator[Record]:
        self.read += 1
        return iter(self.records)

    def split(self, name: str) -> Iterator[Record]:
        return (record for record in self.records if record.job.split == name)


def annotation(number: int, category_id: int, counts: str = "04", ignore: bool = False) -> Annotation:
    return Annotation(number, category_id, {"size": [2, 2], "counts": counts}, (0, 0, 2, 2), 4, ignore, {"clip": 0.5})


def record(image_id: int, split: str = "train") -> Record:
    job = Job(image_id, 1, 1, image_id - 1, "f", split, "a cup", "", {}, (1,), None, 7, 2, 2)
    sha256 = f"{image_id:064x}"
    return Record(job, Path("x.png"), (annotation(1, 1), annotation(2, 2, "13")), {"sharpness": 1.0}, sha256)


def version(records: list[Record]) -> str:
    return Content(Listed(records), CATEGORIES).content_hash


RECORDS = [record(1), record(2), record(3, "val")]


@pytest.mark.parametrize(
    "change",
    [
        lambda r: replace(r, image_sha256="f" * 64),
        lambda r: replace(r, job=replace(r.job, split="val")),
        lambda r: replace(r, annotations=r.annotations[:1]),
        lambda r: replace(r, annotations=(annotation(1, 1), annotation(2, 1, "13"))),
        lambda r: replace(r, annotations=(annotation(1, 1), annotation(2, 2, "22"))),
        lambda r: replace(r, annotations=(annotation(1, 1), annotation(2, 2, "13", ignore=True))),
    ],
    ids=["pixels", "split", "fewer labels", "class", "mask", "ignored"],
)
def test_images_labels_and_splits_change_it(change: Callable[[Record], Record]) -> None:
    assert version([change(RECORDS[0]), *RECORDS[1:]]) != version(RECORDS)


def test_fewer_or_repeated_images_change_it() -> None:
    versions = {version(records) for records in ([], RECORDS[:1], RECORDS[:1] * 2, RECORDS[:2], RECORDS)}
    assert len(versions) == 5


def test_ids_order_scores_and_measures_do_not() -> None:
    def other(r: Record) -> Record:
        labels = tuple(replace(a, id=a.id + 50, scores={"clip": 0.9}) for a in reversed(r.annotations))
        return replace(r, job=replace(r.job, id=r.job.id + 1000), annotations=labels, measures={})

    assert version([other(r) for r in reversed(RECORDS)]) == version(RECORDS)


def test_it_is_known_when_the_records_have_been_read_once() -> None:
    listed = Listed(RECORDS)
    content = Content(listed, CATEGORIES)
    assert list(content) == RECORDS and [r.job.id for r in content.split("val")] == [3]
    assert content.content_hash == version(RECORDS) and listed.read == 1


def test_an_image_that_no_mark_names_is_read(tmp_path: Path) -> None:
    file = tmp_path / "x.png"
    file.write_bytes(b"one")
    unnamed = replace(RECORDS[0], image_sha256="", image_path=file)
    first = version([unnamed])
    file.write_bytes(b"other")
    assert version([unnamed]) != first
