"""The card of a dataset for Hugging Face's `datasets`: `README.md`, whose YAML header says which files are which split
and of which types their columns are (https://huggingface.co/docs/hub/datasets-manual-configuration)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from synthgen.base.hub_card import licence_fields, size_category
from synthgen.base.markdown import markdown_table, markdown_text
from synthgen.exporters._dataset_rows import Survey
from synthgen.types import Category, DatasetInfo

COLUMNS = {
    "image": "the image, decoded to a `PIL.Image` when it is read",
    "image_id, width, height": "its number in the dataset, and its size in px",
    "objects.bbox": "COCO's x, y, width, height in px, from the top left corner",
    "objects.category": "the number of the class, from 0",
    "objects.area": "pixels of the mask",
    "objects.iscrowd": "1: a region to be ignored, neither object nor background",
    "objects.segmentation": "the mask as COCO's compressed RLE; `pycocotools.mask.decode` takes it",
    "objects.scores": "what the labelling models said of each object; null where they said nothing",
    "prompt, negative_prompt, seed, slots": "what the image was made from",
    "measures": "what the filters measured in the image; NaN or null where they could not",
}


@dataclass(frozen=True, slots=True)
class Split:
    """A split as `datasets` loads it. `files`: a pattern; `data_bytes`, `file_bytes`: in memory and on the disk."""

    name: str
    files: str
    images: int
    labels: int
    data_bytes: int
    file_bytes: int


def dataset_card(
    info: DatasetInfo, survey: Survey, splits: Sequence[Split], features: Any, config_name: str, content_hash: str,
    *, is_imagefolder: bool,
) -> str:  # fmt: skip
    """
    Args:
        splits: those with images: `datasets` cannot load an empty one.
        features: `datasets.Features` of the columns.
    """
    features = _features(features)
    header: dict[str, Any] = {
        "pretty_name": info.name,
        **licence_fields(info.licences),
        "annotations_creators": ["machine-generated"],
        "task_categories": ["object-detection", "image-segmentation"],
        "tags": ["synthetic", "instance-segmentation"],
        "size_categories": [size_category(sum(split.images for split in splits))],
    }
    if splits:
        header |= {
            "dataset_info": [_dataset_info(config_name, splits, features)],
            "configs": [
                {
                    "config_name": config_name,
                    "data_files": [{"split": split.name, "path": split.files} for split in splits],
                    # Parquet files say their types themselves.
                    **({"drop_labels": True, "features": features} if is_imagefolder else {}),
                }
            ],
        }
    return _with_header(header, "\n".join(_body(info, survey, splits, config_name, content_hash)))


def merge_cards(cards: Sequence[str]) -> str:
    """One card for several exports in one repository: that of the first, with the configurations of all.

    Raises:
        ValueError: two have a configuration of the same name.
    """
    headers = [yaml.safe_load(card.split("\n---\n", 1)[0]) for card in cards]
    merged = {key: [one for header in headers for one in header.get(key, ())] for key in ("dataset_info", "configs")}
    names = [config["config_name"] for config in merged["configs"]]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise ValueError(f"two exports have the `config_name` {name!r}; takes a different one for each")
    header = {**headers[0], **{key: found for key, found in merged.items() if found}}
    return _with_header(header, cards[0].split("\n---\n", 1)[1])


def _with_header(header: Mapping[str, Any], body: str) -> str:
    # One line for each text: a folded one could begin with the three dashes that end the header.
    written = yaml.safe_dump(header, sort_keys=False, allow_unicode=True, width=float("inf"))
    return f"---\n{written}---\n{body}"


def _features(features: Any) -> Any:
    """`datasets.Features` as a header has them."""
    from datasets import DatasetInfo as Types
    from datasets.info import DatasetInfosDict
    from huggingface_hub import DatasetCardData

    data = DatasetCardData()
    DatasetInfosDict({"default": Types(features=features)}).to_dataset_card_data(data)
    return data["dataset_info"]["features"]


def _dataset_info(config_name: str, splits: Sequence[Split], features: Any) -> dict[str, Any]:
    return {
        "config_name": config_name,
        "features": features,
        "splits": [
            {"name": split.name, "num_bytes": split.data_bytes, "num_examples": split.images} for split in splits
        ],
        "download_size": sum(split.file_bytes for split in splits),
        "dataset_size": sum(split.data_bytes for split in splits),
    }


def _body(
    info: DatasetInfo, survey: Survey, splits: Sequence[Split], config_name: str, content_hash: str
) -> Iterator[str]:
    yield from ("", f"# {markdown_text(info.name)}", "")
    if info.description:
        yield from (markdown_text(info.description), "")
    made = "made by [synthgen](https://pypi.org/project/synthgen/)"
    yield f"Synthetic images with masks and boxes of {len(info.categories)} classes, {made}."
    yield f"Dataset version: `{content_hash}`."
    if info.subset:
        yield markdown_text(info.subset)
    chosen = "" if config_name == "default" else f', "{config_name}"'
    place = '"path/of/this/folder"'
    yield from ("", "```python", "from datasets import load_dataset", "")
    yield from (f"dataset = load_dataset({place}{chosen})  # or user/name, if it is on the hub", "```", "")
    rows = [(split.name, f"{split.images:,}", f"{split.labels:,}") for split in splits]
    yield from ("## Splits", "", *markdown_table(("split", "images", "objects"), rows), "")
    yield from ("## Columns", "", "| column | holds |", "| --- | --- |")
    yield from (f"| `{name}` | {what} |" for name, what in COLUMNS.items())
    yield from ("", "## Classes", "", *_classes(info.categories, survey), "")
    yield from ("## Licences of the models", "")
    yield from (f"- {markdown_text(name)}: {markdown_text(url)}" for name, url in info.licences)
    if not info.licences:
        yield "No licence of a model is known."
    yield ""


def _classes(categories: Sequence[Category], survey: Survey) -> list[str]:
    columns = ("number", "name", "id in COCO", "supercategory", "objects")
    rows = (
        (str(number), c.name, str(c.exported_id), c.supercategory, f"{survey.per_class[c.id]:,}")
        for number, c in enumerate(categories)
    )
    return markdown_table(columns, rows)
