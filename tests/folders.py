"""Files in the folders of tests: one is written, and all are named."""

from pathlib import Path

from synthgen.base.files import atomic


def write(path: Path, data: bytes = b"data") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as file:
        file.write(data)
    return path


def names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
