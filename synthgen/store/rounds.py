"""Rounds: how many images each asks for, and of what, recorded before any of them is planned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from synthgen.base.sealed import read_sealed, validated
from synthgen.store.files import Files
from synthgen.store.forms import ROUND
from synthgen.store.marks import Marks


class Rounds:
    """The recorded rounds of a run folder."""

    def __init__(self, files: Files, marks: Marks) -> None:
        self._files, self._paths, self._marks = files, files.paths, marks

    def read(self) -> list[dict[str, Any]]:
        """The recorded rounds in order, as the arguments of `Round`; keys that were numbers are numbers again. Instead
        of a damaged record, reads the copy in the mark of one of its shards. Without shards, it had no effect yet."""
        rounds: list[dict[str, Any]] = []
        while True:
            number = len(rounds) + 1
            round = self._recorded(number) or self._planned(number)
            if round is None:
                return rounds
            rounds.append(round)

    def write(self, number: int, round: Mapping[str, Any]) -> None:
        self._files.write_record(self._paths.round(number), round)

    def repair(self) -> None:
        """Writes damaged records anew."""
        for round in self.read():
            if self._recorded(round["number"]) is None:
                self.write(round["number"], round)

    def damaged(self) -> Iterator[Path]:
        """The files of damaged records."""
        for file in self._paths.rounds():
            if file.is_file() and validated(ROUND, read_sealed(file)) is None:
                yield file

    def _recorded(self, number: int) -> dict[str, Any] | None:
        return _formed(read_sealed(self._paths.round(number)), number)

    def _planned(self, number: int) -> dict[str, Any] | None:
        if self._paths.round(number).exists() or self._paths.round(number + 1).exists():
            for shard in self._marks.shards():
                mark = self._marks.read("plan", shard)
                if mark and mark.counts.get("round") == number:
                    return _formed(mark.environment, number)
        return None


def _formed(raw: Any, number: int) -> dict[str, Any] | None:
    """The record of this round; None if `raw` is not one."""
    record = validated(ROUND, raw)
    return dict(record) if record and record["number"] == number else None
