"""What the hub's client says, for people: its errors as sentences, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from synthgen.backends import Source
from synthgen.errors import FULL, SynthgenError

OFFLINE = "HF_HUB_OFFLINE is set, which forbids to ask the hub; unset it"


@contextmanager
def explained(source: Source, kind: Literal["model", "dataset"] = "model") -> Iterator[None]:
    """Turns errors of the hub's client into sentences. Raises: ValueError, OSError, and errors of ours as they are.

    Args:
        source: the repository.
        kind: of what is in it.
    """
    from huggingface_hub import constants, errors, get_token

    page = f"{constants.ENDPOINT}/{'datasets/' * (kind == 'dataset')}{source.model}"
    log_in = "log in with `hf auth login`, or set HF_TOKEN"
    try:
        yield
    except errors.GatedRepoError as error:
        who = "with the account whose token is used here" if get_token() else f"then {log_in}"
        raise ValueError(f"its owner lets in who has accepted its licence: accept it at {page}, {who}") from error
    except errors.RevisionNotFoundError as error:
        raise ValueError(f"the hub has no revision {source.revision!r} of this {kind}; see {page}/commits") from error
    except errors.RepositoryNotFoundError as error:
        raise ValueError(f"the hub has no {kind} of this name, or it is a private one: for those, {log_in}") from error
    except errors.OfflineModeIsEnabled as error:
        raise ValueError(OFFLINE) from error
    except errors.LocalEntryNotFoundError as error:
        raise ValueError(f"the hub cannot be reached ({first_line(error).removeprefix('Got: ')})") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        refused = f"; the hub may refuse your token: {log_in}" if status in (401, 403) else ""
        raise ValueError(f"{constants.ENDPOINT} answers {status}: {first_line(error)}{refused}") from error
    except (ValueError, SynthgenError):
        raise
    except Exception as error:
        if is_of_connection(error):
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise ValueError(f"the hub cannot be reached ({reason})") from error
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        raise ValueError(f"{type(error).__name__}: {first_line(error)}") from error


@contextmanager
def quiet_client() -> Iterator[None]:
    """Keeps the client's own bars and warnings off the terminal, within the block."""
    import huggingface_hub.utils

    utils: Any = huggingface_hub.utils  # its names are imported where they are used, which mypy does not see

    verbosity, has_bars = utils.logging.get_verbosity(), not utils.are_progress_bars_disabled()
    utils.logging.set_verbosity_error()
    utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.logging.set_verbosity(verbosity)
        if has_bars:
            utils.enable_progress_bars()


def first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), "")


def is_of_connection(error: Exception) -> bool:
    """Whether an error is one of the client's HTTP library: httpx in version 1, httpx2 in version 2."""
    return type(error).__module__.partition(".")[0] in {"httpx", "httpx2"}
