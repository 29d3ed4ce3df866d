"""`croissant.json`, read by mlcroissant, the library of the format's authors."""

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import mlcroissant
import numpy as np
import pytest
from PIL import Image

from synthgen.backends import backend_module, builtin
from synthgen.base.file_lists import read_entries
from synthgen.models.licences import output_licence
from synthgen.pipeline import croissant
from synthgen.pipeline.build import Build
from synthgen.pipeline.export import accepted_images, info_of, write_export
from synthgen.pipeline.licences import UsedModel
from synthgen.pipeline.responsible_ai import Making
from synthgen.spec import PublicationSpec
from synthgen.spec.options import parse_options
from synthgen.store.run import Run
from synthgen.types import Category, DatasetInfo

pytestmark = [
    pytest.mark.filterwarnings("ignore:ConjunctiveGraph is deprecated:DeprecationWarning"),  # rdflib, in mlcroissant
    pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame.reset_index is deprecated"),  # mlcroissant
]

# A dataset that nobody has published has no date of that, and an export has no other.
WARNING = 'Property "https://schema.org/datePublished" is recommended, but does not exist.'


def read(file: Path, *, is_published: bool = False) -> mlcroissant.Dataset:
    """Loads a document; fails if the library finds anything wrong with it."""
    dataset = mlcroissant.Dataset(jsonld=file)
    issues = dataset.metadata.ctx.issues
    assert not issues.errors
    assert [re.sub(r"^\[.*?\] ", "", warning) for warning in issues.warnings] == [WARNING] * (not is_published)
    return dataset


def records(dataset: mlcroissant.Dataset, name: str) -> list[dict[str, Any]]:
    """The records of a set, with texts as texts, by the names of fields within it."""
    return [
        {
            key.removeprefix(f"{name}/"): value.decode() if isinstance(value, bytes) else value
            for key, value in record.items()
        }
        for record in dataset.records(name)
    ]


def described_by(document: dict[str, Any]) -> list[tuple[str, bool]]:
    """(pattern, whether it is a single file) of each part of a distribution that is not only for a record set."""
    sets = {f"files/{records['name']}" for records in document["recordSet"]}
    parts = [part for part in document["distribution"] if part["name"] not in sets]
    return [(part.get("contentUrl") or part["includes"], "contentUrl" in part) for part in parts]


def covers(pattern: str, alone: bool, file: str) -> bool:
    """Whether a part of a distribution has a file in it: * stands for no slash."""
    parts, names = pattern.split("/"), file.split("/")
    return file == pattern if alone else len(parts) == len(names) and all(map(fnmatchcase, names, parts))


@pytest.fixture(scope="module")
def making(finished: Build) -> Making:
    return Making.of(finished.spec, [finished])


def test_coco_is_loaded_from_it(finished: Build) -> None:
    root = finished.run.root / "coco"
    dataset = read(root / "croissant.json")
    images, annotations = records(dataset, "images"), records(dataset, "annotations")
    found = {file.stem.removeprefix("instances_"): json.loads(file.read_bytes()) for file in root.glob("annotations/*")}
    keys = ("id", "file_name", "height", "width", "prompt", "seed")
    expected = [
        {**{key: image[key] for key in keys}, "split": split} for split, f in found.items() for image in f["images"]
    ]
    assert sorted(images, key=lambda image: image["id"]) == sorted(expected, key=lambda image: image["id"])
    labels = {a["id"]: a for f in found.values() for a in f["annotations"]}
    assert len(labels) == len(annotations) == finished.quality().instances  # type: ignore[union-attr]
    for annotation in annotations:
        label = labels[annotation["id"]]
        assert all(annotation[key] == label[key] for key in ("image_id", "category_id", "area", "iscrowd", "bbox"))
        assert {key: annotation[key] for key in ("size", "counts")} == label["segmentation"]
    assert [record["name"] for record in records(dataset, "classes")] == [c.name for c in finished.spec.categories]
    assert [record["name"] for record in records(dataset, "splits")] == list(finished.spec.splits)


