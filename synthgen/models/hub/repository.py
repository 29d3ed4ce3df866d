"""A repository of the hub: what is in it, and where it is in the cache of the hub's client."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synthgen.base.wording import plain, shown
from synthgen.models import read_json, repository_folder


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository of the hub at one commit.

    Attributes:
        sizes: file -> bytes.
        checksums: file -> SHA-256, of the large files.
        gated: whether its owner asks people to accept terms before they may fetch it.
        licence: as its card names it, if it does.
    """

    model: str
    commit: str
    sizes: Mapping[str, int]
    checksums: Mapping[str, str]
    gated: bool
    licence: str | None

    @classmethod
    def of(cls, model: str, revision: str | None) -> Repository:
        """Asks the hub.

        Raises:
            ValueError: the hub names commits or checksums that are none; they become names of files.
            Errors of the hub's client: see `explained`.
        """
        from huggingface_hub import HfApi, errors

        api = HfApi()
        try:
            info = api.model_info(model, revision=revision, files_metadata=True)
        except errors.RevisionNotFoundError:
            if not re.fullmatch(r"[0-9a-f]{7,39}", revision or ""):
                raise
            # The hub takes whole commits only.
            commits = [c.commit_id for c in api.list_repo_commits(model) if c.commit_id.startswith(str(revision))]
            if len(commits) != 1:
                raise
            info = api.model_info(model, revision=commits[0], files_metadata=True)
        files = info.siblings or []
        checksums = {file.rfilename: file.lfs.sha256 for file in files if file.lfs}
        for name, length in ((str(info.sha), 40), *((checksum, 64) for checksum in checksums.values())):
            if not re.fullmatch(rf"[0-9a-f]{{{length}}}", name):
                raise ValueError(f"the hub gives {shown(name)} in place of a checksum")
        data = info.card_data
        licence = data and (data.get("license_name") if data.license == "other" else data.license)
        return cls(
            model,
            str(info.sha),
            {file.rfilename: file.size or 0 for file in files},
            checksums,
            bool(info.gated),
            licence if isinstance(licence, str) else None,
        )

    @property
    def cache(self) -> Path:
        return repository_folder(self.model)

    def read(self, name: str, cache: str | None = None) -> dict[str, Any]:
        """The mapping in a JSON file, which is fetched into the client's cache, or another. Raises: ValueError: it
        cannot be read."""
        from huggingface_hub import hf_hub_download

        path = Path(hf_hub_download(self.model, name, revision=self.commit, cache_dir=cache))
        try:
            return read_json(path)
        except (OSError, ValueError) as error:
            raise ValueError(f"its {plain(name)} cannot be read: {plain(str(error), 200)}") from error

    def missing(self, names: Collection[str]) -> dict[str, int]:
        """File -> bytes, of those that are not in the cache."""
        from huggingface_hub import hf_hub_download

        missing = {}
        for name in names:
            here = self.cache / "snapshots" / self.commit / name
            blob = self.cache / "blobs" / self.checksums.get(name, "none")
            if here.is_file() or blob.is_file():
                continue
            # The client may have the same file of another repository.
            if (
                name not in self.checksums
                or hf_hub_download(self.model, name, revision=self.commit, dry_run=True).will_download
            ):
                missing[name] = self.sizes[name]
        return missing
