"""Names of classes as names of files and folders."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from urllib.parse import quote

MAX_BYTES = 200  # of a name; file systems take 255, and exporters add endings
# Windows keeps these for devices, whatever ending follows.
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in "123456789¹²³")}


def file_names(names: Iterable[str]) -> dict[str, str]:
    """Name -> a name for a file or folder: letters, digits, spaces, `-`, `_` and `.` stay, and other characters become
    `%` and the hex digits of their UTF-8 bytes, as in a URL. So `urllib.parse.unquote` gives the name back.

    These cannot be read back, and an exporter says elsewhere which class is which: a name too long for file systems is
    cut, and names that some file systems take for one, such as `Cup` and `cup`, are numbered: `Cup` and `cup~2`.
    """
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in dict.fromkeys(names):
        safe = safe_name(name)
        file_name, number = safe, 1
        while _folded(file_name) in taken:
            number += 1
            file_name = f"{safe}~{number}"
        taken.add(_folded(file_name))
        found[name] = file_name
    return found


def safe_name(name: str) -> str:
    """One such name, which another name may have too."""
    pieces = [c if c.isalnum() or c in "-_. " else quote(c, safe="") for c in unicodedata.normalize("NFC", name)]
    # Readers skip names that start with a dot or an underscore; Windows drops dots and spaces at the end.
    for end, what in ((0, ". _"), (-1, ". ")):
        if pieces and pieces[end] in what:
            pieces[end] = f"%{ord(pieces[end]):02X}"
    if pieces and "".join(pieces).partition(".")[0].rstrip().casefold() in _DEVICES:
        pieces[0] = f"%{ord(pieces[0]):02X}"
    while len("".join(pieces).encode()) > MAX_BYTES:
        pieces.pop()
    return "".join(pieces) or "%"


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name.casefold())
