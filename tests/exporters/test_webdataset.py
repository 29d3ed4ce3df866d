"""The export, read by `webdataset`, by `datasets` and by tar: all of them without a connection."""

import io
import json
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import webdataset
from drawn import HEIGHT, HOSTILE, INFO, SHAPES, WIDTH, ListedRecords, contents, drawn, export, verified
from PIL import Image
from pycocotools import mask as coco_mask

from synthgen.backends import Request
from synthgen.exporters.webdataset import Backend, Config
from synthgen.store.run import Run

# webdataset 1.0 leaves the files open that it has read.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <_io.FileIO:pytest.PytestUnraisableExceptionWarning"
)
CATEGORIES = (replace(INFO.categories[0], own_id=90), *INFO.categories[1:])
INFO_90 = replace(INFO, categories=CATEGORIES)
OBJECTS = [
    *[[] for _ in range(6)],  # `datasets` looks at five of them
    [(1, "ring"), (2, "two parts"), (3, "nested"), (4, "pixel", True)],
    [(4, "border"), (1, "empty"), (2, "whole")],
    [(2, "diagonal")],
]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> ListedRecords:
    """Images for training, and one, the last but one, of another split; the third split has none."""
    splits = ["train"] * 7 + ["val", "train"]
    return drawn(tmp_path_factory.mktemp("images"), *zip(splits, OBJECTS, strict=True))


def backend(**options: Any) -> Backend:
    return Backend(Config(use="webdataset", **options), CATEGORIES)


def require_labels(labels: dict[str, Any], number: int) -> None:
    """Whether the JSON of an image holds what was drawn."""
    assert labels["image_id"] == number and labels["seed"] == 2**62 + number
    assert (labels["width"], labels["height"]) == (WIDTH, HEIGHT)
    assert labels["prompt"] == f"a cup on {HOSTILE}" and labels["slots"] == {"place": HOSTILE}
    assert labels["measures"] == {"sharpness": 123.456789}
    assert len(labels["annotations"]) == len(OBJECTS[number - 1])
    for found, (category, shape, *ignore) in zip(labels["annotations"], OBJECTS[number - 1], strict=True):
        assert found["category_id"] == {1: 90}.get(category, category)
        assert found["iscrowd"] == int(bool(ignore))
        assert found["scores"] == {"predicted_iou": float(np.float32(0.9)), "clip": None}
        mask = coco_mask.decode(found["segmentation"]).astype(bool)
        assert (mask == SHAPES[shape]).all() and found["area"] == mask.sum()
        assert not mask.any() or found["bbox"] == coco_mask.toBbox(found["segmentation"]).tolist()


def test_webdataset_reads_it(records: ListedRecords, tmp_path: Path) -> None:
    assert export(backend(), records, tmp_path / "tars", INFO_90) == []
    for split in ("train", "val"):
        tars = sorted(map(str, (tmp_path / "tars").glob(f"{split}-*.tar")))
        samples = list(webdataset.WebDataset(tars, shardshuffle=False).decode("rgb8"))
        assert [int(sample["__key__"]) for sample in samples] == [record.job.id for record in records.split(split)]
        for sample, record in zip(samples, records.split(split), strict=True):
            assert (sample["png"] == np.asarray(Image.open(record.image_path))).all()
            require_labels(sample["json"], record.job.id)
            for found, (category, *_) in zip(sample["json"]["annotations"], OBJECTS[record.job.id - 1], strict=True):
                assert found["category"] == CATEGORIES[category - 1].name


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_loads_all_splits_with_types(records: ListedRecords, tmp_path: Path, streaming: bool) -> None:
    datasets.disable_progress_bars()
    root = tmp_path / "tars"
    export(backend(max_shard_bytes=10_000), records, root, INFO_90)
    loaded = datasets.load_dataset(str(root), cache_dir=str(tmp_path / "cache"), streaming=streaming)
    assert list(loaded) == ["train", "val"]
    for split in loaded:
        rows = list(loaded[split])
        assert [row["json"]["image_id"] for row in rows] == [record.job.id for record in records.split(split)]
        for row, record in zip(rows, records.split(split), strict=True):
            assert (np.asarray(row["png"]) == np.asarray(Image.open(record.image_path))).all()
            require_labels(row["json"], record.job.id)
            classes = [found["category"] for found in row["json"]["annotations"]]
            assert classes == [category - 1 for category, *_ in OBJECTS[record.job.id - 1]]
    label = loaded["train"].features["json"]["annotations"].feature["category"]
    assert label.names == [category.name for category in CATEGORIES]


