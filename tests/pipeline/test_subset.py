"""Parts of a dataset, on records whose part is known by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from synthgen.backends import ImageOptions, Request
from synthgen.exporters.coco import Backend, Config
from synthgen.pipeline.subset import subset_of
from synthgen.types import Annotation, Category, DatasetInfo, Job, Record

CATEGORIES = (
    Category(1, "cup", ("beaker",), "kitchen"),
    Category(2, "mug", ("pot",), "kitchen"),
    Category(3, "chair", (), "furniture"),
)
INFO = DatasetInfo("rooms", "Rooms.", CATEGORIES, ("train", "val"), ())
# Objects of each of 40 images: all have a cup, every second a chair, every fifth a mug; the last ten are empty.
HELD = [[1, *([3] if i % 2 else []), *([2] if i % 5 == 0 else [])] if i < 30 else [] for i in range(40)]


class Listed:
    def __init__(self, records: list[Record]) -> None:
        self.records = records

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def split(self, name: str) -> Iterator[Record]:
        return (record for record in self.records if record.job.split == name)


def record(image_id: int, held: list[int]) -> Record:
    split = ("train", "val")[image_id % 4 == 0]
    layout = tuple((10 * i, 0, 10 * i + 9, 9) for i in range(len(held)))
    job = Job(image_id, 1, 1, image_id - 1, "f", split, "", "", {}, tuple(held), layout, 7, 40, 40)
    annotations = tuple(
        Annotation(100 * image_id + i, c, {"size": [40, 40], "counts": "0"}, (0, 0, 9, 9), 10 * c, False, {}, i)
        for i, c in enumerate(held)
    )
    return Record(job, Path("x.png"), annotations, {}, f"{image_id:064x}")


RECORDS = [record(i + 1, held) for i, held in enumerate(HELD)]


def part(records: list[Record] = RECORDS, info: DatasetInfo = INFO, **options: Any) -> tuple[list[Record], DatasetInfo]:
    found, said = subset_of(Listed(records), info, ImageOptions(use="coco", **options))
    both = [*found.split("train"), *found.split("val")]
    assert sorted(both, key=lambda r: r.job.id) == sorted(found, key=lambda r: r.job.id)
    return list(found), said


def objects(records: list[Record]) -> Counter[int]:
    return Counter(a.category_id for r in records for a in r.annotations if not a.ignore)


def test_without_options_nothing_is_between() -> None:
    records = Listed(RECORDS)
    assert subset_of(records, INFO, ImageOptions(use="coco", images="jpeg")) == (records, INFO)
    assert subset_of(records, INFO, object()) == (records, INFO)


def test_some_classes() -> None:
    found, info = part(classes=["chair", "cup"])
    assert [(c.id, c.name) for c in info.categories] == [(1, "cup"), (2, "chair")]
    assert info.subset == "only the classes chair, cup"
    for before, after in zip(RECORDS, found, strict=True):
        kept = [a for a in before.annotations if a.category_id != 2]
        assert [(a.id, a.instance) for a in after.annotations] == [(a.id, a.instance) for a in kept]
        assert [a.category_id for a in after.annotations] == [{1: 1, 3: 2}[a.category_id] for a in kept]
        assert len(after.job.asked) == len(after.job.layout or ()) == len(kept)


def test_classes_are_merged_renamed_and_left_out() -> None:
    found, info = part(classes={"mug": "cup", "chair": None})
    (cup,) = info.categories
    assert (cup.id, cup.name, cup.synonyms, cup.supercategory) == (1, "cup", ("beaker", "pot"), "kitchen")
    assert objects(found) == {1: 36}
    assert info.subset == "classes: mug as cup, no chair"
    found, info = part(classes={"cup": "vessel"})
    assert [c.name for c in info.categories] == ["vessel", "mug", "chair"] and objects(found) == objects(RECORDS)


def test_own_ids_stay() -> None:
    own = (Category(1, "cup", own_id=90), Category(2, "mug", own_id=7), Category(3, "chair", own_id=12))
    info = DatasetInfo("rooms", "", own, ("train", "val"), ())
    _, said = part(info=info, classes={"cup": None})
    assert [(c.id, c.exported_id) for c in said.categories] == [(1, 7), (2, 12)]
    _, said = part(info=info, classes={"mug": "cup"})
    assert [(c.id, c.exported_id) for c in said.categories] == [(1, 90), (2, 12)]


def test_small_objects_become_regions_to_be_ignored() -> None:
    found, info = part(min_area=20)
    assert all(a.ignore == (a.category_id == 1) for r in found for a in r.annotations)
    assert info.subset == "objects of fewer than 20 px as regions to be ignored"


@pytest.mark.parametrize("most", [1, 4, 8, 29, 30])
def test_no_class_has_more_than_its_most(most: int) -> None:
    found, info = part(max_per_class=most)
    counts = objects(found)
    assert max(counts.values()) <= most
    left = [r for r in RECORDS if r.annotations and r not in found]
    for r in left:  # none of them would fit
        assert any(counts[c] + n > most for c, n in Counter(a.category_id for a in r.annotations).items())
    assert [r for r in found if not r.annotations] == RECORDS[30:]
    assert info.subset == f"at most {most} objects of a class; {len(found)} of 40 images"


@pytest.mark.parametrize(("share", "empty"), [(0.0, 0), (0.1, 3), (0.25, 10), (0.9, 10)])
def test_share_of_images_without_an_object(share: float, empty: int) -> None:
    found, info = part(negatives=share)
    assert sum(not r.annotations for r in found) == empty and sum(bool(r.annotations) for r in found) == 30
    assert info.subset == f"at most {share:.4g} of the images without an object; {30 + empty} of 40 images"


def test_an_image_whose_objects_are_left_out_counts_as_empty() -> None:
    found, _ = part(classes=["chair"], negatives=0.0)
    assert len(found) == 15 and all(r.annotations for r in found)


def test_the_part_is_the_same_each_time_and_stays_when_a_run_joins() -> None:
    first, _ = part(max_per_class=12, negatives=0.2)
    assert part(list(reversed(RECORDS)), max_per_class=12, negatives=0.2)[0] == list(reversed(first))
    second = [replace(r, job=replace(r.job, id=r.job.id + 1000, run=2)) for r in RECORDS]
    for most, added in ((24, 0), (40, 10)):
        grown, _ = part([*RECORDS, *second], max_per_class=most, negatives=0.2)
        alone, _ = part(RECORDS, max_per_class=most, negatives=0.2)
        assert [r for r in grown if r.job.run == 1 and r.annotations] == [r for r in alone if r.annotations]
        assert sum(r.job.run == 2 and bool(r.annotations) for r in grown) == added


def test_a_class_that_the_spec_lacks_is_named() -> None:
    request = Request(40, 40, False, frozenset())

    def problems(classes: Any) -> list[tuple[str, str]]:
        exporter = Backend(Config(use="coco", classes=classes), CATEGORIES)
        return [(p.field, p.message) for p in exporter.check(request)]

    assert problems(["cup", "mug"]) == problems({"cup": "mug"}) == []
    takes = "takes classes of the spec: cup, mug, chair"
    assert problems(["cups"]) == [(".classes", f"got 'cups' (did you mean 'cup'?); {takes}")]
    assert problems({"sofa": None}) == [(".classes", f"got 'sofa'; {takes}")]
    (nothing,) = problems({c.name: None for c in CATEGORIES})
    assert nothing == (".classes", "leaves no class; takes a mapping that keeps one at least")


def test_a_class_of_several_is_looked_for_if_all_of_them_are() -> None:
    """Else one that was not looked for would count as one that is not there."""
    known = [replace(RECORDS[0], looked_for=frozenset(ids), dropped=frozenset({2})) for ids in ({1, 3}, {1, 2, 3})]
    found, _ = part(known, classes={"cup": "vessel", "mug": "vessel"})  # chairs are the second class now
    assert [r.looked_for for r in found] == [{2}, {1, 2}] and [r.dropped for r in found] == [{1}, {1}]
    found, _ = part(known, classes=["cup"])
    assert [r.looked_for for r in found] == [{1}, {1}] and [r.dropped for r in found] == [set(), set()]
