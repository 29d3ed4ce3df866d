"""The card of a dataset for Hugging Face's `datasets`: `README.md`, whose YAML header says which files are which split
and of which types their columns are (https://huggingface.co/docs/hub/datasets-manual-configuration)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from synthgen.base.hub_card import licence_fields, size_category
from synthgen.base.markdown import markdown_table, markdown_text
from synthgen.errors import Problem
from synthgen.exporters._dataset_rows import Survey
from synthgen.types import DatasetInfo


@dataclass(frozen=True, slots=True)
class Split:
    """A split as `datasets` loads it. `files`: a pattern; `data_bytes`, `file_bytes`: in memory and on the disk."""

    name: str
    files: str
    images: int
    labels: int
    data_bytes: int
    file_bytes: int


@dataclass(frozen=True, slots=True)
class Card:
    """What a card says.

    Attributes:
        splits: those with images: `datasets` cannot load an empty one.
        features: `datasets.Features` of the columns.
        columns: what they hold, in Markdown.
        loader: further keys of the configuration.
    """

    info: DatasetInfo
    survey: Survey
    splits: Sequence[Split]
    features: Any
    columns: Mapping[str, str]
    content_hash: str
    config_name: str = "default"
    loader: Mapping[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        header: dict[str, Any] = {
            "pretty_name": self.info.name,
            **self._licence(),
            "annotations_creators": ["machine-generated"],
            "task_categories": ["object-detection", "image-segmentation"],
            "tags": ["synthetic", "instance-segmentation"],
            "size_categories": [size_category(sum(split.images for split in self.splits))],
        }
        if self.splits:
            files = [{"split": split.name, "path": split.files} for split in self.splits]
            header["dataset_info"] = [self._dataset_info()]
            header["configs"] = [{"config_name": self.config_name, "data_files": files, **self.loader}]
        return _with_header(header, "\n".join(self._body()))

    def _licence(self) -> dict[str, str]:
        """The models' licence if all have the same one."""
        known = [(name, url) for _, name, url in self.info.models if name]
        return licence_fields(known, some_unknown=len(known) < len(self.info.models))

    def _dataset_info(self) -> dict[str, Any]:
        return {
            "config_name": self.config_name,
            "features": in_yaml(self.features),
            "splits": [
                {"name": split.name, "num_bytes": split.data_bytes, "num_examples": split.images}
                for split in self.splits
            ],
            "download_size": sum(split.file_bytes for split in self.splits),
            "dataset_size": sum(split.data_bytes for split in self.splits),
        }

    def _body(self) -> Iterator[str]:
        info = self.info
        yield from ("", f"# {markdown_text(info.name)}", "")
        if info.description:
            yield from (markdown_text(info.description), "")
        made = "made by [synthgen](https://pypi.org/project/synthgen/)"
        yield f"Synthetic images with masks and boxes of {len(info.categories)} classes, {made}."
        yield f"Dataset version: `{self.content_hash}`."
        if info.subset:
            yield markdown_text(info.subset)
        chosen = "" if self.config_name == "default" else f', "{self.config_name}"'
        place = '"path/of/this/folder"'
        yield from ("", "```python", "from datasets import load_dataset", "")
        yield from (f"dataset = load_dataset({place}{chosen})  # or user/name, if it is on the hub", "```", "")
        rows = [(split.name, f"{split.images:,}", f"{split.labels:,}") for split in self.splits]
        yield from ("## Splits", "", *markdown_table(("split", "images", "objects"), rows), "")
        yield from ("## Columns", "", "| column | holds |", "| --- | --- |")
        yield from (f"| `{name}` | {what} |" for name, what in self.columns.items())
        yield from ("", "## Classes", "", *self._classes(), "")
        models = [(model, name or "not known", url) for model, name, url in info.models]
        yield from ("## Models", "", *markdown_table(("model", "licence of what it makes", "url"), models))
        yield ""

    def _classes(self) -> list[str]:
        columns = ("number", "name", "id in COCO", "supercategory", "objects")
        rows = (
            (str(number), c.name, str(c.exported_id), c.supercategory, f"{self.survey.per_class[c.id]:,}")
            for number, c in enumerate(self.info.categories)
        )
        return markdown_table(columns, rows)


def merge_cards(cards: Sequence[str]) -> str:
    """One card for several exports in one repository: that of the first, with the configurations of all.

    Raises:
        ValueError: two have a configuration of the same name, or another layout.
    """
    headers = [yaml.safe_load(card.split("\n---\n", 1)[0]) for card in cards]
    merged = {key: [one for header in headers for one in header.get(key, ())] for key in ("dataset_info", "configs")}
    names = [config["config_name"] for config in merged["configs"]]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise ValueError(f"two exports have the `config_name` {name!r}; takes a different one for each")
    # `datasets` reads all configurations as it reads the first.
    if len({frozenset(config) for config in merged["configs"]}) > 1:
        raise ValueError("got Parquet files and image folders; takes one `layout` for all exports in a repository")
    header = {**headers[0], **{key: found for key, found in merged.items() if found}}
    return _with_header(header, cards[0].split("\n---\n", 1)[1])


def _with_header(header: Mapping[str, Any], body: str) -> str:
    # One line for each text: a folded one could begin with the three dashes that end the header.
    written = yaml.safe_dump(header, sort_keys=False, allow_unicode=True, width=float("inf"))
    return f"---\n{written}---\n{body}"


def in_yaml(features: Any) -> Any:
    """`datasets.Features` as headers have them."""
    from datasets import DatasetInfo as Types
    from datasets.info import DatasetInfosDict
    from huggingface_hub import DatasetCardData

    data = DatasetCardData()
    DatasetInfosDict({"default": Types(features=features)}).to_dataset_card_data(data)
    return data["dataset_info"]["features"]


def split_name(split: str) -> str:
    """A split's name as `datasets` takes it."""
    return "all_" if split == "all" else split.replace("-", "_")


def split_problems(splits: Iterable[str]) -> Iterator[Problem]:
    """Splits that would have the same name."""
    names: dict[str, str] = {}
    for split in splits:
        if (other := names.setdefault(split_name(split), split)) != split:
            both = f"{other!r} and {split!r}, which Hugging Face's `datasets` takes for one"
            yield Problem("splits", f"got {both}; takes another name")