def test_tars_are_cut_by_size_and_the_index_counts_them(records: ListedRecords, tmp_path: Path) -> None:
    export(backend(max_shard_bytes=10_000), records, tmp_path / "tars", INFO_90)
    index = json.loads((tmp_path / "tars" / "dataset.json").read_bytes())
    assert index["content_hash"] == records.content_hash and index["name"] == "rooms"
    assert index["categories"][0] == {"id": 90, "name": "cup", "supercategory": ""}
    assert list(index["shards"]) == ["train", "val", "test"] and index["shards"]["test"] == []
    for split in ("train", "val"):
        for number, shard in enumerate(index["shards"][split]):
            assert shard["url"] == f"{split}-{number:06d}.tar"
            file = tmp_path / "tars" / shard["url"]
            assert file.stat().st_size == shard["bytes"] <= 10_000
            with tarfile.open(file) as tar:
                members = tar.getmembers()
                labels = [json.load(tar.extractfile(m)) for m in members if m.name.endswith(".json")]  # type: ignore[arg-type]
            assert len(members) == 2 * shard["nsamples"] == 2 * len(labels)
            assert sum(len(one["annotations"]) for one in labels) == shard["annotations"]
            assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}
    assert len(index["shards"]["train"]) > 1
    # A tar takes at least one image, however small it has to be.
    export(backend(max_shard_bytes=1), records, tmp_path / "single", INFO_90)
    assert len(list((tmp_path / "single").glob("*.tar"))) == 9
    done = subprocess.run(
        ["tar", "-tf", tmp_path / "single" / "val-000000.tar"], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["000000000008.png", "000000000008.json"] and done.stderr == ""


def test_equal_records_give_equal_bytes(records: ListedRecords, tmp_path: Path) -> None:
    for name in ("a", "b"):
        export(backend(), records, tmp_path / name / "tars", INFO_90)
    assert contents(tmp_path / "a" / "tars") == contents(tmp_path / "b" / "tars")


@pytest.mark.parametrize(("encoding", "form", "key"), [("jpeg", "JPEG", "jpg"), ("webp", "WEBP", "webp")])
def test_images_that_are_encoded_again(
    records: ListedRecords, tmp_path: Path, encoding: str, form: str, key: str
) -> None:
    exporter = backend(images=encoding)
    export(exporter, records, tmp_path / "tars", INFO_90)
    (sample,) = webdataset.WebDataset(str(tmp_path / "tars" / "val-000000.tar"), shardshuffle=False)
    assert Image.open(io.BytesIO(sample[key])).format == form
    assert verified(exporter, records, tmp_path / "tars") == []
    loaded = datasets.load_dataset(str(tmp_path / "tars"), cache_dir=str(tmp_path / "cache"), split="val")
    assert loaded[0][key].size == (WIDTH, HEIGHT)


def test_images_that_are_not_accepted_say_so(tmp_path: Path) -> None:
    first, second = drawn(tmp_path / "images", ("train", []), ("train", [(1, "disc")]))
    records = ListedRecords([first, replace(second, verdict="rejected", reasons=("sharpness",))])
    export(backend(), records, tmp_path / "tars", INFO_90)
    samples = list(webdataset.WebDataset(str(tmp_path / "tars" / "train-000000.tar"), shardshuffle=False).decode())
    assert "verdict" not in samples[0]["json"]
    assert samples[1]["json"]["verdict"] == "rejected" and samples[1]["json"]["reasons"] == ["sharpness"]
    loaded = datasets.load_dataset(str(tmp_path / "tars"), cache_dir=str(tmp_path / "cache"), split="train")
    assert [row["verdict"] for row in loaded["json"]] == [None, "rejected"]


def test_splits_whose_names_begin_alike(tmp_path: Path) -> None:
    info = replace(INFO_90, splits=("hard", "hard-test"))
    records = drawn(tmp_path / "images", ("hard", [(1, "disc")]), ("hard-test", []))
    export(backend(), records, tmp_path / "tars", info)
    loaded = datasets.load_dataset(str(tmp_path / "tars"), cache_dir=str(tmp_path / "cache"))
    assert {split: [row["image_id"] for row in loaded[split]["json"]] for split in loaded} == {
        "hard": [1],
        "hard_test": [2],
    }
    (problem,) = backend().check(Request(48, 64, True, frozenset(), splits=("a-b", "a_b")))
    assert problem.field == "splits"


def test_a_dataset_without_images(tmp_path: Path) -> None:
    nothing = ListedRecords([])
    export(backend(), nothing, tmp_path / "tars", INFO_90)
    assert list(contents(tmp_path / "tars")) == ["README.md", "dataset.json"]
    assert verified(backend(), nothing, tmp_path / "tars") == []


Members = list[tuple[tarfile.TarInfo, bytes]]


def rewrite(change: Callable[[Members], Any]) -> Callable[[Path], None]:
    """Changes the members of a tar."""

    def edit(file: Path) -> None:
        with tarfile.open(file) as tar:
            members = [(member, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
        change(members)
        with tarfile.open(file, "w", format=tarfile.USTAR_FORMAT) as tar:
            for member, data in members:
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))

    return edit


def labels(number: int, old: bytes, new: bytes) -> Callable[[Path], None]:
    def change(members: Members) -> None:
        assert old in members[2 * number + 1][1]
        members[2 * number + 1] = (members[2 * number + 1][0], members[2 * number + 1][1].replace(old, new, 1))

    return rewrite(change)


def link(members: Members) -> None:
    members[0] = (tarfile.TarInfo("000000000001.png"), b"")
    members[0][0].type, members[0][0].linkname = tarfile.SYMTYPE, "/etc/passwd"


PNG = io.BytesIO()
Image.new("RGB", (WIDTH, HEIGHT)).save(PNG, "PNG")
EDITED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "an image is gone": (
        rewrite(lambda members: members.pop(0)), "has 000000000001.json where 000000000001.png should be",
    ),
    "the last image is gone": (
        rewrite(lambda members: members.__delitem__(slice(-2, None))),
        "has no further member where 000000000009.png should be",
    ),
    "an image is there twice": (
        rewrite(lambda members: members.append(members[-2])), "has 000000000009.png besides the images",
    ),
    "an image is another one": (
        rewrite(lambda members: members.__setitem__(0, (members[0][0], PNG.getvalue()))),
        "has another image 1 than was made",
    ),
    "a member is a link": (rewrite(link), "has 000000000001.png, which is no file"),
    "a label is of another class": (
        labels(6, b'"category_id":90', b'"category_id":2'), "image 7: annotations.0.category_id is 2, expected 90",
    ),
    "a label is gone": (labels(7, b'"annotations":[{', b'"x":[{'), "image 9: its row is {"),
    "labels are no JSON": (labels(7, b"{", b""), "image 9: its line is no JSON"),
    "it is cut off": (lambda file: file.write_bytes(file.read_bytes()[:700]), "unexpected end of data"),
    "it is no tar": (lambda file: file.write_bytes(b"x" * 2000), "invalid header"),
}  # fmt: skip


