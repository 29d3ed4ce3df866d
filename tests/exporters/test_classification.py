"""Crops and images in folders of classes, read as trainers read them."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import cv2
import datasets
import numpy as np
import pytest
from drawn import HEIGHT, HOSTILE, INFO, WIDTH, ListedRecords, contents, disc, drawn, export, verified
from PIL import Image
from torchvision.datasets import ImageFolder

from synthgen.base.image_metadata import Metadata
from synthgen.base.xmp import Origin
from synthgen.exporters.classification import Backend, Config
from synthgen.types import Category, DatasetInfo


@pytest.fixture
def records(tmp_path: Path) -> ListedRecords:
    """The pixels of an image tell their place: red is x, green is y, and blue is the image's number."""
    listed = drawn(
        tmp_path / "images",
        ("train", [(1, "disc"), (2, "ring"), (3, "pixel"), (1, "empty"), (4, "line", True)]),
        ("train", [(4, "two parts"), (4, "border")]),
        ("train", []),
        ("val", [(1, "whole"), (1, "pixel", True)]),
    )
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.uint8)
    for record in listed:
        cv2.imwrite(str(record.image_path), np.stack([np.full_like(x, record.job.id), y, x], -1))
    return listed


def exporter(info: DatasetInfo = INFO, **options: Any) -> Backend:
    return Backend(Config(use="classification", **options), info.categories)


def folders(root: Path) -> dict[str, str]:
    return {c["folder"]: c["name"] for c in json.loads((root / "classes.json").read_bytes())["classes"]}


def test_torchvision_finds_a_crop_of_each_object_in_the_folder_of_its_class(
    records: ListedRecords, tmp_path: Path
) -> None:
    root = tmp_path / "out"
    losses = export(exporter(margin=0.5), records, root)
    train, names = ImageFolder(root / "train"), folders(root)
    found = {
        (Path(path).name, names[train.classes[number]]): np.asarray(image)
        for (image, number), (path, _) in zip(train, train.samples, strict=True)
    }
    # Where the crops begin and end: the box with half of its size on each side, within the image.
    expected = {
        ("000000000001_000.png", "cup"): (0, 0, 36, 36),  # the box is 4, 4, 25, 25
        ("000000000001_001.png", HOSTILE): (13, 0, 64, 48),  # 29, 9, 60, 40
        ("000000000001_002.png", "../con"): (62, 46, 64, 48),  # 63, 47, 64, 48
        ("000000000002_000.png", "CUP 'x'"): (0, 0, 64, 48),  # 2, 3, 62, 45
        ("000000000002_001.png", "CUP 'x'"): (0, 0, 5, 48),  # 0, 0, 3, 48
    }
    assert found.keys() == expected.keys()
    for key, (x0, y0, x1, y1) in expected.items():
        crop = found[key]
        assert crop.shape == (y1 - y0, x1 - x0, 3)
        assert crop[0, 0].tolist() == [x0, y0, int(key[0][:12])]
        assert crop[-1, -1].tolist() == [x1 - 1, y1 - 1, int(key[0][:12])]
    assert losses == [
        "regions to be ignored have no crop, 2 in all",
        "1 of 7 objects have no crop, since their masks are empty",
        "not every split has files of all 4 classes (val lacks 3), and torchvision's `ImageFolder` numbers the folders "
        "of each split by itself; take the numbers from one of them",
    ]


def test_without_a_margin_a_crop_is_the_box(records: ListedRecords, tmp_path: Path) -> None:
    export(exporter(margin=0), records, tmp_path / "out")
    crop = cv2.imread(str(tmp_path / "out" / "train" / "cup" / "000000000001_000.png"))
    assert crop.shape == (21, 21, 3) and crop[0, 0].tolist() == [1, 4, 4]


def test_whole_images_of_one_class(records: ListedRecords, tmp_path: Path) -> None:
    root = tmp_path / "out"
    losses = export(exporter(of="images"), records, root)
    images = {name for name in contents(root) if name.endswith(".png")}
    assert images == {"train/CUP %27x%27/000000000002.png", "val/cup/000000000004.png"}
    assert all((root / f"{name}").samefile(records.listed[int(name[-5]) - 1].image_path) for name in images)
    assert losses[:2] == [
        "1 of 4 images are left out, since their labels are of several classes, or of none that is sure",
        "1 of 4 images are left out, since they have no label",
    ]
    assert len(losses) == 3
    plain = drawn(tmp_path / "plain", ("train", [(1, "disc"), (1, "ring")]), ("val", [(1, "disc")]))
    assert export(exporter(of="images"), plain, tmp_path / "more") == []


def test_what_may_be_of_another_class_is_no_image_of_one_class(tmp_path: Path) -> None:
    doubtful = drawn(
        tmp_path / "images",
        ("train", [(1, "disc"), (2, "line", True)]),  # another object may be in the region to be ignored
        ("train", [(1, "disc"), (2, "empty")]),  # it was not found, and may be there
        ("train", [(1, "disc", True)]),
        ("train", [(1, "empty")]),
    )
    (loss,) = export(exporter(of="images"), doubtful, tmp_path / "out")
    assert loss.startswith("4 of 4 images are left out, since their labels are of several classes, or of none")
    assert not list((tmp_path / "out").rglob("*.png"))


NAMES = [
    "..", ".", "a/b", "con", "Con.txt", "COM1", "test", "test tube", "val", "_hidden", "__pycache__", ".git", "end.",
    "a[1]*?", "100%", "a%2Fb", "Straße", "STRASSE", "é", "日本 語", "x" * 200, "😀" * 200,
    "a:b|c<d>", "it's", 'q"q', "~",
]  # fmt: skip


