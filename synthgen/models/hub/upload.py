"""Files sent to a dataset's repository on the hub, so that another process can go on with it: what the hub has already
is not sent again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synthgen.backends import Source
from synthgen.base.files import sha256
from synthgen.base.interrupts import abandonable
from synthgen.models.hub.client import OFFLINE, explained, quiet_client
from synthgen.models.transfer import Progress, Report

CARD = "README.md"
BATCH_FILES, BATCH_BYTES = 100, 1_000_000_000  # that are sent between two lines of progress
COMMIT_FILES = 1000  # of one commit; the hub takes longer for more than a client waits


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file that the repository is to have. `path`: where it is; or `content`, if it is on no disk."""

    size: int
    sha256: str
    path: Path | None = None
    content: bytes = b""

    @classmethod
    def of(cls, content: bytes) -> LocalFile:
        return cls(len(content), hashlib.sha256(content).hexdigest(), None, content)

    def unchanged(self) -> Path | bytes:
        """Where it is, or its content.

        Raises:
            ValueError: it has changed since it was exported.
        """
        if self.path and (not self.path.is_file() or sha256(self.path) != self.sha256):
            raise ValueError(f"{self.path} is gone or has another checksum than when it was exported; export it again")
        return self.path or self.content

    def read(self) -> bytes:
        """Raises: ValueError: see `unchanged`."""
        found = self.unchanged()
        return found if isinstance(found, bytes) else found.read_bytes()

    def git_id(self) -> str:
        """By which the hub names files that are small enough for git."""
        content = self.read()
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class Upload:
    """What has to be sent to a repository.

    Attributes:
        repository: `user/name`.
        account: whose token is used.
        exists: whether the repository is there already.
        is_private: whether it is private, or will be.
        files: those to send, by their names in the repository.
        unchanged: how many files it has already.
        replaced, removed: names of its files that get another content, and of those that no export has any more.
    """

    repository: str
    account: str
    exists: bool
    is_private: bool
    files: Mapping[str, LocalFile]
    unchanged: int
    replaced: Sequence[str]
    removed: Sequence[str]

    @property
    def size(self) -> int:
        """In bytes, of all files to send."""
        return sum(file.size for file in self.files.values())

    @classmethod
    def plan(
        cls, repository: str, files: Mapping[str, LocalFile], is_own: Callable[[str], bool], *, private: bool
    ) -> Upload:
        """Asks the hub what it has, and sends nothing.

        Args:
            files: all that the repository is to have, by name.
            is_own: whether a file of this name comes from an export, so that it is removed if no export has it.

        Raises:
            ValueError: the hub does not tell, or has a public repository of this name where a private one is wanted.
        """
        from huggingface_hub import HfApi, constants, errors, get_token
        from huggingface_hub.hf_api import RepoFile

        if constants.HF_HUB_OFFLINE:
            raise ValueError(OFFLINE)  # before the client says that it has no token
        if get_token() is None:
            raise ValueError("there is no token: log in with `hf auth login`, or set HF_TOKEN to one that may write")
        api = HfApi()
        with explained(Source(repository), "dataset"), quiet_client():
            account = str(api.whoami()["name"])
            exists, is_private, there = True, private, dict[str, Any]()
            try:
                is_private = bool(api.dataset_info(repository).private)
                listed = api.list_repo_tree(repository, recursive=True, repo_type="dataset")
                there = {found.path: found for found in listed if isinstance(found, RepoFile)}
            except errors.RepositoryNotFoundError:
                exists = False
        if private and not is_private:
            raise ValueError("it is public already; make it private in its settings, or push without --private")
        changed = {name: file for name, file in files.items() if not _is_there(file, there.get(name))}
        return cls(
            repository, account, exists, is_private, changed, len(files) - len(changed),
            sorted(changed.keys() & there.keys()), sorted(name for name in there if name not in files and is_own(name)),
        )  # fmt: skip

    def send(self, message: str, report: Report) -> str:
        """Sends the files; the repository shows them when all of them are there. A repository that is not there is
        made first.

        Args:
            message: of the commits.

        Returns:
            The page of the dataset.

        Raises:
            ValueError: the hub refuses them, or a file has changed since it was exported.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants

        api = HfApi()
        target: dict[str, Any] = {"repo_id": self.repository, "repo_type": "dataset"}
        names = sorted(self.files)
        sent, has_begun = 0, False
        try:
            with explained(Source(self.repository), "dataset"), quiet_client(), abandonable():
                if not self.exists:
                    api.create_repo(**target, private=self.is_private, exist_ok=True)
                has_begun, operations = True, list[Any]()
                for batch in _batches(names, self.files):
                    added = [CommitOperationAdd(name, self.files[name].unchanged()) for name in batch]
                    with _cause_raised():
                        api.preupload_lfs_files(additions=added, **target)
                    operations += added
                    sent += sum(self.files[name].size for name in batch)
                    report(Progress(sent, self.size, sent))
                operations += [CommitOperationDelete(name, is_folder=False) for name in self.removed]
                # The card comes last: it says which files there are.
                operations.sort(key=lambda operation: operation.path_in_repo == CARD)
                for begin in range(0, len(operations), COMMIT_FILES):
                    some = operations[begin : begin + COMMIT_FILES]
                    api.create_commit(operations=some, commit_message=message, **target)
        except ValueError as error:
            kept = "; the hub keeps what has come, and the same command goes on" if has_begun else ""
            raise ValueError(f"{error}{kept}") from error
        return f"{constants.ENDPOINT}/datasets/{self.repository}"


@contextmanager
def _cause_raised() -> Iterator[None]:
    """Raises what stopped an upload: the client raises an error that says only which file it was."""
    try:
        yield
    except RuntimeError as error:
        raise error.__cause__ or error from None


def _is_there(file: LocalFile, found: Any) -> bool:
    """Whether a file is the one that the hub has. `found`: a `RepoFile`, or None."""
    if found is None or found.size != file.size:
        return False
    return bool(found.lfs.sha256 == file.sha256 if found.lfs else found.blob_id == file.git_id())


def _batches(names: Sequence[str], files: Mapping[str, LocalFile]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for name in names:
        if batch and (len(batch) == BATCH_FILES or size + files[name].size > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(name)
        size += files[name].size
    if batch:
        yield batch
