"""The files of a trained model: its licence, its card, and folders whose files are replaced whole."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from synthgen.base.files import atomic
from synthgen.models import Licence, ModelCard

LICENCE = Licence(name="Apache-2.0", url="https://www.apache.org/licenses/LICENSE-2.0")


def write_card(folder: Path, card: ModelCard) -> None:
    """Writes a model's card, `synthgen.json`."""
    (folder / "synthgen.json").write_text(card.model_dump_json(exclude_none=True, indent=1) + "\n")


@contextmanager
def replacing_files(folder: Path) -> Iterator[Path]:
    """Yields an empty folder. If the block ends without an error, its files are written into `folder`, each of them
    atomically. Other files in `folder` stay."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)
        for file in sorted(p for p in Path(name).rglob("*") if p.is_file()):
            with atomic(folder / file.relative_to(name)) as target:
                target.write(file.read_bytes())
