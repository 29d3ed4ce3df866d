"""Where run folders are on this machine: in a folder, or in the mirror of a URL."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

from synthgen.base.files import expand_home
from synthgen.base.sealed import read_sealed, write_sealed
from synthgen.base.wording import plain
from synthgen.errors import RunError
from synthgen.models import cache_folder
from synthgen.store.mirror import Mirror
from synthgen.store.objects import STORES, Objects, require_store
from synthgen.store.paths import run_number, run_order

ABOUT = "mirror.json"  # names what a folder of run folders mirrors


def is_url(text: str | Path) -> bool:
    return "://" in str(text)


def local_folder(out: str | Path) -> Path:
    """The folder of run folders on this machine for `--out`. Of a path, only `~` changes. A URL becomes the folder of
    its mirror, which is made if it does not exist. Asks no store.

    Raises:
        RunError: the kind of store is unknown, or the package for it is not installed.
    """
    if not is_url(out):
        return _path(out)
    require_store(str(out))
    url = str(out).rstrip("/")
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", url).strip("-.")[-60:]
    folder = _mirrors() / f"{readable}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
    if read_sealed(folder / ABOUT) is None:
        write_sealed(folder / ABOUT, {"url": url, "id": secrets.token_hex(8)})
    return folder


def address(out: Path) -> str:
    """The name of a folder of run folders for other processes: the URL that it mirrors, else its path."""
    about = _about(out.resolve())
    return about["url"] if about else str(out.resolve())


def local_run_folder(run: str | Path) -> Path:
    """`local_folder`, for one run folder."""
    if not is_url(run):
        return _path(run)
    out, name, number = ("", "", *str(run).rstrip("/").rsplit("/", 2))[-3:]
    if not is_url(out) or run_number(number) is None:
        raise RunError(
            f"{plain(str(run))!r} is no run folder; it takes one such as s3://bucket/datasets/fruit/run-0001"
        )
    return local_folder(out) / name / number


def _path(text: str | Path) -> Path:
    """
    Raises:
        RunError: it is a URL that lacks a slash, and would become a folder called `s3:`.
    """
    scheme, colon, rest = str(text).partition(":")
    if colon and scheme in STORES and rest.startswith("/"):
        raise RunError(f"got {plain(str(text))!r}; takes a folder, or a URL such as {scheme}:/{rest}")
    return expand_home(text)


def mirror_of(root: Path, confirm: Callable[[], None]) -> Mirror | None:
    """The `Mirror` of a run folder; None for a folder that mirrors nothing. `confirm`: see `Objects`."""
    about = _about(root.parent.parent)
    return Mirror(root, f"{about['url']}/{root.parent.name}/{root.name}", about["id"], confirm) if about else None


def runs_in_store(folder: Path) -> list[Path]:
    """The run folders of a dataset in the store, by number; they need not exist here. Empty for a folder that mirrors
    nothing."""
    if not (about := _about(folder.resolve().parent)):
        return []
    names = Objects(f"{about['url']}/{folder.name}").beside()
    return [folder / name for name in sorted(names, key=run_order) if run_number(name) is not None]


def _about(out: Path) -> Mapping[str, str] | None:
    """What a folder of run folders mirrors: its `url`, and the `id` of this mirror of it."""
    return read_sealed(out / ABOUT) if out.parent.name == "mirrors" and out.parent == _mirrors() else None


def _mirrors() -> Path:
    return cache_folder().resolve() / "mirrors"
