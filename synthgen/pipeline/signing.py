"""What signs the images of exports, as a spec names it."""

from __future__ import annotations

import os
from importlib.util import find_spec

from synthgen.base.files import expand_home, read_bytes
from synthgen.base.signing import Signer
from synthgen.base.wording import shown
from synthgen.base.xmp import Origin
from synthgen.errors import Problem, SpecError
from synthgen.spec import DatasetSpec

SIGNING = "provenance.c2pa"
# A PNG of one grey pixel.
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a49444154789c6368"
    "00000082008177cd72b60000000049454e44ae426082"
)


def signer_of(spec: DatasetSpec) -> Signer | None:
    """What signs the exports of a spec; None if they are not signed.

    Raises:
        SpecError: a package or a file is missing, or the key cannot be read.
    """
    given = spec.provenance.c2pa
    if given is None:
        return None
    if missing := [package for package in ("c2pa", "cryptography") if find_spec(package) is None]:
        raise SpecError([Problem(SIGNING, f"needs {' and '.join(missing)}: pip install 'synthgen[c2pa]'")])
    found: dict[str, bytes] = {}
    problems: list[Problem] = []
    for key, name in given.model_dump().items():
        try:
            found[key] = _content(name)
        except ValueError as error:
            problems.append(Problem(f"{SIGNING}.{key}", str(error)))
    if problems:
        raise SpecError(problems)
    try:
        return Signer(found["certificate"], found["key"])
    except ValueError as error:
        raise SpecError([Problem(f"{SIGNING}.key", f"got {shown(given.key)}; {error}")]) from error


def signing_problems(spec: DatasetSpec) -> list[Problem]:
    """Why exports cannot be signed, found by signing a picture of one pixel."""
    try:
        if signer := signer_of(spec):
            signer.signed(PIXEL, Origin())
    except SpecError as error:
        return list(error.problems)
    except ValueError as error:
        return [Problem(SIGNING, f"cannot sign with this certificate and this key: {error}")]
    return []


def _content(name: str) -> bytes:
    """What a file holds; or an environment variable, if the name starts with `$`.

    Raises:
        ValueError: it cannot be read.
    """
    if name.startswith("$"):
        if not (value := os.environ.get(name[1:], "")):
            raise ValueError(f"got {shown(name)}; no such environment variable is set")
        return value.encode()
    try:
        return read_bytes(expand_home(name))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ValueError(f"cannot read {shown(name)}: {reason}") from error