@pytest.mark.parametrize("what", EDITED)
def test_what_was_edited_is_named(records: ListedRecords, tmp_path: Path, what: str) -> None:
    export(backend(), records, tmp_path / "tars", INFO_90)
    assert verified(backend(), records, tmp_path / "tars") == []
    edit, said = EDITED[what]
    edit(tmp_path / "tars" / "train-000000.tar")
    ((name, told),) = verified(backend(), records, tmp_path / "tars")
    assert name == "train-000000.tar" and told.startswith(said)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda index: index["shards"]["train"][0].update(nsamples=3), "has 3 at shards.train.0.nsamples, expected 8"),
        (lambda index: index.update(content_hash="0"), "has '0' at content_hash, expected "),
        (lambda index: index["categories"].pop(), "has [{"),
        (lambda index: index.pop("shards"), "is no index of tars"),
        (lambda index: index.update(shards=[]), "is no index of tars"),
    ],
)
def test_an_edited_index_is_named(
    records: ListedRecords, tmp_path: Path, edit: Callable[[Any], Any], said: str
) -> None:
    export(backend(), records, tmp_path / "tars", INFO_90)
    file = tmp_path / "tars" / "dataset.json"
    edit(index := json.loads(file.read_bytes()))
    file.write_text(json.dumps(index))
    ((name, told),) = verified(backend(), records, tmp_path / "tars")
    assert name == "dataset.json" and told.startswith(said)


def test_files_that_are_not_on_the_list_are_named(records: ListedRecords, tmp_path: Path) -> None:
    export(backend(), records, tmp_path / "tars", INFO_90)
    list_file = Run(tmp_path).paths.export_list("tars")
    lines = list_file.read_bytes().splitlines(keepends=True)
    list_file.write_bytes(b"".join(line for line in lines if b"train-" in line))
    assert [name for name, _ in verified(backend(), records, tmp_path / "tars")] == [
        "README.md", "dataset.json", "val-000000.tar",
    ]  # fmt: skip
