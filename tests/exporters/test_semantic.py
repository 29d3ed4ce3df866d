"""Masks of indices, read as trainers read them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn import HEIGHT, HOSTILE, INFO, SHAPES, WIDTH, ListedRecords, contents, disc, drawn, export, verified
from PIL import Image
from readers import run_reader

from synthgen.backends import Request
from synthgen.errors import BackendError
from synthgen.exporters.semantic import Backend, Config
from synthgen.types import Category, DatasetInfo

BALL = disc(44, 10, 3)  # within the ring's edge
FOLDERS = pytest.mark.parametrize("folders", ["images/{split}", "{split}/images"])


@pytest.fixture
def records(tmp_path: Path) -> ListedRecords:
    """A ball before a ring, a region to be ignored under a disc, what has no pixel, nothing at all, and two discs of a
    class that overlap."""
    return drawn(
        tmp_path / "images",
        ("train", [(3, BALL), (2, "ring"), (1, "disc"), (4, disc(14, 14, 12), True), (1, "empty")]),
        ("train", []),
        ("val", [(4, "disc"), (4, disc(16, 14, 10))]),
    )


def exporter(info: DatasetInfo = INFO, **options: Any) -> Backend:
    return Backend(Config(use="semantic", **options), info.categories)


def expected(background: str = "class") -> dict[str, np.ndarray]:
    """By file; what was drawn last is on top."""
    first, bare = (1, 0) if background == "class" else (0, 255)
    masks = np.full((3, HEIGHT, WIDTH), bare, np.uint8)
    for number, shape, value in (
        (0, disc(14, 14, 12), 255),
        (0, SHAPES["ring"], first + 1),
        (0, SHAPES["disc"], first),
        (0, BALL, first + 2),
        (2, SHAPES["disc"] | disc(16, 14, 10), first + 3),
    ):
        masks[number][shape] = value
    return {
        f"{s}/{n:012d}.png": mask for n, (s, mask) in enumerate(zip(("train", "train", "val"), masks, strict=True), 1)
    }


@pytest.mark.parametrize("background", ["class", "ignore"])
def test_pillow_reads_indices_as_torchvision_s_datasets_do(
    records: ListedRecords, tmp_path: Path, background: str
) -> None:
    export(exporter(background=background), records, tmp_path / "out")
    for name, mask in expected(background).items():
        with (
            Image.open(tmp_path / "out" / "masks" / name) as read,
            Image.open(tmp_path / "out" / "images" / name) as of,
        ):
            assert read.mode == "P" and (np.asarray(read) == mask).all() and of.size == read.size


def test_mmsegmentation_s_reduce_zero_label_gives_the_masks_without_a_background(
    records: ListedRecords, tmp_path: Path
) -> None:
    """`LoadAnnotations`: 0 becomes 255, all others one less, and 254 becomes 255."""
    export(exporter(), records, tmp_path / "out")
    for name, mask in expected("ignore").items():
        read = np.array(Image.open(tmp_path / "out" / "masks" / name))
        read[read == 0] = 255
        read = read - 1
        read[read == 254] = 255
        assert (read == mask).all()


@pytest.mark.parametrize("background", ["class", "ignore"])
def test_classes_by_index_with_the_colours_of_the_palette(
    records: ListedRecords, tmp_path: Path, background: str
) -> None:
    own = replace(INFO.categories[0], own_id=53)
    info = replace(INFO, categories=(own, *INFO.categories[1:]), subset="Some are left out.")
    export(exporter(background=background), records, tmp_path / "out", info)
    said = json.loads((tmp_path / "out" / "classes.json").read_bytes())
    first = int(background == "class")
    assert [(c["index"], c["name"], c["id"]) for c in said["classes"][first:]] == [
        (first, "cup", 53), (first + 1, HOSTILE, 2), (first + 2, "../con", 3), (first + 3, "CUP 'x'", 4),
    ]  # fmt: skip
    assert (said["classes"][0]["name"] == "background") == (background == "class")
    assert (said["ignore_index"], said["content_hash"]) == (255, records.content_hash)
    assert said["subset"] == "Some are left out."
    colours = Image.open(tmp_path / "out" / "masks" / "val" / "000000000003.png").convert("RGB")
    for c in said["classes"]:
        shown = np.asarray(colours)[expected(background)["val/000000000003.png"] == c["index"]]
        assert (shown == c["color"]).all()
    voc = [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128]]  # of the VOC development kit
    assert [c["color"] for c in said["classes"]] == voc[: len(said["classes"])]


def test_a_class_may_be_called_background(records: ListedRecords, tmp_path: Path) -> None:
    named = zip(INFO.categories, ["background", *"abc"], strict=True)
    info = replace(INFO, categories=tuple(replace(c, name=name) for c, name in named))
    export(exporter(), records, tmp_path / "out", info)
    names = [c["name"] for c in json.loads((tmp_path / "out" / "classes.json").read_bytes())["classes"]]
    assert names == ["_background_", "background", "a", "b", "c"]


def test_what_overlaps_is_counted(records: ListedRecords, tmp_path: Path) -> None:
    """Two objects of one class lose nothing to each other; neither does a region to be ignored."""
    under = int((BALL & SHAPES["ring"]).sum())
    pixels = sum(a.area for r in records for a in r.annotations if not a.ignore)
    assert 0 < under < SHAPES["ring"].sum()
    assert export(exporter(), records, tmp_path / "out") == [
        f"masks show one label a pixel, so the smaller object is on top: {under:,} of {pixels:,} pixels of objects are "
        "under another one; 1 of 6 objects lose pixels, 0 of these all of them",
        "masks do not show 1 of 6 objects, whose masks are empty",
    ]
    apart = drawn(tmp_path / "apart", ("train", [(1, "disc"), (2, "ring"), (3, "line", True)]))
    assert export(exporter(), apart, tmp_path / "more") == []


def test_a_run_of_all_shapes(tmp_path: Path) -> None:
    for number, (name, shape) in enumerate(SHAPES.items(), 1):
        one = drawn(tmp_path / name, ("train", [(1, shape)]), first=number)
        export(exporter(), one, tmp_path / "out" / name)
        mask = np.asarray(Image.open(tmp_path / "out" / name / "masks" / "train" / f"{number:012d}.png"))
        assert (mask == shape).all(), name


def test_more_classes_than_a_mask_can_hold(records: ListedRecords, tmp_path: Path) -> None:
    request = Request(HEIGHT, WIDTH, False, frozenset())
    for background, most in (("class", 254), ("ignore", 255)):
        many = replace(INFO, categories=tuple(Category(i, f"c{i}") for i in range(1, most + 1)))
        last = drawn(tmp_path / background, ("train", [(most, "disc"), (1, "ring"), (2, "line", True)]))
        assert not list(exporter(many, background=background).check(request))
        export(exporter(many, background=background), last, tmp_path / f"out-{background}", many)
        mask = np.asarray(Image.open(next((tmp_path / f"out-{background}" / "masks").rglob("*.png"))))
        assert set(mask[SHAPES["disc"]]) == {254} and set(mask[SHAPES["line"]]) == {255}
        more = replace(many, categories=(*many.categories, Category(most + 1, "one more")))
        (problem,) = exporter(more, background=background).check(request)
        said = f"got {most + 1} classes; `semantic` takes at most {most}"
        assert problem.field == "classes" and problem.message.startswith(said)
        with pytest.raises(BackendError, match=said):
            export(exporter(more, background=background), last, tmp_path / "no", more)


DATUMARO = """
import json, sys
import numpy as np
from datumaro.components.dataset import Dataset
found = {}
for split in ("train", "val"):
    dataset = Dataset.import_from(sys.argv[1] + "/" + split, "common_semantic_segmentation")
    names = [label.name for label in dataset.categories()[next(iter(dataset.categories()))]]
    for item in dataset:
        merged = np.full(item.media.data.shape[:2], -1)
        for a in item.annotations:
            merged[np.asarray(a.image) != 0] = a.label
        found[f"{split}/{item.id}.png"] = {"names": names, "labels": merged.tolist()}
