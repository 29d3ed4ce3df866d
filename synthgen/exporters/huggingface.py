"""For Hugging Face's `datasets`: `load_dataset(FOLDER)` gives all splits with their types, and needs no script.

Parquet files with the images in them, `data/{split}-00000-of-00001.parquet`, or an image folder with a `metadata.jsonl`
for each split; `README.md` is the dataset's card. `synthgen push` uploads it.
Formats: https://huggingface.co/docs/datasets/image_dataset, https://huggingface.co/docs/hub/datasets-cards
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Annotated, Literal

import pyarrow as pa
from pydantic import Field

from synthgen.backends import ExportedFolder, Exporter, Folder, ImageOptions, Records, RecordSet, Request
from synthgen.base.pattern import Pattern
from synthgen.errors import Problem
from synthgen.exporters._dataset_card import Card, Split, in_yaml, split_name, split_problems
from synthgen.exporters._dataset_reader import NOT_EXPORTED, SplitReader
from synthgen.exporters._dataset_records import record_set
from synthgen.exporters._dataset_rows import Rows, Survey
from synthgen.exporters._dataset_writers import MetadataWriter, ShardWriter
from synthgen.types import DatasetInfo, Record

CARD = "README.md"
# Most bytes of images in a row group, and in those of all splits, which are written by turns. Whoever streams the
# dataset reads whole row groups.
GROUP_BYTES, WAITING_BYTES = 32_000_000, 96_000_000
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
CONFIG_NAME = Pattern(
    r"^(?!data$)[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$",
    "letters, digits, _, . and -, at most 64 of them, a letter or digit first; not data",
)


class Config(ImageOptions):
    """Options of `huggingface`."""

    layout: Literal["parquet", "imagefolder"] = Field(
        "parquet", description="parquet: files with images and labels in them; imagefolder: image files, and a "
        "metadata.jsonl for each split.",
    )  # fmt: skip
    max_shard_bytes: int = Field(
        500_000_000, ge=1, description="Most bytes of images in one Parquet file, as PNG; a larger image has its own."
    )
    config_name: Annotated[str, CONFIG_NAME] = Field(
        "default",
        description="The name by which `load_dataset` tells several exports in one repository apart, all of the same "
        "layout. The default one is in the folder data, another in the folder of its name.",
    )


class Backend(Exporter[Config]):
    """Writes one row for each image, in order of id; equal datasets give equal bytes with the same version of pyarrow.

    Columns: `image`; `image_id`, `width`, `height`; `objects` with the lists `id`, `bbox` (x, y, width and height in
    px, as in COCO), `category` (`ClassLabel`: from 0, in the order of the spec), `area` (pixels of the mask), `iscrowd`
    (1: to be ignored), `segmentation` (COCO's compressed RLE) and `scores`; `prompt`, `negative_prompt`, `seed`,
    `slots` and `measures`. Parquet loses nothing; in a metadata.jsonl, a number that could not be measured is null. An
    image folder has a metadata.parquet for each split in its place, if the first 100 images of a split have no object
    or no value of a column: `datasets` would infer other types there, and load nothing.

    `datasets` loads no split without images, so those are left out. It takes no `-` in a split's name, nor the name
    `all`: they become `_` and `all_`. Memory holds one row group of each split: at most 100 rows and 32 MB of images,
    and less if there are more than three splits.
    """

    def check(self, request: Request) -> Iterable[Problem]:
        yield from super().check(request)
        yield from split_problems(request.splits)

    def export(self, info: DatasetInfo, records: Records, folder: Folder) -> None:
        survey = self._survey(records, info.splits)
        rows, writers = Rows(info.categories, survey), dict[str, ShardWriter | MetadataWriter]()
        schema = self._schema(rows, survey)
        with ExitStack() as stack:
            group_bytes = min(GROUP_BYTES, WAITING_BYTES // max(1, sum(map(bool, survey.shards.values()))))
            for split, shards in survey.shards.items():
                if shards and schema is not None:
                    files = self._files(split, survey)
                    writers[split] = ShardWriter(folder, files, shards, schema, group_bytes, stack)
                elif shards:
                    writers[split] = MetadataWriter(stack.enter_context(folder.open(*self._files(split, survey))))
            for record in records:
                writer, row, name = writers[record.job.split], rows.row(record), self.config.image_name(record.job.id)
                if self._is_parquet:
                    image = folder.image_bytes(record.image_path, encoding=self.config.images)
                    writer.add({"image": {"bytes": image, "path": name}, **row}, len(image))
                else:
                    folder.image(record.image_path, self._image_file(record), encoding=self.config.images)
                    writer.add({"file_name": name, **row})
            for writer in writers.values():
                writer.finish()
        splits = [
            Split(
                split_name(split), self._pattern(split), survey.images(split), survey.labels[split],
                writer.data_bytes, writer.file_bytes,
            )
            for split, writer in writers.items()
        ]  # fmt: skip
        # Parquet files say their types themselves.
        loader = {} if self._is_parquet else {"drop_labels": True, "features": in_yaml(rows.features())}
        card = Card(
            info, survey, splits, rows.features(), COLUMNS, records.content_hash, self.config.config_name, loader
        )
        with folder.open(CARD) as file:
            file.write(card.text().encode())

    def record_sets(self, info: DatasetInfo) -> Sequence[RecordSet]:
        return [record_set(self._folder)] if self._is_parquet else []

    def verify(self, folder: ExportedFolder, records: Records) -> Iterator[tuple[str, str]]:
        """Compares each row with its record. Reports the first difference of each split."""
        survey = self._survey(records, ())
        rows = Rows(self.categories, survey)
        schema = self._schema(rows, survey)
        readers = {split: SplitReader(folder, self._files(split, survey), schema) for split in survey.shards}
        is_same = self.config.images in {"link", "copy"}
        for record in records:
            row, name = rows.row(record), self.config.image_name(record.job.id)
            if not self._is_parquet:
                row, name = {"file_name": name, **row}, self._image_file(record)
            readers[record.job.split].compare(record, row, name, is_same=is_same)
        found = [fault for reader in readers.values() if (fault := reader.finish())]
        if not folder.has(CARD):
            found.append((CARD, NOT_EXPORTED))
        yield from sorted(found)

    @property
    def _is_parquet(self) -> bool:
        return self.config.layout == "parquet"

    @property
    def _folder(self) -> str:
        return "data" if self.config.config_name == "default" else self.config.config_name

    def _survey(self, records: Records, splits: Iterable[str]) -> Survey:
        return Survey.of(records, splits, self.config.max_shard_bytes if self._is_parquet else None)

    def _schema(self, rows: Rows, survey: Survey) -> pa.Schema | None:
        """Of the Parquet files that have the rows; None for metadata.jsonl."""
        if not self._is_parquet and survey.has_types():
            return None
        return rows.features(file_names=not self._is_parquet).arrow_schema

    def _files(self, split: str, survey: Survey) -> list[str]:
        """The files that have the rows of a split."""
        place, count = f"{self._folder}/{split_name(split)}", len(survey.shards[split])
        if not self._is_parquet:
            return [f"{place}/metadata.{'jsonl' if survey.has_types() else 'parquet'}"]
        return [f"{place}-{i:05d}-of-{count:05d}.parquet" for i in range(count)]

    def _pattern(self, split: str) -> str:
        """Which files `datasets` loads for a split."""
        return f"{self._folder}/{split_name(split)}{'-*' if self._is_parquet else '/**'}"

    def _image_file(self, record: Record) -> str:
        """In an image folder."""
        return f"{self._folder}/{split_name(record.job.split)}/{self.config.image_name(record.job.id)}"
