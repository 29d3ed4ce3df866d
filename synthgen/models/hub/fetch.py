"""Fetches models of the hub into the cache of the hub's client, which other tools share."""

from __future__ import annotations

import glob
import re
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from synthgen.backends import Source
from synthgen.base.files import atomic
from synthgen.base.interrupts import abandonable
from synthgen.base.locks import is_locked
from synthgen.base.wording import shown
from synthgen.models import is_revision, repository_folder
from synthgen.models.hub.blobs import receive_large
from synthgen.models.hub.client import explained, quiet_client
from synthgen.models.hub.repository import Repository
from synthgen.models.hub.selection import needed_files
from synthgen.models.transfer import Report, is_quiet


def fetch(source: Source, report: Report) -> Path:
    """Fetches those files of a model that are read -> its folder, in the cache of the hub's client.

    Raises:
        ValueError, OSError: it cannot be fetched or written.
        OutOfRoom: the disk has no room for it.
    """
    from huggingface_hub import snapshot_download

    revision = source.revision or "main"
    if not is_revision(revision):  # it becomes the name of a file
        raise ValueError(f"it has no revision {shown(revision)}; takes a branch, a tag or a commit")
    sweep(source.model)
    with explained(source), quiet_client(), abandonable():  # what a signal cuts off can be gone on with
        repository = Repository.of(source.model, source.revision)
        names = needed_files(repository.sizes, repository.read, source)
        receive_large(repository, names, report)
        wanted = [glob.escape(name) for name in names]
        folder = Path(snapshot_download(source.model, revision=repository.commit, allow_patterns=wanted))
    if not repository.commit.startswith(revision):
        # It is written last: until the new commit is whole, the branch is the one that was here before.
        reference = repository.cache / "refs" / revision
        reference.parent.mkdir(parents=True, exist_ok=True)
        with atomic(reference) as file:
            file.write(repository.commit.encode())
    return folder


def inquire(source: Source) -> tuple[Repository, int | None]:
    """Asks the hub about a model, and fetches nothing that stays -> its repository, and the bytes that are read of it;
    None if it is gated for this account, so that its index cannot be read.

    Raises:
        ValueError, OSError: the hub does not tell.
    """
    from huggingface_hub import errors

    with explained(source), quiet_client(), TemporaryDirectory() as folder:
        repository = Repository.of(source.model, source.revision)
        try:
            names = needed_files(repository.sizes, lambda name: repository.read(name, folder), source)
        except errors.GatedRepoError:
            return repository, None
    return repository, sum(repository.sizes[name] for name in names)


def sweep(model: str) -> None:
    """Removes unfinished files of a model that killed downloads of the hub's client have left in its cache: it gives
    each a new name, and never continues one. The client holds a lock while it writes; a file system may have no locks,
    so a file must also be unchanged for long."""
    cache = repository_folder(model)
    for leftover in (cache / "blobs").glob("*.incomplete"):
        blob = re.fullmatch(r"(\w+)\.[0-9a-f]{8}\.incomplete", leftover.name)
        lock = cache.parent / ".locks" / cache.name / f"{blob[1]}.lock" if blob else None
        if lock and is_quiet(leftover) and is_locked(lock) is False:
            with suppress(OSError):  # it may belong to another user
                leftover.unlink(missing_ok=True)
