"""The connection of a flow to its Prefect server: checked before the flow starts, and lost on the way at times."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from httpx import HTTPStatusError, TransportError, UnsupportedProtocol
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.worker import EventsWorker
from prefect.settings import (
    PREFECT_API_REQUEST_TIMEOUT,
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    temporary_settings,
)

from synthgen.errors import SynthgenError
from synthgen.orchestration.server import RESTARTS, START_SECONDS, ServerError, print_notice

ANSWER_SECONDS = 10.0  # for one answer of a server of the user's
MOST_RETRIES = 3  # of a request to it, after 2, 4 and 8 s. The end of a flow makes two or three requests.

R = TypeVar("R")


def on_server(run: Callable[[], R], finished: Callable[[], R | None], is_embedded: bool) -> R:
    """Runs a flow on the Prefect server of the settings, even if the server is lost on the way: a flow needs it only at
    its beginning and its end.

    Args:
        run: runs the flow. It is called again if the server comes back after it was lost; the store knows what is done.
        finished: returns what the flow returns if all of its work is done, else None.
        is_embedded: whether the server is `embedded_server`, which comes back. Another server is not waited for.

    Raises:
        SynthgenError: what the flow raises.
        ServerError: the server does not answer, and work is left.
    """
    silent = f"Prefect's server at {PREFECT_API_URL.value()} does not answer"
    patience = {
        PREFECT_CLIENT_MAX_RETRIES: min(PREFECT_CLIENT_MAX_RETRIES.value(), MOST_RETRIES),
        PREFECT_API_REQUEST_TIMEOUT: min(PREFECT_API_REQUEST_TIMEOUT.value(), ANSWER_SECONDS),
    }
    for name in ("prefect._internal.concurrency", "EventsWorker", "APILogWorker"):
        logging.getLogger(name).addFilter(_hide)
    with temporary_settings({} if is_embedded else patience):
        check_api()
        if not answers():
            raise ServerError(f"{silent}; nothing was begun")
        for _ in range(RESTARTS):
            try:
                with _dropping_events():
                    return run()
            except Exception as error:
                cause = _cause(error)
                if isinstance(cause, SynthgenError) and cause is not error:
                    raise cause from None
                if not _is_away(cause):
                    raise
            if (done := finished()) is not None:
                print_notice(
                    f"{silent}, and has no record of the end of this run; the dataset is finished all the same"
                )
                return done
            if not answers(START_SECONDS if is_embedded else 0):
                break
            print_notice("Prefect's server was away, and answers again; the run goes on")
    raise ServerError(f"{silent}; what is finished is kept, and the same command goes on from there")


def check_api() -> None:
    """Checks that the settings' address is that of Prefect's API, and that it lets us in. Does nothing if it is away.

    Raises:
        ServerError: it is another server, or it refuses us; says what to set.
    """
    url = PREFECT_API_URL.value()
    try:
        with _client() as client:
            if client._client.get("/health").json() is True:
                return
        why = "is not Prefect's API"
    except HTTPStatusError as error:
        code = error.response.status_code
        if code in (401, 403):
            raise ServerError(f"the server at {url} asks for a login ({code}); set PREFECT_API_AUTH_STRING") from None
        if _is_away(error):
            return
        why = f"is not Prefect's API ({code})"
    except (ImportError, ValueError, UnsupportedProtocol) as error:  # The answer is no JSON, or the URL is no address.
        if "proxy" in str(error):
            raise ServerError(f"no proxy of the environment can be used for {url}: {error}") from None
        why = "is not Prefect's API"
    except TransportError as error:
        if "CERTIFICATE" in str(error) or "SSL" in str(error):
            raise ServerError(f"the server at {url} cannot be trusted: {error}") from None
        return
    raise ServerError(f"{url} {why}; PREFECT_API_URL is such as http://127.0.0.1:4200/api, with /api at its end")


def answers(seconds: float = 0) -> bool:
    """Whether the server of the settings answers now, or within some seconds. A refusal is an answer too."""
    deadline = time.monotonic() + seconds
    with _client() as client:
        while (error := client.api_healthcheck()) and (not isinstance(error, HTTPStatusError) or _is_away(error)):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.5)
    return True


@contextmanager
def _client() -> Iterator[SyncPrefectClient]:
    """A client that asks once and does not wait long."""
    with (
        temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
        get_client(sync_client=True, httpx_settings={"timeout": ANSWER_SECONDS}) as client,
    ):
        yield client


def _cause(error: BaseException) -> BaseException:
    """What an error is about: the error for people that Prefect was about to report to its server, else that the server
    cannot be reached, else the error itself."""
    causes = [error]
    while (following := causes[-1].__cause__ or causes[-1].__context__) and following not in causes:
        causes.append(following)
    wanted = [e for e in causes if isinstance(e, SynthgenError)] + [e for e in causes if _is_away(e)]
    return wanted[0] if wanted else error


def _is_away(error: BaseException) -> bool:
    """Whether an error is that of a server which cannot be reached, or of a proxy which cannot reach it."""
    if isinstance(error, HTTPStatusError):
        return error.response.status_code >= 500
    return isinstance(error, TransportError)


@contextmanager
def _dropping_events() -> Iterator[None]:
    """If its block fails and the server is gone, drops the events that Prefect still wants to send. Otherwise Prefect
    would try for ten seconds an event at the end of the process, and there are three events a task."""
    try:
        yield
    except BaseException:
        if not answers():
            for service in list(EventsWorker._instances.values()):  # type: ignore[misc]  # There is no public way.
                with service._queue.mutex:
                    service._queue.queue.clear()
        raise


def _hide(record: logging.LogRecord) -> bool:
    """A filter for Prefect's loggers, which print a page for each event that cannot be sent. Prefect sets their levels
    with each flow, so a level would not last."""
    return False