print(json.dumps(found))
"""


@pytest.mark.parametrize("background", ["class", "ignore"])
def test_datumaro_reads_the_same(records: ListedRecords, tmp_path: Path, background: str) -> None:
    export(exporter(folders="{split}/images", background=background), records, tmp_path / "out")
    found = run_reader(DATUMARO, tmp_path / "out")
    assert found.keys() == expected().keys()
    names = [*["background"] * (background == "class"), "cup", HOSTILE, "../con", "CUP 'x'", "ignored"]
    for name, mask in expected(background).items():
        assert found[name]["names"] == names
        assert (np.array(found[name]["labels"]) == np.where(mask == 255, len(names) - 1, mask)).all()


@FOLDERS
@pytest.mark.parametrize("images", ["copy", "jpeg"])
def test_the_same_bytes_again_and_read_back(records: ListedRecords, tmp_path: Path, folders: str, images: str) -> None:
    made = exporter(folders=folders, images=images, background="ignore")
    for root in (tmp_path / "a", tmp_path / "b"):
        export(made, records, root)
        assert verified(made, records, root) == []
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    endings = sorted(Path(name).suffix for name in contents(tmp_path / "a"))
    metas = 2 * (folders == "{split}/images")
    assert endings == sorted([".json"] * (1 + metas) + [".png"] * 3 + [".png" if images == "copy" else ".jpg"] * 3)


@FOLDERS
def test_what_was_edited_is_named(records: ListedRecords, tmp_path: Path, folders: str) -> None:
    made, root = exporter(folders=folders), tmp_path / "out"
    export(made, records, root)
    masks = {s: root / folders.replace("images", "masks").replace("{split}", s) for s in ("train", "val")}
    train, val = masks["train"] / "000000000001.png", masks["val"] / "000000000003.png"

    def told() -> dict[str, str]:
        return {str(root / name): said for name, said in verified(made, records, root)}

    kept = train.read_bytes()
    edited = Image.open(train)
    edited.putpixel((0, 0), 3)
    edited.save(train)
    Image.new("P", (5, 5)).save(val)
    assert told() == {
        str(train): "does not show the labels that were kept: 1 pixels of image 1 differ",
        str(val): f"has 5x5 px, expected {WIDTH}x{HEIGHT}",
    }
    Image.new("RGB", (WIDTH, HEIGHT)).save(train)
    val.write_bytes(kept[:60])
    assert told()[str(train)] == "is no mask: its pixels are of Pillow's mode RGB, expected P"
    assert told()[str(val)].startswith("is no mask: it cannot be decoded")
    train.write_bytes(kept)
    val.write_bytes(b"GIF89a")
    classes = root / "classes.json"
    classes.write_bytes(classes.read_bytes().replace(b'"cup"', b'"mug"'))
    assert told() == {str(val): "is no mask: it is no PNG", str(classes): "does not have the classes of the spec"}
    classes.write_bytes(b"{")
    assert told()[str(classes)].startswith("is no JSON")
