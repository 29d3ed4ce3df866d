"""Fetches models when a person asks for it. Only this module and `models/hub/` open connections, and
`store/objects.py` if a run's folder is a URL.

A checkpoint is written into one file, `.NAME.part`. A killed download leaves that file, and the next download continues
it.
"""

from __future__ import annotations

import hashlib
import os
import re
import urllib.request
from http.client import HTTPException, HTTPResponse
from io import BufferedRandom
from pathlib import Path
from urllib.error import HTTPError, URLError

from synthgen.backends import Source
from synthgen.base.files import TEMPORARY_PATTERN
from synthgen.base.wording import plain
from synthgen.errors import FULL, OutOfRoom, RunError
from synthgen.models import KNOWN, cache_folder
from synthgen.models.transfer import BLOCK, TIMEOUT_SECONDS, Progress, Report, alone, is_quiet, require_room


def download_model(source: Source, report: Report = lambda progress: None) -> Path:
    """Fetches what is read of a Hugging Face model, or one of SAM's known checkpoints -> its folder or file.

    Args:
        report: is told how far it is.

    Raises:
        RunError: it cannot be fetched.
        OutOfRoom: the disk has no room for it.
    """
    model = source.model
    known = KNOWN.get(model)
    try:
        if known and known.url:
            return _checkpoint(known.url, known.md5 or "", report)
        from synthgen.models.hub.fetch import fetch

        return fetch(source, report)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise OutOfRoom(
                f"no room left on the disk for {model!r}; free some and run the same command again"
            ) from error
        reason = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise RunError(f"cannot fetch {model!r}: {plain(' '.join(reason.split()), 600)}") from error


# Files with a known checksum


def _checkpoint(url: str, md5: str, report: Report) -> Path:
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
        if is_quiet(leftover):
            leftover.unlink(missing_ok=True)
    part, validator = (path.with_name(f".{path.name}.{kind}") for kind in ("part", "etag"))
    with alone(part) as file:
        if path.is_file():  # another process has fetched it meanwhile
            part.unlink()
            return path
        try:
            if _md5(file) != md5:
                _receive(url, file, validator, report)
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


def _md5(file: BufferedRandom) -> str:
    file.seek(0)
    return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _known(validator: Path) -> str:
    """The ETag of the file that a part belongs to; "" if there is none."""
    return validator.read_text(encoding="latin-1") if validator.is_file() else ""


def _receive(url: str, file: BufferedRandom, validator: Path, report: Report) -> None:
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
        require_room(validator.parent, whole - received)
        before = received
        lost = ""
        try:
            while block := response.read(BLOCK):
                file.write(block)
                received += len(block)
                report(Progress(received, whole, received - before))
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
