"""Fetches models when a person asks for it. Only this module opens connections, and `store/objects.py` if a run's
folder is a URL.

A checkpoint is written into one file, `.NAME.part`. A killed download leaves that file, and the next download continues
it. For models of the hub, the hub's client keeps finished files; it never continues unfinished ones, so those are
removed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException, HTTPResponse
from io import BufferedRandom
from pathlib import Path
from urllib.error import HTTPError, URLError

from synthgen.base.disk import free_bytes
from synthgen.base.files import TEMPORARY_PATTERN
from synthgen.base.interrupts import abandonable
from synthgen.base.locks import is_locked
from synthgen.base.wording import plain
from synthgen.errors import FULL, OutOfRoom, RunError
from synthgen.models import KNOWN, cache_folder

# Only safetensors weights are fetched: pickled weights can run code.
PATTERNS = ("*.json", "*.txt", "*.model", "*.safetensors", "*.jinja")
TIMEOUT_SECONDS = 60.0  # the longest silence of a server
QUIET_SECONDS = 3600.0  # a file that has not changed for this long has no writer any more
BLOCK = 1 << 20


def download_model(model: str, revision: str | None = None, variant: str | None = None) -> Path:
    """Fetches a Hugging Face model's safetensors and configurations, or one of SAM's known checkpoints.

    Raises:
        RunError: it cannot be fetched.
        OutOfRoom: the disk has no room for it.
    """
    known = KNOWN.get(model)
    try:
        if known and known.url:
            return _checkpoint(known.url, known.md5 or "")
        return _of_hub(model, revision, variant)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise OutOfRoom(
                f"no room left on the disk for {model!r}; free some and run the same command again"
            ) from error
        reason = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise RunError(f"cannot fetch {model!r}: {plain(' '.join(reason.split()), 400)}") from error


# Files with a known checksum


def _checkpoint(url: str, md5: str) -> Path:
    """Fetches one file, unless it is already there.

    Raises:
        ValueError: it cannot be fetched; the message says why, and whether the received part is kept.
        OSError, OutOfRoom: it cannot be written.
    """
    path = cache_folder() / "models" / Path(url).name
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(TEMPORARY_PATTERN):  # from killed downloads of earlier versions
        if _is_quiet(leftover):
            leftover.unlink(missing_ok=True)
    part, validator = (path.with_name(f".{path.name}.{kind}") for kind in ("part", "etag"))
    with _alone(part) as file:
        if path.is_file():  # another process has fetched it meanwhile
            part.unlink()
            return path
        try:
            if _md5(file) != md5:
                _receive(url, file, validator)
                if (got := _md5(file)) != md5:
                    file.truncate(0)
                    raise ValueError(
                        f"the file from {url} has the md5 {got}, and the checkpoint has {md5}; it is not kept"
                    )
            os.fsync(file.fileno())
            part.replace(path)
            validator.unlink(missing_ok=True)
        except BaseException:
            if not (_known(validator) and part.is_file() and part.stat().st_size):  # no download could continue it
                for file_of_it in (part, validator):
                    file_of_it.unlink(missing_ok=True)
            raise
    return path


@contextmanager
def _alone(part: Path) -> Iterator[BufferedRandom]:
    """Opens the partial file and locks it; waits if another process holds the lock."""
    while True:
        file = open(part, "a+b")  # noqa: SIM115
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"{part.parent}: another process is fetching the same; waiting for it", file=sys.stderr)
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError:  # a file system without locks: if two processes write, the checksum will show it
                pass
            if _is_at(file, part):  # otherwise the other process has renamed or removed it
                yield file
                return
        finally:
            with suppress(OSError):  # finished data has been synced; on a full disk, closing repeats the same error
                file.close()


def _is_at(file: BufferedRandom, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


def _md5(file: BufferedRandom) -> str:
    file.seek(0)
    return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _known(validator: Path) -> str:
    """The ETag of the file that a part belongs to; "" if there is none."""
    return validator.read_text(encoding="latin-1") if validator.is_file() else ""


def _receive(url: str, file: BufferedRandom, validator: Path) -> None:
    """Continues a file if the server still has the same version and serves ranges of it; otherwise starts again.

    Args:
        validator: the file that stores the ETag of the version that the download began with.

    Raises:
        ValueError: the server does not send the file, or not all of it.
    """
    received = file.seek(0, os.SEEK_END)
    known = _known(validator) if received else ""
    response = _request(url, received, known) or _request(url, 0, "")
    if response is None:
        raise ValueError(f"{url} answers with a part of the file that was not requested")
    with response:
        if response.status != 206:
            received, known = 0, _strong(response.headers["ETag"])
            file.truncate(0)
            validator.write_text(known, encoding="latin-1")
        length = response.headers["Content-Length"]
        whole = received + int(length) if length else 0
        _require_room(validator.parent, whole - received)
        lost = ""
        try:
            while block := response.read(BLOCK):
                file.write(block)
                received += len(block)
        except (OSError, HTTPException) as error:
            if isinstance(error, OSError) and error.errno in FULL:
                raise
            lost = f" ({error or type(error).__name__})"
    file.flush()
    if lost or received < whole:
        raise ValueError(f"the connection to {url} was lost after {received:,} bytes{lost}{_kept(received, known)}")


def _request(url: str, received: int, known: str) -> HTTPResponse | None:
    """The server's response; None if it does not match the request. With `known`, an ETag, the request is for the bytes
    from `received` on; the server sends the whole file if its version has changed or if it serves no ranges (RFC 9110,
    section 13.1.5).

    Raises:
        ValueError: the server refuses, or does not answer.
    """
    request = urllib.request.Request(url, headers={"Range": f"bytes={received}-", "If-Range": known} if known else {})
    try:
        response: HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except HTTPError as error:
        error.close()  # an HTTPError is also the response
        if error.code == 416 and known:  # "Range Not Satisfiable": the file is shorter
            return None
        raise ValueError(f"{url} answers {error.code} {error.reason}") from error
    except (OSError, HTTPException) as error:
        reason = error.reason if isinstance(error, URLError) else error or type(error).__name__
        raise ValueError(f"{url} cannot be reached ({reason}){_kept(received, known)}") from error
    content_range = response.headers["Content-Range"] or ""
    if response.status == 206 and not (known and content_range.startswith(f"bytes {received}-")):
        response.close()
        return None
    return response


def _kept(received: int, known: str) -> str:
    return (
        "; the received part is kept, and the same command goes on from there" if received and known else "; try again"
    )


def _strong(etag: str | None) -> str:
    """An ETag that guarantees equal bytes; "" for a weak one, with which a server accepts no range requests."""
    return etag if etag and re.fullmatch(r'"[^"\r\n]*"', etag) else ""


def _require_room(folder: Path, size: int) -> None:
    """Raises: OutOfRoom: the folder's disk has less than `size` bytes free."""
    if (free := free_bytes(folder)) < size:
        raise OutOfRoom(
            f"the download needs {size / 1e9:.1f} GB, and {folder} has {free / 1e9:.1f} GB free; free some and run the "
            "same command again"
        )


