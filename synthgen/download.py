"""Fetching models, when a person says so. Nothing else opens a connection but the store that a run is kept in
(`objects`), where a URL is given for its folder."""

from __future__ import annotations

import hashlib
import urllib.request
from pathlib import Path
from urllib.error import HTTPError

from synthgen.errors import RunError
from synthgen.files import atomic
from synthgen.interrupts import abandonable
from synthgen.models import KNOWN, cache_folder

# Weights are taken as safetensors only; pickled ones can run code.
PATTERNS = ("*.json", "*.txt", "*.model", "*.safetensors", "*.jinja")


def download_model(model: str, revision: str | None = None, variant: str | None = None) -> Path:
    """Fetches a Hugging Face model's safetensors and configurations, or one of SAM's known checkpoints.

    Raises:
        RunError: it cannot be had.
    """
    known = KNOWN.get(model)
    try:
        if known and known.url:
            return _download_file(known.url, known.md5 or "")
        from huggingface_hub import HfApi, snapshot_download

        if variant and any(
            file.rfilename == "model_index.json" for file in HfApi().model_info(model, revision=revision).siblings or ()
        ):
            patterns = [p for p in PATTERNS if p != "*.safetensors"] + [
                f"*.{variant}.safetensors",
                f"*.{variant}-*.safetensors",
            ]
            ignore = []
        else:
            patterns = list(PATTERNS)
            # Single-file copies of whole pipelines stand at the top of a repository that has folders for the parts.
            ignore = ["*.fp16*", "*.non_ema*", "*.ckpt"] + (
                ["sd*.safetensors", "flux*.safetensors", "v1-*.safetensors"] if not variant else []
            )
        with abandonable():  # the hub keeps what has come of a file, and goes on from there
            return Path(
                snapshot_download(model, revision=revision, allow_patterns=patterns, ignore_patterns=ignore or None)
            )
    except (OSError, ValueError) as error:
        if isinstance(error, HTTPError):
            error.close()  # it is the response
        raise RunError(f"cannot fetch {model!r}: {type(error).__name__}: {error}") from error


def _download_file(url: str, md5: str) -> Path:
    path = cache_folder() / "models" / Path(url).name
    if path.is_file():
        return path
    digest = hashlib.md5(usedforsecurity=False)
    with urllib.request.urlopen(url, timeout=60) as response, atomic(path) as file:
        while block := response.read(1 << 20):
            digest.update(block)
            file.write(block)
        if digest.hexdigest() != md5:
            raise ValueError(f"what came has the md5 {digest.hexdigest()}, and the checkpoint has {md5}")
    return path