def test_datasets_finds_every_class_and_split_whatever_their_names_are(tmp_path: Path) -> None:
    """Without the README, `datasets` takes the folders `test` and `val` of classes for splits."""
    categories = tuple(Category(i, name) for i, name in enumerate(NAMES, 1))
    info = DatasetInfo("names", "", categories, ("train", "hard-val", "test"), ())
    objects = [(c.id, disc(10 + c.id, 10, 4)) for c in categories]
    root = tmp_path / "out"
    assert not export(exporter(info), drawn(tmp_path / "i", ("train", objects), ("hard-val", objects)), root, info)
    names = folders(root)
    assert sorted(names.values()) == sorted(NAMES)
    assert len({name.casefold() for name in names}) == len(NAMES)  # file systems that ignore case keep them apart
    for folder, name in names.items():
        assert len(folder.encode()) <= 255 and not set(folder) & set('/\\:*?"<>|') and folder.isprintable()
        assert folder[0] not in "._" and folder[-1] not in ". "
        assert folder.partition(".")[0].lower() not in {"con", "com1"}
        if name not in {"STRASSE", "😀" * 200}:  # the same as another without case; too long
            assert unquote(folder) == name
    loaded = datasets.load_dataset(str(root), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": len(NAMES), "hard_val": len(NAMES)}
    features = loaded["train"].features["label"]
    assert sorted(features.names) == sorted(names)
    numbers = {Path(row["image"].filename).parent.name: row["label"] for row in loaded["hard_val"]}
    assert {folder: features.int2str(number) for folder, number in numbers.items()} == {n: n for n in names}


def test_an_export_without_a_file_has_no_split(tmp_path: Path) -> None:
    nothing = drawn(tmp_path / "images", ("train", []))
    assert export(exporter(), nothing, tmp_path / "out") == []
    assert contents(tmp_path / "out").keys() == {"README.md", "classes.json"}


@pytest.mark.parametrize("of", ["objects", "images"])
@pytest.mark.parametrize(("images", "ending"), [("link", ".png"), ("jpeg", ".jpg"), ("webp", ".webp")])
def test_the_same_bytes_again_and_read_back(
    records: ListedRecords, tmp_path: Path, of: str, images: str, ending: str
) -> None:
    made = exporter(of=of, images=images)
    for root in (tmp_path / "a", tmp_path / "b"):
        export(made, records, root)
        assert verified(made, records, root) == []
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    files = [name for name in contents(tmp_path / "a") if name.endswith(ending)]
    assert len(files) == (6 if of == "objects" else 2)
    for name in files:
        pixels = cv2.imread(str(tmp_path / "a" / name))
        assert abs(pixels[..., 0].astype(int).mean() - int(Path(name).name[:12])) < 4


def test_crops_keep_what_is_transparent(tmp_path: Path) -> None:
    records = drawn(tmp_path / "images", ("train", [(1, "disc")]))
    pixels = np.dstack([np.full((HEIGHT, WIDTH, 3), 7, np.uint8), np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)])
    cv2.imwrite(str(records.listed[0].image_path), pixels.astype(np.uint8))
    export(exporter(margin=0), records, tmp_path / "out")
    crop = cv2.imread(str(tmp_path / "out" / "train" / "cup" / "000000000001_000.png"), cv2.IMREAD_UNCHANGED)
    assert (crop == pixels.astype(np.uint8)[4:25, 4:25]).all()


@pytest.mark.parametrize("images", ["link", "jpeg", "webp"])
def test_crops_carry_the_marks_of_their_images(records: ListedRecords, tmp_path: Path, images: str) -> None:
    origin = Origin(system="a model", prompt="a cup")
    for record in records:
        marked = Metadata(xmp=origin.packet()).put_into(record.image_path.read_bytes())
        record.image_path.write_bytes(marked)
    made = exporter(images=images)
    export(made, records, tmp_path / "out")
    crops = [path for path in (tmp_path / "out").rglob("*_0*") if path.is_file()]
    assert len(crops) == 6
    for path in crops:
        with Image.open(path) as image:
            image.load()
            assert Origin.of(image.info.get("xmp") or image.info["XML:com.adobe.xmp"].encode()) == origin
    assert verified(made, records, tmp_path / "out") == []


def test_what_was_edited_is_named(records: ListedRecords, tmp_path: Path) -> None:
    made, root = exporter(), tmp_path / "out"
    export(made, records, root)
    crop, whole = root / "train" / "cup" / "000000000001_000.png", root / "val" / "cup" / "000000000004_000.png"
    pixels = cv2.imread(str(crop))
    pixels[0, 0] = 255
    cv2.imwrite(str(crop), pixels)
    whole.write_bytes(b"x")
    classes = root / "classes.json"
    classes.write_bytes(classes.read_bytes().replace(b'"cup"', b'"mug"'))

    def told() -> dict[str, str]:
        return {str(root / name): said for name, said in verified(made, records, root)}

    assert told() == {
        str(crop): "does not show object 0 of image 1",
        str(whole): "cannot be decoded",
        str(classes): "does not have the classes of the spec",
    }
    cv2.imwrite(str(crop), pixels[1:])
    source = records.listed[0].image_path
    kept = source.read_bytes()
    source.write_bytes(b"x")
    assert str(crop) not in told()  # what is damaged is the run's image, which the run itself finds
    source.unlink()
    assert str(crop) not in told()
    source.write_bytes(kept)
    classes.write_bytes(b"[")
    assert told()[str(crop)] == "has 27x26 px, expected 27x27"
    assert told()[str(classes)].startswith("is no JSON")
    more = drawn(tmp_path / "more", ("train", [(4, "disc")]), first=9)
    assert verified(made, more, root)[0] == (
        "train/CUP %27x%27/000000000009_000.png", "is not among the exported files, and image 9 needs it",
    )  # fmt: skip
