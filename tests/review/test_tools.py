"""Round trips through annotation tools: export, correct, import, judge, export."""

from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from xml.etree.ElementTree import Element

import hard
import numpy as np
import orjson
import pytest
from annotators import annotated_tasks, as_cvat, draw, exported_by_cvat, exported_by_label_studio, instances

from synthgen.base.brush_rle import encode_brush
from synthgen.judging.reviews import read_reviews
from synthgen.masks import encode_rle
from synthgen.pipeline.build import Build
from synthgen.pipeline.export import accepted_images
from synthgen.review.imports import import_file
from synthgen.store.run import Run

Edit = Callable[[Path, Path, bool], Path]  # export folder, where to, whether there are edits -> the corrected file
Label = tuple[int, str, str, bool]  # image id, class, RLE counts, whether it is to be ignored

RENAMED, PAINTED, REMOVED, ADDED = (1, 0), (3, 0), (4, 0), 15  # image id and instance; image 15 has no object
NEW_CLASS, NEW_MASK, NEW_OBJECT = hard.HOSTILE[0], hard.disc(30, 20, 11), hard.box(4, 5, 24, 31)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """30 images, two of each kind. Only for reading."""
    return hard.made(tmp_path_factory.mktemp("tools"), exporters=("cvat", "label_studio"), count=30)  # type: ignore[no-any-return]


@pytest.fixture
def build(made: Build, tmp_path: Path) -> Build:
    return Build.open(Run(copytree(made.run.root.parent, tmp_path / "hard") / "run-0001"))


def in_cvat(folder: Path, to: Path, has_edits: bool) -> Path:
    def edit(images: dict[str, Element]) -> None:
        if has_edits:
            of = {int(name[:12]): image for name, image in images.items()}
            instances(of[RENAMED[0]])["{}-{}".format(*RENAMED)].set("label", NEW_CLASS)
            for key, value in as_cvat(NEW_MASK).items():
                instances(of[PAINTED[0]])["{}-{}".format(*PAINTED)].set(key, str(value))
            of[REMOVED[0]].remove(instances(of[REMOVED[0]])["{}-{}".format(*REMOVED)])
            draw(of[ADDED], "mask", "cup", **as_cvat(NEW_OBJECT))

    return exported_by_cvat(folder / "annotations.xml", edit, to)


def in_label_studio(folder: Path, to: Path, has_edits: bool) -> Path:
    if not has_edits:
        to.write_bytes(orjson.dumps(annotated_tasks(folder)))
        return to
    flat = np.diff(NEW_OBJECT.reshape(-1).astype(int), prepend=0)
    runs = np.diff(np.flatnonzero(flat), prepend=0, append=NEW_OBJECT.size)
    value = {"format": "rle", "rle": encode_brush(runs), "brushlabels": ["cup"]}
    added = {"id": "x", "from_name": "mask", "type": "brushlabels", "value": value,
             "original_width": hard.WIDTH, "original_height": hard.HEIGHT}  # fmt: skip
    edits = {
        RENAMED[0]: {"rename": {"{}-{}".format(*RENAMED): NEW_CLASS}},
        PAINTED[0]: {"paint": {"{}-{}".format(*PAINTED): (NEW_MASK * 255).tolist()}},
        REMOVED[0]: {"delete": ["{}-{}".format(*REMOVED)]},
        ADDED: {"add": [added]},
    }
    return exported_by_label_studio(folder, edits, to)


TOOLS = pytest.mark.parametrize(
    ("exporter", "edit", "by", "at"),
    [
        ("cvat", in_cvat, "ann", "2026-03-01T08:00:00.500000+00:00"),
        ("label_studio", in_label_studio, "user 3", "2026-03-02T08:00:00.500000+00:00"),
    ],
)


def labels(build: Build) -> set[Label]:
    names = {category.id: category.name for category in build.spec.categories}
    return {
        (record.job.id, names[a.category_id], a.rle["counts"], a.ignore)
        for record in accepted_images(build)
        for a in record.annotations
    }


@TOOLS
def test_what_nobody_changed_changes_nothing(exporter: str, edit: Edit, by: str, at: str, build: Build) -> None:
    before = labels(build)
    folder = build.run.paths.export(exporter)
    edits = import_file(build, edit(folder, folder.parent / "corrected", False))
    assert (edits.images, edits.changed, edits.reviews) == (30, 0, ())
    assert labels(build) == before


@TOOLS
def test_exports_have_the_edits_exactly(
    exporter: str, edit: Edit, by: str, at: str, build: Build, synthgen: Callable[..., tuple[int, str, str]]
) -> None:
    before = labels(build)
    folder = build.run.paths.export(exporter)
    file = edit(folder, folder.parent / "corrected", True)
    code, out, err = synthgen("review", build.run.root, "--import", file)
    assert code == 0, err
    assert out.splitlines()[0] == "images of the file: 30, changed: 4"
    said = [review for review in read_reviews(build.run.paths.reviews).of.values() if review.queue == "import"]
    assert {(review.by, review.at) for review in said} == {(by, at)}
    assert {review.image_id for review in said} == {RENAMED[0], PAINTED[0], REMOVED[0], ADDED}

    code, _, err = synthgen("judge", build.run.root, "-q")
    assert code == 0, err
    build = Build.open(build.run)
    objects = {job.id: hard.objects_of(job.index) for shard in build.run.marks.shards() for job in build.jobs(shard)}

    def drawn(image_id: int, instance: int) -> Label:
        category_id, mask, _ = objects[image_id][instance]
        return image_id, hard.CLASSES[category_id - 1], encode_rle(mask[None])[0]["counts"], False

    renamed, painted, removed = drawn(*RENAMED), drawn(*PAINTED), drawn(*REMOVED)
    expected = before - {renamed, painted, removed}
    expected.add((renamed[0], NEW_CLASS, renamed[2], False))
    expected.add((painted[0], painted[1], encode_rle(NEW_MASK[None])[0]["counts"], False))
    expected.add((ADDED, "cup", encode_rle(NEW_OBJECT[None])[0]["counts"], False))
    assert labels(build) == expected and len(before - expected) == 3 and len(expected - before) == 3

    again = edit(build.run.paths.export(exporter), folder.parent / "again", False)
    assert import_file(build, again).reviews == ()  # The new export has the edits, and says so.
    assert import_file(build, file).reviews == ()
    assert orjson.loads(build.run.paths.quality.read_bytes())["accepted"] == 30
