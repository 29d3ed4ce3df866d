"""What a push gives to the hub: the `huggingface` exports of a run or of a grown dataset, with one card for all."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from synthgen.base.file_lists import read_entries
from synthgen.errors import RunError
from synthgen.exporters._dataset_card import merge_cards
from synthgen.models.hub.upload import CARD, LocalFile
from synthgen.pipeline.build import Build
from synthgen.store.marks import Mark
from synthgen.store.run import Run

FORMAT = "huggingface"
# The files that this format has in a folder of its own, by which `datasets` knows a split.
DATA = re.compile(r".+-\d{5}-of-\d{5}\.parquet|[^/]+/(metadata\.(jsonl|parquet)|\d{12}\.(png|jpg|webp))")


def published(build: Build) -> dict[str, dict[str, Any]]:
    """The options of the exporters that are pushed, by name: those of the spec in this format; one with its defaults
    if the spec has none."""
    named = {name: config for name, config in build.spec.exporters.items() if config.use == FORMAT}
    if not named and FORMAT in build.spec.exporters:
        raise RunError(f"the spec has an exporter {FORMAT!r} that is another format; give it another name")
    return {name: config.model_dump(mode="json") for name, config in named.items()} or {FORMAT: {"use": FORMAT}}


@dataclass(frozen=True, slots=True)
class Publication:
    """The files of exports as the repository is to have them.

    Attributes:
        files: by their names in the repository. Where exports have files of the same name, it is that of the first.
        licence: as the card names it.
        version: the content hash of the first export.
    """

    files: Mapping[str, LocalFile]
    licence: str
    version: str

    @classmethod
    def of(cls, folder: Run, marks: Mapping[str, Mark]) -> Publication:
        """
        Args:
            folder: holds the exports.
            marks: of the exports, by name.

        Raises:
            RunError: two exports have the same `config_name`, or there is no image.
            ValueError: a card has changed since it was exported.
        """
        files: dict[str, LocalFile] = {}
        cards = []
        for name in marks:
            for listed, (size, checksum) in read_entries(folder.paths.export_list(name)):
                inside = listed.removeprefix(f"{name}/")
                file = LocalFile(size, checksum, folder.root / listed)
                if inside == CARD:
                    cards.append(file.read().decode())
                else:
                    files.setdefault(inside, file)
        if not any("/" in name for name in files):
            raise RunError(f"{folder.address} has no accepted image; there is nothing to push")
        try:
            card = merge_cards(cards)
        except ValueError as error:
            raise RunError(f"{folder.address}: {error}") from error
        files[CARD] = LocalFile.of(card.encode())
        header = yaml.safe_load(card.removeprefix("---\n").split("\n---\n", 1)[0])
        licence = str(header.get("license_name") or header["license"])
        return cls(files, licence, str(next(iter(marks.values())).notes["content_hash"]))

    def is_own(self, name: str) -> bool:
        """Whether a file of this name in the repository can only be one of these exports'."""
        folder, _, rest = name.partition("/")
        return any(own.startswith(f"{folder}/") for own in self.files) and DATA.fullmatch(rest) is not None
