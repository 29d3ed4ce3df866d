"""What the images of a run folder were made from, and with which models: `spec.yaml` and `run.json`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import yaml

from synthgen.base.files import read_bytes, sha256
from synthgen.base.safe_yaml import load_yaml, read_yaml_text
from synthgen.base.sealed import SEAL, read_sealed, validated
from synthgen.base.wording import plain, shown
from synthgen.errors import RunError, SpecError
from synthgen.store.files import Files
from synthgen.store.forms import FACTS

FORMAT = 2  # of run folders: how marks and records are written
# A spec that is written with all its keys and with its aliases expanded may be this many times as long.
SPEC_GROWTH = 8


class Facts:
    """The spec of the last run in a folder, and the facts in its `run.json`."""

    def __init__(self, files: Files) -> None:
        self._files, self._paths = files, files.paths

    def read_spec(self) -> Any:
        """
        Raises:
            RunError: it is damaged.
        """
        file = self._paths.spec
        try:
            return load_yaml(read_yaml_text(file, SPEC_GROWTH), SPEC_GROWTH)
        except (OSError, UnicodeDecodeError, SpecError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise RunError(f"{file} cannot be read: {reason}; run the spec again to write it anew") from error

    def write_spec(self, spec: Mapping[str, Any]) -> None:
        """Writes the spec if it differs from the file."""
        file = self._paths.spec
        data = yaml.safe_dump(dict(spec), sort_keys=False, allow_unicode=True, width=120).encode()
        if not file.is_file() or read_bytes(file) != data:
            with self._files.writing(file) as opened:
                opened.write(data)
            self._files.publish(file)

    def spec_is_unchanged(self) -> bool:
        """Whether the spec's file has the checksum in `run.json`; True if no checksum is recorded."""
        facts = self.read()
        return not facts or facts.get("spec") == sha256(self._paths.spec)

    def read(self) -> dict[str, Any]:
        """The facts in `run.json`; empty if it is missing or damaged.

        Raises:
            RunError: the folder is of another version of this format.
        """
        file = self._paths.facts
        facts = read_sealed(file)
        if facts is None:
            with suppress(OSError, ValueError, TypeError):
                if "made_from" in (raw := orjson.loads(file.read_bytes())) and SEAL not in raw:
                    facts = raw
        if facts and facts.get("format", 1) != FORMAT:
            raise RunError(
                f"{self._paths.root} is a run folder of format {shown(facts.get('format', 1))}, made by synthgen "
                f"{plain(str(facts.get('synthgen')))}; this version reads format {FORMAT}: use that one, or another "
                "--out or --run"
            )
        facts = facts and validated(FACTS, facts)
        return {name: value for name, value in (facts or {}).items() if name != "format"}

    def write(self, facts: Mapping[str, Any]) -> None:
        """Writes the facts if they differ from the file."""
        if facts != self.read():
            self._files.write_record(self._paths.facts, {**facts, "format": FORMAT})

    def damaged(self) -> Iterator[Path]:
        """`run.json`, if it is damaged."""
        file = self._paths.facts
        if file.is_file() and validated(FACTS, read_sealed(file)) is None:
            yield file