@pytest.fixture(scope="module")
def exports(finished: Build, making: Making, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The accepted images of the finished run in every format."""
    run = Run(tmp_path_factory.mktemp("exports"))
    for name in builtin("exporter"):
        config = parse_options("exporter", f"exporters.{name}", None, name, None)
        exporter = backend_module("exporter", name).Backend(config, finished.spec.categories)
        write_export(run, name, "inputs", exporter, info_of(finished), accepted_images(finished), making)
    return run


@pytest.mark.parametrize("name", builtin("exporter"))
def test_every_format_has_one_that_describes_each_of_its_files_once(name: str, exports: Run) -> None:
    root = exports.paths.export(name)
    entries = dict(read_entries(exports.paths.export_list(name)))
    document = json.loads((root / "croissant.json").read_bytes())
    read(root / "croissant.json")
    patterns = described_by(document)
    for file, (size, checksum) in entries.items():
        file = file.removeprefix(f"{name}/")
        if file == "croissant.json":
            continue
        (alone,) = [alone for pattern, alone in patterns if covers(pattern, alone, file)]
        if alone:
            (part,) = [part for part in document["distribution"] if part.get("contentUrl") == file]
            assert (part["contentSize"], part["sha256"]) == (f"{size} B", checksum)
        else:
            assert Path(file).suffix in croissant.IMAGES
    mark = exports.marks.read("export", name)
    assert mark is not None and document["version"] == f"1.0.0+{mark.notes['content_hash']}"


def test_huggingface_is_loaded_from_it(finished: Build, exports: Run) -> None:
    dataset = read(exports.paths.export("huggingface") / "croissant.json")
    found = sorted(records(dataset, "images"), key=lambda image: image["image_id"])
    for image, record in zip(found, accepted_images(finished), strict=True):
        with Image.open(record.image_path) as picture:
            assert np.array_equal(np.asarray(image["image"]), np.asarray(picture))
        assert (image["image_id"], image["split"], image["prompt"]) == (
            record.job.id,
            record.job.split,
            record.job.prompt,
        )
        for key, values in {
            "id": [a.id for a in record.annotations],
            "bbox": [[*a.bbox_xywh] for a in record.annotations],
            "category": [a.category_id - 1 for a in record.annotations],
            "area": [a.area for a in record.annotations],
            "iscrowd": [int(a.ignore) for a in record.annotations],
        }.items():
            assert image[f"objects_{key}"] == values


def test_a_table_is_loaded_from_it(finished: Build, exports: Run) -> None:
    root = exports.paths.export("csv")
    found = records(read(root / "croissant.json"), "objects")
    with open(root / "objects.csv", encoding="utf-8", newline="") as file:
        expected = list(csv.DictReader(file))
    assert len(found) == len(expected) > 8
    for record, row in zip(found, expected, strict=True):
        assert {key: "" if value is None else value for key, value in record.items()} == {
            key: type(record[key])(row[key]) if row[key] else "" for key in record
        }
        assert record["area"] is None or isinstance(record["area"], int)


def test_it_says_how_the_dataset_was_made(finished: Build, making: Making) -> None:
    text = (finished.run.root / "coco" / "croissant.json").read_text("utf-8")
    document, quality = json.loads(text), finished.quality()
    assert quality is not None
    (licence,) = document["license"]
    assert licence["name"] == "Apache-2.0" and licence["description"].startswith("The licence of synthgen mini. Images")
    made = f"{quality.made} images were made, and {quality.accepted + quality.surplus} of them passed all filters."
    assert (
        document["rai:dataCollection"].endswith(made)
        and "`diffusion` (synthgen mini)" in document["rai:dataCollection"]
    )
    filters = {name: reason.images for name, reason in quality.reasons.items()}
    for name, line in zip(finished.spec.filters, document["rai:dataPreprocessingProtocol"], strict=False):
        assert line.startswith(f"The filter `{name}` rejects {filters.get(name, 0)} image")
    assert "`sam` (synthgen mini)" in document["rai:dataAnnotationProtocol"]
    assert document["isLiveDataset"] is False
    steps = [step["prov:label"] for step in document["prov:wasGeneratedBy"]]
    assert steps[:3] == ["generation of images by `diffusion`", "boxes and classes by `layout`", "masks by `sam`"]
    assert not re.search(r"20\d\d-\d\d", text) and str(finished.run.root) not in text and "/tmp" not in text


INFO = DatasetInfo("fruit", "", (Category(1, 'a "red"\napple'), Category(2, "Äpfel/…")), ("train", "other"), ())


def document(making: Making, files: Iterator[tuple[str, tuple[int, str]]] | list[Any], info: DatasetInfo = INFO) -> Any:
    return json.loads(croissant.document(info, making, "0" * 64, files, ()))


def test_names_that_mean_harm(making: Making, tmp_path: Path) -> None:
    names = ["a [b]*?.png", "ö%20 #1.json", "it's {split}/x y.txt", "c [d]/1.png", "no ending"]
    made = document(making, [(name, (1, "0" * 64)) for name in names])
    (tmp_path / "croissant.json").write_text(json.dumps(made))
    dataset = read(tmp_path / "croissant.json")
    assert [record["name"] for record in records(dataset, "classes")] == [c.name for c in INFO.categories]
    assert records(dataset, "splits") == [{"name": "train"}, {"name": "other"}]
    patterns = described_by(made)
    for name in names:
        assert sum(covers(pattern, alone, name) for pattern, alone in patterns) == 1
    assert not any(covers(pattern, alone, "c d/1.png") for pattern, alone in patterns)


def test_many_files_take_little_room(making: Making) -> None:
    def files() -> Iterator[tuple[str, tuple[int, str]]]:
        for folder in range(2000):
            for file in range(101):
                yield f"train/class {folder}/{file}.jpg", (1, "0" * 64)
        for file in range(101):
            yield f"labels/{file}.txt", (1, "0" * 64)
        for file in range(100):
            yield f"data/{file}.parquet", (1, "0" * 64)

    made = document(making, files())
    parts = {part["name"]: part for part in made["distribution"]}
    assert len(parts) == 102
    assert parts["files/*/*/*.jpg"]["description"] == "202,000 files"
    assert parts["files/labels/*.txt"]["includes"] == "labels/*.txt"
    assert parts["data/99.parquet"]["sha256"] == "0" * 64


def test_models_of_other_people(making: Making) -> None:
    names = ["/home/me/secret/sd77", "black-forest-labs/FLUX.1-dev", "me/model"]
    fields = ["generator.model", "grounder.of.0.model", "filters.faces.model"]
    used = [UsedModel(f, n, "abc", output_licence(n, [])) for f, n in zip(fields, names, strict=True)]
    text = json.dumps(made := document(replace(making, models=tuple(used)), []))
    assert "/home/me" not in text and "sd77 @ abc" in text
    assert {licence["name"] for licence in made["license"]} == {"unknown", "flux-1-dev-non-commercial-license"}
    (says,) = [licence["description"] for licence in made["license"] if licence["name"] != "unknown"]
    assert says.startswith(
        "The licence of black-forest-labs/FLUX.1-dev. Images and labels may not be used commercially"
    )
    assert made["rai:machineAnnotationTools"] == ["black-forest-labs/FLUX.1-dev @ abc", "me/model @ abc"]


def test_a_dataset_that_grows_and_one_with_all_images(making: Making) -> None:
    grown = document(replace(making, is_grown=True), [])
    assert grown["isLiveDataset"] is True
    assert grown["rai:dataReleaseMaintenancePlan"].startswith("Every finished run of the spec adds its images.")
    everything = document(replace(making, has_all_images=True), [])
    assert everything["rai:dataCollectionMissingData"].startswith("Rejected images are part of the dataset")
    part = document(making, [], replace(INFO, subset="Images without an object are left out."))
    assert part["description"].endswith(" Images without an object are left out.")
    assert part["rai:dataManipulationProtocol"] == "Images without an object are left out."


def test_a_dataset_that_is_published(making: Making, tmp_path: Path) -> None:
    said = {"url": "https://example.org/fruit", "date": "2026-11-28", "authors": ["Ada {L}"], "organizations": ["Org"]}
    spec = making.spec.model_copy(update={"publication": PublicationSpec.model_validate(said)})
    (tmp_path / "croissant.json").write_text(json.dumps(made := document(replace(making, spec=spec), [])))
    found = read(tmp_path / "croissant.json", is_published=True).metadata
    assert (found.url, str(found.date_published.date())) == ("https://example.org/fruit", "2026-11-28")
    assert [(type(creator).__name__, creator.name) for creator in found.creators] == [
        ("Person", "Ada {L}"), ("Organization", "Org")
    ]  # fmt: skip
    assert made["citeAs"].startswith(
        "@misc{fruit, title = {fruit}, author = {{Ada L} and {Org}}, year = {2026}, url = {h"
    )
