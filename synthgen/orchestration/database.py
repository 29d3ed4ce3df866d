"""The SQLite database of an embedded server."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path


def damage(database: Path) -> str:
    """What SQLite finds wrong with a database. "" if it is whole or missing, or if it cannot be read now."""
    if not database.is_file():
        return ""
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True)) as connection:
            result = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
        return "" if result == "ok" else " ".join(result.split())
    except sqlite3.Error as error:
        return str(error) if error.sqlite_errorcode in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) else ""


def set_aside(database: Path) -> Path:
    """Renames a database and its journals, so that the next server begins a new one. Returns its new name."""
    kept = database.with_stem(f"{database.stem}-{time.strftime('%Y%m%d-%H%M%S')}")
    for end in ("-wal", "-shm", ""):
        with suppress(FileNotFoundError):
            Path(f"{database}{end}").rename(f"{kept}{end}")
    return kept