def _is_quiet(file: Path) -> bool:
    with suppress(FileNotFoundError):
        return time.time() - file.stat().st_mtime > QUIET_SECONDS
    return False


# The hub


def _of_hub(model: str, revision: str | None, variant: str | None) -> Path:
    """Fetches a model from the Hugging Face hub.

    Raises:
        ValueError, OSError: it cannot be fetched or written.
    """
    from huggingface_hub import HfApi, errors, snapshot_download

    # A repository with a folder for each part may also hold the whole pipeline as a single file at its top.
    ignore = ["*.fp16*", "*.non_ema*", "*.ckpt"] + (
        ["sd*.safetensors", "flux*.safetensors", "v1-*.safetensors"] if not variant else []
    )
    patterns, ignored = list(PATTERNS), ignore
    _sweep_hub(model)
    try:
        if variant and any(
            file.rfilename == "model_index.json" for file in HfApi().model_info(model, revision=revision).siblings or ()
        ):
            patterns = [p for p in PATTERNS if p != "*.safetensors"]
            patterns += [f"*.{variant}.safetensors", f"*.{variant}-*.safetensors"]
            ignored = []
        with abandonable():  # the hub's threads leave no incomplete file under a final name
            return Path(snapshot_download(model, revision=revision, allow_patterns=patterns, ignore_patterns=ignored))
    except errors.GatedRepoError as error:
        raise ValueError(
            f"its owner requires a request for access: make it at https://huggingface.co/{model}, then log in with: "
            "hf auth login"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ValueError("the hub has no model of this name, or does not show it to you") from error
    except errors.RevisionNotFoundError as error:
        raise ValueError(f"the hub has no revision {revision!r} of this model") from error
    except errors.LocalEntryNotFoundError as error:
        raise ValueError(f"the hub cannot be reached ({_first_line(error).removeprefix('Got: ')})") from error
    except Exception as error:  # the client passes on errors of its HTTP library, which it has changed before
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        raise ValueError(f"{type(error).__name__}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), "")


def _sweep_hub(model: str) -> None:
    """Removes unfinished files of a model that killed downloads have left in the hub's cache: since version 2 the
    client gives each unfinished file a new name. The client holds a lock while it writes; a file system may have no
    locks, so a file must also be unchanged for long. Unfinished files of version 1 stay, since that version continues
    them."""
    from huggingface_hub import constants

    cache, name = Path(constants.HF_HUB_CACHE), f"models--{model.replace('/', '--')}"
    for leftover in (cache / name / "blobs").glob("*.incomplete"):
        blob = re.fullmatch(r"(\w+)\.[0-9a-f]{8}\.incomplete", leftover.name)
        if blob and _is_quiet(leftover) and is_locked(cache / ".locks" / name / f"{blob[1]}.lock") is False:
            with suppress(OSError):  # it may belong to another user
                leftover.unlink(missing_ok=True)
