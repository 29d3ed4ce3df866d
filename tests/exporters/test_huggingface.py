"""The export, read by `datasets`, pyarrow and pandas: all of them without a connection."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import yaml
from drawn import HEIGHT, HOSTILE, INFO, SHAPES, WIDTH, ListedRecords, contents, drawn, export, verified
from PIL import Image
from pycocotools import mask as coco_mask
from pydantic import ValidationError

from synthgen.backends import Request
from synthgen.exporters import _dataset_writers, huggingface
from synthgen.exporters._dataset_card import merge_cards
from synthgen.exporters.huggingface import Backend, Config

NAMES = [category.name for category in INFO.categories]
LAYOUTS = pytest.mark.parametrize("layout", ["parquet", "imagefolder"])
OBJECTS = [
    [],  # first, so that nothing can be inferred from the first rows
    [(1, "ring"), (2, "two parts"), (3, "nested"), (4, "pixel", True)],
    [(4, "border"), (1, "empty"), (2, "whole")],
    [(2, "diagonal")],
    [],
]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> ListedRecords:
    """Images of two splits by turns; the third split has none."""
    splits = ["train", "val", "train", "train", "val"]
    records = drawn(tmp_path_factory.mktemp("images"), *zip(splits, OBJECTS, strict=True))
    for i in (1, 2):  # An image folder has a metadata.jsonl only if each split has a value of each score.
        first, *others = records.listed[i].annotations
        measured = replace(first, scores={**first.scores, "clip": 0.25})
        records.listed[i] = replace(records.listed[i], annotations=(measured, *others))
    return records


def backend(**options: Any) -> Backend:
    return Backend(Config(use="huggingface", **options), INFO.categories)


def load(root: Path, *, streaming: bool = False, name: str | None = None) -> Any:
    datasets.disable_progress_bars()
    cache = root.parent / f"cache-{streaming}-{name}"
    return datasets.load_dataset(str(root), name, cache_dir=str(cache), streaming=streaming)


@LAYOUTS
@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_loads_all_splits_with_types(
    records: ListedRecords, tmp_path: Path, layout: str, streaming: bool
) -> None:
    assert export(backend(layout=layout), records, tmp_path / "hub") == []  # nothing is lost
    loaded = load(tmp_path / "hub", streaming=streaming)
    assert list(loaded) == ["train", "val"]
    for split in loaded:
        features = loaded[split].features
        assert isinstance(features["image"], datasets.Image)
        assert features["objects"]["category"].feature.names == NAMES
        assert features["objects"]["bbox"] == datasets.List(datasets.List(datasets.Value("float64"), length=4))
        assert features["seed"] == datasets.Value("int64") and features["measures"]["sharpness"].dtype == "float64"
        rows = list(loaded[split])
        assert [row["image_id"] for row in rows] == [record.job.id for record in records.split(split)]
        for row, record in zip(rows, records.split(split), strict=True):
            assert (np.asarray(row["image"]) == np.asarray(Image.open(record.image_path))).all()
            assert (row["width"], row["height"]) == (WIDTH, HEIGHT) == row["image"].size
            assert row["seed"] == 2**62 + record.job.id
            assert row["prompt"] == f"a cup on {HOSTILE}" and row["negative_prompt"] == "blurry"
            assert row["slots"] == {"place": HOSTILE}
            assert row["measures"] == {"sharpness": 123.456789}
            objects, expected = row["objects"], OBJECTS[record.job.id - 1]
            assert [NAMES[n] for n in objects["category"]] == [NAMES[number - 1] for number, *_ in expected]
            assert objects["iscrowd"] == [int(bool(ignore)) for _, _, *ignore in expected]
            assert objects["id"] == [a.id for a in record.annotations]
            for number, scores in enumerate(objects["scores"]):
                assert scores["predicted_iou"] == float(np.float32(0.9))
                if number == 0 and record.job.id in {2, 3}:
                    assert scores["clip"] == 0.25
                else:
                    assert scores["clip"] is None if layout == "imagefolder" else np.isnan(scores["clip"])
            assert len(objects["scores"]) == len(expected)
            for (_, shape, *_), rle, area, box in zip(
                expected, objects["segmentation"], objects["area"], objects["bbox"], strict=True
            ):
                mask = coco_mask.decode(rle).astype(bool)
                assert (mask == SHAPES[shape]).all() and area == mask.sum()
                if area:
                    assert box == coco_mask.toBbox(rle).tolist()


def test_pyarrow_and_pandas_read_the_files(records: ListedRecords, tmp_path: Path) -> None:
    export(backend(), records, tmp_path / "hub")
    files = sorted((tmp_path / "hub" / "data").iterdir())
    assert [file.name for file in files] == ["train-00000-of-00001.parquet", "val-00000-of-00001.parquet"]
    frame = pd.read_parquet(files[0])
    assert frame["image_id"].tolist() == [1, 3, 4]
    assert Image.open(io.BytesIO(frame["image"][1]["bytes"])).size == (WIDTH, HEIGHT)
    assert frame["image"][1]["path"] == "000000000003.png"
    assert frame["objects"][1]["bbox"][0].tolist() == [0, 0, 3, HEIGHT]
    assert pyarrow.dataset.dataset(files).to_table(columns=["image_id"])["image_id"].to_pylist() == [1, 3, 4, 2, 5]


def test_types_are_in_the_files_without_the_card(records: ListedRecords, tmp_path: Path) -> None:
    export(backend(), records, tmp_path / "hub")
    (tmp_path / "hub" / "README.md").unlink()
    loaded = load(tmp_path / "hub")
    assert set(loaded) == {"train", "val"} or set(loaded) == {"train", "validation"}
    assert loaded["train"].features["objects"]["category"].feature.names == NAMES


def test_shards_and_row_groups_are_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = drawn(tmp_path / "images", *(("train", [(1, "disc")]) for _ in range(11)))
    sizes = [record.image_path.stat().st_size for record in records]
    monkeypatch.setattr(_dataset_writers, "MAX_ROWS", 3)
    export(backend(max_shard_bytes=5 * max(sizes)), records, tmp_path / "hub")
    files = sorted((tmp_path / "hub" / "data").iterdir())
    assert [file.name for file in files] == [f"train-{i:05d}-of-{len(files):05d}.parquet" for i in range(len(files))]
    read = [pq.read_metadata(file) for file in files]
    assert [found.num_rows for found in read] == [5, 5, 1]
    assert [[found.row_group(i).num_rows for i in range(found.num_row_groups)] for found in read] == [
        [3, 2],
        [3, 2],
        [1],
    ]
    assert (
        read[0].row_group(0).column(0).has_offset_index and read[0].row_group(0).column(0).compression == "UNCOMPRESSED"
    )
    assert load(tmp_path / "hub")["train"]["image_id"][:] == list(range(1, 12))
    assert verified(backend(max_shard_bytes=5 * max(sizes)), records, tmp_path / "hub") == []
    # A row group ends when its images have many bytes, too.
    monkeypatch.setattr(huggingface, "GROUP_BYTES", 2 * min(sizes))
    export(backend(), records, tmp_path / "again")
    found = pq.read_metadata(tmp_path / "again" / "data" / "train-00000-of-00001.parquet")
    assert max(found.row_group(i).num_rows for i in range(found.num_row_groups)) == 2


@LAYOUTS
@pytest.mark.parametrize(("encoding", "form"), [("jpeg", "JPEG"), ("webp", "WEBP")])
def test_images_that_are_encoded_again(
    records: ListedRecords, tmp_path: Path, layout: str, encoding: str, form: str
) -> None:
    exporter = backend(layout=layout, images=encoding)
    export(exporter, records, tmp_path / "hub")
    image = load(tmp_path / "hub")["train"].cast_column("image", datasets.Image(decode=False))[1]["image"]
    decoded = Image.open(io.BytesIO(image["bytes"]) if image["bytes"] else image["path"])
    assert decoded.format == form and abs(int(np.asarray(decoded).mean()) - 60) <= 3
    assert image["path"].endswith(f"000000000003{exporter.config.image_ending}")
    assert verified(exporter, records, tmp_path / "hub") == []


@LAYOUTS
def test_equal_records_give_equal_bytes(records: ListedRecords, tmp_path: Path, layout: str) -> None:
    for name in ("a", "b"):
        export(backend(layout=layout), records, tmp_path / name / "hub")
    assert contents(tmp_path / "a" / "hub") == contents(tmp_path / "b" / "hub")


def test_the_card(records: ListedRecords, tmp_path: Path) -> None:
    open_rail = ("CreativeML Open RAIL-M", "https://example.org/licence")
    models = (("me/diffusion", *open_rail), ("me/sam", *open_rail))
    info = replace(INFO, name="--- rooms: \n---\n # x", subset="Only 1 class.", models=models)
    export(backend(), records, tmp_path / "hub", info)
    text = (tmp_path / "hub" / "README.md").read_text(encoding="utf-8")
    assert text.count("\n---\n") == 1
    header = yaml.safe_load(text.split("\n---\n")[0])
    assert header["pretty_name"] == "--- rooms: \n---\n # x"
    assert header["license_name"] == "creativeml-open-rail-m"
    assert header["task_categories"] == ["object-detection", "image-segmentation"]
    assert "synthetic" in header["tags"] and header["size_categories"] == ["n<1K"]
    (found,) = header["dataset_info"]
    assert [(split["name"], split["num_examples"]) for split in found["splits"]] == [("train", 3), ("val", 2)]
    files = [p.stat().st_size for p in (tmp_path / "hub" / "data").iterdir()]
    assert found["download_size"] == sum(files)
    assert f"Dataset version: `{records.content_hash}`." in text and "Only 1 class." in text
    assert (
        "| 2 | ../con | 3 |  | 1 |" in text
        and "| train | 3 | 4 |" in text
        and "</script>" not in text.split("\n---\n")[1]
    )


@pytest.mark.parametrize(
    ("models", "licence"),
    [
        ([], "unknown"),
        ([("a", "MIT", ""), ("b", "MIT", "")], "mit"),
        ([("a", "MIT", ""), ("b", "Apache-2.0", "")], "mixed-see-card"),
        ([("a", "MIT", ""), ("b", "", "")], "mixed-see-card"),
    ],
)
def test_the_card_claims_no_licence_that_a_model_does_not_state(
    tmp_path: Path, models: list[tuple[str, str, str]], licence: str
) -> None:
    export(backend(), ListedRecords([]), tmp_path / "hub", replace(INFO, models=tuple(models)))
    text = (tmp_path / "hub" / "README.md").read_text(encoding="utf-8")
    header = yaml.safe_load(text.removeprefix("---\n").split("\n---\n")[0])
    assert licence in {header["license"], header.get("license_name")}
    assert ("| b | not known |  |" in text) == (("b", "", "") in models)


@LAYOUTS
def test_several_exports_in_one_repository(records: ListedRecords, tmp_path: Path, layout: str) -> None:
    """Each is a configuration of its own, with files of its own."""
    for options in ({}, {"config_name": "small", "images": "jpeg"}):
        export(backend(layout=layout, **options), records, tmp_path / options.get("config_name", "default") / "hub")
    both = tmp_path / "both"
    files = contents(tmp_path / "default" / "hub") | contents(tmp_path / "small" / "hub")
    cards = [(tmp_path / name / "hub" / "README.md").read_text(encoding="utf-8") for name in ("default", "small")]
    for name, content in {**files, "README.md": merge_cards(cards).encode()}.items():
        (both / name).parent.mkdir(parents=True, exist_ok=True)
        (both / name).write_bytes(content)
    assert datasets.get_dataset_config_names(str(both)) == ["default", "small"]
    for name, form in (("default", "PNG"), ("small", "JPEG")):
        assert load(both, name=name)["val"][0]["image"].format == form


def test_exports_that_cannot_be_in_one_repository(records: ListedRecords, tmp_path: Path) -> None:
    options: list[dict[str, Any]] = [{}, {"images": "jpeg"}, {"layout": "imagefolder", "config_name": "folder"}]
    cards = []
    for number, chosen in enumerate(options):
        export(backend(**chosen), records, tmp_path / str(number))
        cards.append((tmp_path / str(number) / "README.md").read_text(encoding="utf-8"))
    with pytest.raises(
        ValueError, match="two exports have the `config_name` 'default'; takes a different one for each"
    ):
        merge_cards(cards[:2])
    with pytest.raises(ValueError, match="takes one `layout` for all exports in a repository"):
        merge_cards(cards[1:])


def test_names_of_splits_that_datasets_does_not_take(tmp_path: Path) -> None:
    info = replace(INFO, splits=("hard-test", "all"))
    records = drawn(tmp_path / "images", ("hard-test", [(1, "disc")]), ("all", []))
    for layout in ("parquet", "imagefolder"):
        export(backend(layout=layout), records, tmp_path / layout, info)
        loaded = load(tmp_path / layout)
        assert {split: loaded[split]["image_id"][:] for split in loaded} == {"hard_test": [1], "all_": [2]}
    request = Request(48, 64, True, frozenset(), splits=("a-b", "c", "a_b"))
    (problem,) = backend().check(request)
    assert problem.field == "splits"
    assert problem.message == "got 'a-b' and 'a_b', which Hugging Face's `datasets` takes for one; takes another name"


@pytest.mark.parametrize("first", [[], [(1, "disc")]])
def test_an_image_folder_whose_splits_look_different(tmp_path: Path, first: list[Any]) -> None:
    """A split without objects; then splits of which one has no values of a score."""
    records = drawn(tmp_path / "images", ("train", [(1, "ring"), (2, "disc")]), ("val", first))
    unscored = [replace(a, scores={"clip": float("nan")}) for a in records.listed[1].annotations]
    records.listed[1] = replace(records.listed[1], annotations=tuple(unscored))
    exporter = backend(layout="imagefolder")
    export(exporter, records, tmp_path / "hub")
    assert (tmp_path / "hub" / "data" / "val" / "metadata.parquet").is_file()
    loaded = load(tmp_path / "hub")
    assert loaded["train"].features == loaded["val"].features
    assert loaded["val"][0]["objects"]["category"] == [n - 1 for n, _ in first]
    assert loaded["train"][0]["image"].size == (WIDTH, HEIGHT)
    assert verified(exporter, records, tmp_path / "hub") == []
    file = tmp_path / "hub" / "data" / "train" / "metadata.parquet"
    rewrite(lambda rows: rows[0].update(image_id=7))(file)
    said = [("data/train/metadata.parquet", "image 1: image_id is 7, expected 1")]
    assert verified(exporter, records, tmp_path / "hub") == said


def test_a_dataset_without_images(tmp_path: Path) -> None:
    nothing = ListedRecords([])
    for layout in ("parquet", "imagefolder"):
        export(backend(layout=layout), nothing, tmp_path / layout)
        assert list(contents(tmp_path / layout)) == ["README.md"]
        assert verified(backend(layout=layout), nothing, tmp_path / layout) == []


def test_images_that_are_not_accepted_say_so(tmp_path: Path) -> None:
    first, second = drawn(tmp_path / "images", ("train", []), ("train", [(1, "disc")]))
    records = ListedRecords([first, replace(second, verdict="rejected", reasons=("sharpness",))])
    export(backend(), records, tmp_path / "hub")
    rows = load(tmp_path / "hub")["train"]
    assert rows["verdict"][:] == ["accepted", "rejected"] and rows["reasons"][:] == [[], ["sharpness"]]
    assert verified(backend(), records, tmp_path / "hub") == []


@pytest.mark.parametrize("name", ["data", "", "../x", "a/b", ".x"])
def test_names_of_configurations_that_are_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="config_name"):
        Config(use="huggingface", config_name=name)


def rewrite(change: Callable[[list[dict[str, Any]]], Any]) -> Callable[[Path], None]:
    """Changes the rows of a file."""

    def edit(file: Path) -> None:
        table = pq.read_table(file)
        change(rows := table.to_pylist())
        pq.write_table(pa.Table.from_pylist(rows, table.schema), file)

    return edit


def other_types(file: Path) -> None:
    pq.write_table(pq.read_table(file).replace_schema_metadata(None), file)


OTHER_PNG = io.BytesIO()
Image.new("RGB", (WIDTH, HEIGHT)).save(OTHER_PNG, "PNG")
EDITED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "an image is gone": (rewrite(lambda rows: rows.pop()), "misses image 4"),
    "an image is there twice": (rewrite(lambda rows: rows.append(rows[-1])), "has more rows than there are images"),
    "a label is gone": (
        rewrite(lambda rows: rows[1]["objects"]["id"].pop()), "image 3: objects.id is [5, 6], expected [5, 6, 7]",
    ),
    "a label is of another class": (
        rewrite(lambda rows: rows[1]["objects"]["category"].__setitem__(0, 0)),
        "image 3: objects.category.0 is 0, expected 3",
    ),
    "a label has another mask": (
        rewrite(lambda rows: rows[2]["objects"]["segmentation"][0].update(counts="0")),
        "image 4: objects.segmentation.0.counts is '0', expected ",
    ),
    "an image is another one": (
        rewrite(lambda rows: rows[0]["image"].update(bytes=OTHER_PNG.getvalue())), "has another image 1 than was made",
    ),
    "an image has another name": (
        rewrite(lambda rows: rows[0]["image"].update(path="x")), "image 1: image is 'x', expected '000000000001.png'",
    ),
    "an image is null": (
        rewrite(lambda rows: rows[0].update(image=None)), "image 1: image is None, expected '000000000001.png'",
    ),
    "types are gone": (other_types, "has other columns or types than an export of these records"),
    "it is cut off": (lambda file: file.write_bytes(file.read_bytes()[:-9]), "cannot be read: "),
}  # fmt: skip


@pytest.mark.parametrize("what", EDITED)
def test_what_was_edited_is_named(records: ListedRecords, tmp_path: Path, what: str) -> None:
    exporter = backend()
    export(exporter, records, tmp_path / "hub")
    assert verified(exporter, records, tmp_path / "hub") == []
    edit, said = EDITED[what]
    edit(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet")
    ((name, told),) = verified(exporter, records, tmp_path / "hub")
    assert name == "data/train-00000-of-00001.parquet" and told.startswith(said)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b'"area":', b'"aera":', "image 1: objects is {"),
        (b'"iscrowd":[0,0', b'"iscrowd":[1,0', "image 3: objects.iscrowd.0 is 1, expected 0"),
        (b'{"file_name"', b"{", "image 1: its line is no JSON: "),
        (b"\n", b"\n\n", "image 3: its line is no JSON: "),
    ],
)
def test_an_edited_line_of_an_image_folder_is_named(
    records: ListedRecords, tmp_path: Path, old: bytes, new: bytes, said: str
) -> None:
    exporter = backend(layout="imagefolder")
    export(exporter, records, tmp_path / "hub")
    assert verified(exporter, records, tmp_path / "hub") == []
    file = tmp_path / "hub" / "data" / "train" / "metadata.jsonl"
    file.write_bytes(file.read_bytes().replace(old, new, 1))
    ((name, told),) = verified(exporter, records, tmp_path / "hub")
    assert name == "data/train/metadata.jsonl" and told.startswith(said)


@LAYOUTS
def test_files_that_are_not_on_the_list_are_named(records: ListedRecords, tmp_path: Path, layout: str) -> None:
    exporter = backend(layout=layout)
    names = export_without(exporter, records, tmp_path / "hub", "README.md", "val", "000000000003")
    assert verified(exporter, records, tmp_path / "hub") == names


def export_without(exporter: Backend, records: ListedRecords, root: Path, *parts: str) -> list[tuple[str, str]]:
    """Exports, takes files off the list, and says what is to be found."""
    from synthgen.store.run import Run

    export(exporter, records, root)
    list_file = Run(root.parent).paths.export_list(root.name)
    lines = list_file.read_bytes().splitlines(keepends=True)
    list_file.write_bytes(b"".join(line for line in lines if not any(part.encode() in line for part in parts)))
    missing = "is not among the exported files"
    if exporter.config.layout == "parquet":
        return [("README.md", missing), ("data/val-00000-of-00001.parquet", missing)]
    image = f"has image 3, whose file data/train/000000000003.png {missing}"
    return [("README.md", missing), ("data/train/metadata.jsonl", image), ("data/val/metadata.jsonl", missing)]


def test_images_may_have_other_bytes_but_no_other_pixels(records: ListedRecords, tmp_path: Path) -> None:
    """Such as signed ones; or the checksum is not known."""
    unknown = ListedRecords([replace(record, image_sha256="") for record in records])
    export(backend(), unknown, tmp_path / "hub")
    assert verified(backend(), unknown, tmp_path / "hub") == []

    def encode_again(rows: list[dict[str, Any]]) -> None:
        Image.open(io.BytesIO(rows[0]["image"]["bytes"])).save(data := io.BytesIO(), "PNG", compress_level=0)
        assert data.getvalue() != rows[0]["image"]["bytes"]
        rows[0]["image"]["bytes"] = data.getvalue()

    file = tmp_path / "hub" / "data" / "train-00000-of-00001.parquet"
    rewrite(encode_again)(file)
    assert verified(backend(), records, tmp_path / "hub") == []
    rewrite(lambda rows: rows[0]["image"].update(bytes=rows[0]["image"]["bytes"][:60]))(file)
    ((_, told),) = verified(backend(), records, tmp_path / "hub")
    assert told.startswith("image 1 cannot be read: ")
