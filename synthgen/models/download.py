"""Fetches models, if a person asks for it. Only this module opens a connection, and the one of object stores
(`store/objects.py`) if a run's folder is a URL.

A checkpoint grows in one file, `.NAME.part`. A killed download leaves it, and the next one continues it. For models of
the hub, the hub's client keeps finished files; it never continues unfinished ones, so those are removed.
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

# Weights are taken as safetensors only; pickled ones can run code.
PATTERNS = ("*.json", "*.txt", "*.model", "*.safetensors", "*.jinja")
TIMEOUT_SECONDS = 60.0  # a server may be silent for so long
QUIET_SECONDS = 3600.0  # a file that did not change for so long has no writer any more
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
        said = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise RunError(f"cannot fetch {model!r}: {plain(' '.join(said.split()), 400)}") from error


# A file of a known checksum


def _checkpoint(url: str, md5: str) -> Path:
    """
    Raises:
        ValueError: it cannot be had; says why, and what becomes of the part that has come.
        OSError, OutOfRoom: it cannot be written.
    """
    path = cache_folder() / "models" / Path(url).name
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(TEMPORARY_PATTERN):  # by killed downloads of earlier versions
        if _is_quiet(left):
            left.unlink(missing_ok=True)
    part, validator = (path.with_name(f".{path.name}.{kind}") for kind in ("part", "etag"))
    with _alone(part) as file:
        if path.is_file():  # another was at it, and is through
            part.unlink()
            return path
        try:
            if _md5(file) != md5:
                _receive(url, file, validator)
                if (got := _md5(file)) != md5:
                    file.truncate(0)
                    raise ValueError(
                        f"what came from {url} has the md5 {got}, and the checkpoint has {md5}; nothing of it is kept"
                    )
            os.fsync(file.fileno())
            part.replace(path)
            validator.unlink(missing_ok=True)
        except BaseException:
            if not (_known(validator) and part.is_file() and part.stat().st_size):  # nobody could go on with it
                for file_of_it in (part, validator):
                    file_of_it.unlink(missing_ok=True)
            raise
    return path


@contextmanager
def _alone(part: Path) -> Iterator[BufferedRandom]:
    """A file that grows, for this process alone; waits for another one that has it."""
    while True:
        file = open(part, "a+b")  # noqa: SIM115
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"{part.parent}: another process is fetching the same; waiting for it", file=sys.stderr)
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError:  # a file system without locks: the checksum finds what two have mixed
                pass
            if _is_at(file, part):  # else whoever had it has given it its name, or removed it
                yield file
                return
        finally:
            with suppress(OSError):  # what was to be on the disk is; on a full one the rest comes up again
                file.close()


def _is_at(file: BufferedRandom, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


def _md5(file: BufferedRandom) -> str:
    file.seek(0)
    return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _known(validator: Path) -> str:
    """The name that the server had for what a part is of; "" for none."""
    return validator.read_text(encoding="latin-1") if validator.is_file() else ""


def _receive(url: str, file: BufferedRandom, validator: Path) -> None:
    """Goes on with a file, if the server still has the one that it was begun with and gives parts of it; else begins it
    anew.

    Args:
        validator: where the server's name for what the file was begun with is kept.

    Raises:
        ValueError: the server does not give it, or not all of it.
    """
    begun = file.seek(0, os.SEEK_END)
    known = _known(validator) if begun else ""
    response = _asked(url, begun, known) or _asked(url, 0, "")
    if response is None:
        raise ValueError(f"{url} answers with a part that it was not asked for")
    with response:
        if response.status != 206:
            begun, known = 0, _strong(response.headers["ETag"])
            file.truncate(0)
            validator.write_text(known, encoding="latin-1")
        length = response.headers["Content-Length"]
        whole = begun + int(length) if length else 0
        _require_room(validator.parent, whole - begun)
        lost = ""
        try:
            while block := response.read(BLOCK):
                file.write(block)
                begun += len(block)
        except (OSError, HTTPException) as error:
            if isinstance(error, OSError) and error.errno in FULL:
                raise
            lost = f" ({error or type(error).__name__})"
    file.flush()
    if lost or begun < whole:
        raise ValueError(f"the connection to {url} was lost after {begun:,} bytes{lost}{_kept(begun, known)}")


def _asked(url: str, begun: int, known: str) -> HTTPResponse | None:
    """What a server answers; None if it has no such part as it was asked for. With `known`, that is the rest from
    `begun` on, or the whole, if it is another file now or the server gives no parts (RFC 9110, section 13.1.5).

    Raises:
        ValueError: it refuses, or does not answer.
    """
    request = urllib.request.Request(url, headers={"Range": f"bytes={begun}-", "If-Range": known} if known else {})
    try:
        response: HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except HTTPError as error:
        error.close()  # it is the response
        if error.code == 416 and known:  # "Range Not Satisfiable": the file is not so long
            return None
        raise ValueError(f"{url} answers {error.code} {error.reason}") from error
    except (OSError, HTTPException) as error:
        reason = error.reason if isinstance(error, URLError) else error or type(error).__name__
        raise ValueError(f"{url} cannot be reached ({reason}){_kept(begun, known)}") from error
    given = response.headers["Content-Range"] or ""
    if response.status == 206 and not (known and given.startswith(f"bytes {begun}-")):
        response.close()
        return None
    return response


def _kept(begun: int, known: str) -> str:
    return "; what has come is kept, and the same command goes on from there" if begun and known else "; try again"


def _strong(etag: str | None) -> str:
    """A name that only the same bytes have; "" for one that others may have, too, which no part can be asked by."""
    return etag if etag and re.fullmatch(r'"[^"\r\n]*"', etag) else ""


def _require_room(folder: Path, size: int) -> None:
    """Raises: OutOfRoom: it has none for so many bytes."""
    if (free := free_bytes(folder)) < size:
        raise OutOfRoom(
            f"{size / 1e9:.1f} GB are to come, and {folder} has {free / 1e9:.1f} GB free; free some and run the same "
            "command again"
        )


def _is_quiet(file: Path) -> bool:
    with suppress(FileNotFoundError):
        return time.time() - file.stat().st_mtime > QUIET_SECONDS
    return False


# The hub


def _of_hub(model: str, revision: str | None, variant: str | None) -> Path:
    """
    Raises:
        ValueError, OSError: it cannot be had, or written.
    """
    from huggingface_hub import HfApi, errors, snapshot_download

    # Single-file copies of whole pipelines stand at the top of a repository that has folders for the parts.
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
        with abandonable():  # the hub's threads leave nothing that is not whole
            return Path(snapshot_download(model, revision=revision, allow_patterns=patterns, ignore_patterns=ignored))
    except errors.GatedRepoError as error:
        raise ValueError(
            f"its owner wants to be asked first: do so at https://huggingface.co/{model}, then say who you are: "
            "hf auth login"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ValueError("the hub has no model of this name, or none that it shows to you") from error
    except errors.RevisionNotFoundError as error:
        raise ValueError(f"the hub has no revision {revision!r} of it") from error
    except errors.LocalEntryNotFoundError as error:
        raise ValueError(f"the hub cannot be reached ({_first_line(error).removeprefix('Got: ')})") from error
    except Exception as error:  # its client lets through what the libraries below it raise, which it has changed before
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        raise ValueError(f"{type(error).__name__}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), "")


def _sweep_hub(model: str) -> None:
    """Removes what killed downloads of a model have left in the hub's cache: from version 2 on, its client gives what
    it fetches another name each time. The client holds a lock while it writes; a file system may have none, so the file
    must have been left alone for long, too. Names of version 1 stay: that goes on with them."""
    from huggingface_hub import constants

    cache, name = Path(constants.HF_HUB_CACHE), f"models--{model.replace('/', '--')}"
    for left in (cache / name / "blobs").glob("*.incomplete"):
        found = re.fullmatch(r"(\w+)\.[0-9a-f]{8}\.incomplete", left.name)
        if found and _is_quiet(left) and is_locked(cache / ".locks" / name / f"{found[1]}.lock") is False:
            with suppress(OSError):  # another user's
                left.unlink(missing_ok=True)
