"""The server of the review's page. It listens on this machine's loopback only, and answers only requests that have the
token."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import secrets
import socket
import webbrowser
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile, gettempdir
from typing import Any

import jinja2
import orjson
from markupsafe import Markup
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from synthgen.base.colours import class_colour
from synthgen.base.interrupts import ended_by_signals
from synthgen.errors import RunError, SynthgenError
from synthgen.judging.reviews import PageVerdict, Queue, ReviewLog
from synthgen.pipeline.build import Build
from synthgen.review.queue import ReviewQueue

HERE = Path(__file__).parent
# Any other host in a request may be a foreign site whose name resolves to this machine (DNS rebinding).
HOSTS = ("127.0.0.1", "localhost")
MAX_BODY_BYTES = 10_000  # of a request; a verdict has about a hundred.
REDIRECT_PREFIX = "synthgen-review-"  # starts the names of the files that lead a browser to the page.


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    item: int = Field(ge=0)
    verdict: PageVerdict
    instance: int | None = Field(None, ge=0)
    category_id: int | None = None


def serve(build: Build, queue: Queue, count: int | None, port: int, browser: bool, by: str = "") -> int:
    """Serves the page until the process is stopped; -> the number of verdicts made. `by`: who makes them.

    Raises:
        RunError: there is nothing to review, another review is open, or the port is in use.
    """
    import uvicorn

    run = build.run
    log_file = run.files.inside(run.paths.reviews)
    with run.reviewing(), ReviewLog.open(log_file, run.files.publish) as log, socket.socket() as bound:
        before, token = len(log.made), secrets.token_urlsafe(24)
        application = app(ReviewQueue(build, queue, count, log, by), token)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind(("127.0.0.1", port))
        except OSError as error:
            raise RunError(f"port {port} cannot be used: {error.strerror}; take another --port, or 0") from error
        bound.listen()
        address = f"http://127.0.0.1:{bound.getsockname()[1]}/?token={token}"
        print(f"review: {address}\nEach verdict is saved at once; Ctrl-C ends the review.", flush=True)
        server = uvicorn.Server(uvicorn.Config(application, log_level="error", lifespan="off", ws="none"))
        with ExitStack() as stack:
            stack.enter_context(ended_by_signals())
            if browser:
                try:
                    webbrowser.open(stack.enter_context(redirect_file(address)))
                except OSError as error:
                    print(
                        f"The browser cannot be opened ({error.strerror}). Open the address above in a browser.",
                        flush=True,
                    )
            with suppress(KeyboardInterrupt):
                server.run(sockets=[bound])
        return len(log.made) - before


@contextmanager
def redirect_file(address: str) -> Iterator[str]:
    """Yields the URL of a file that leads a browser to an address, and removes the file at the end. Only this user can
    read the file. Everybody on the machine could read the token in the command line of a browser.

    The file stays locked. This removes files without a lock, which killed processes have left.

    Raises:
        OSError: no file can be made.
    """
    for left in Path(gettempdir()).glob(f"{REDIRECT_PREFIX}*.html"):
        with suppress(OSError):  # The file is another user's, or in use.
            handle = os.open(left, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.unlink()
            finally:
                os.close(handle)
    file = _locked_file()
    try:
        file.write(
            '<!doctype html><meta charset="utf-8"><meta name="referrer" content="no-referrer"><title>review</title>'
            f'<meta http-equiv="refresh" content="0; url={address}"><a href="{address}">to the review</a>\n'
        )
        file.flush()
        yield Path(file.name).as_uri()
    finally:
        with suppress(FileNotFoundError):  # Something else has cleared the folder of temporary files.
            file.close()


def _locked_file() -> Any:
    """A locked temporary file that only its user can read."""
    while True:
        file = NamedTemporaryFile("w", prefix=REDIRECT_PREFIX, suffix=".html", encoding="utf-8")  # noqa: SIM115
        fcntl.flock(file, fcntl.LOCK_EX)
        if Path(file.name).exists():  # Before it was locked, another review may have removed it as unused.
            return file
        with suppress(FileNotFoundError):
            file.close()


def app(queue: ReviewQueue, token: str) -> Any:
    """The ASGI application."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, PlainTextResponse, Response
    from starlette.routing import Route

    page, policy = _page(queue)
    fixed = {
        "Content-Security-Policy": policy, "Cache-Control": "no-store", "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }  # fmt: skip

    def answer(content: Any) -> Response:
        return Response(orjson.dumps(content), media_type="application/json")

    def refused(request: Request) -> Response | None:
        """The answer to a request that is not from our page; None for one that is."""
        host, origin = request.headers.get("host", "").lower(), request.headers.get("origin")
        given = request.headers.get("x-token") or request.query_params.get("token") or ""
        # A browser names the origin of a page that sends a request. Our page's origin is the host that it asks.
        if host.partition(":")[0] not in HOSTS or origin not in {None, f"http://{host}"}:
            return PlainTextResponse("This page answers only requests from this machine.", 403)
        if not secrets.compare_digest(given.encode(), token.encode()):
            return PlainTextResponse("Open the address that `synthgen review` has printed.", 403)
        if request.method not in {"GET", "POST"}:
            return PlainTextResponse("Method Not Allowed", 405, {"Allow": "GET, POST"})
        return None

    class Guarded:
        def __init__(self, inner: Any) -> None:
            self._inner = inner

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            async def with_headers(message: Any) -> None:
                if message["type"] == "http.response.start":
                    message["headers"] += [(k.lower().encode(), v.encode()) for k, v in fixed.items()]
                await send(message)

            await (refused(Request(scope)) or self._inner)(scope, receive, with_headers)

    async def item(request: Request) -> Response:
        index = _number(request.path_params["index"])
        if not 0 <= index < len(queue.items):
            return PlainTextResponse("there is no such item", 404)
        return answer(queue.item(index))

    async def image(request: Request) -> Response:
        data = queue.image(_number(request.path_params["image_id"]))
        return Response(data, media_type="image/png") if data else PlainTextResponse("there is no such image", 404)

    async def damaged(_: Request, error: Exception) -> Response:
        return PlainTextResponse(str(error), 500)

    async def verdict(request: Request) -> Response:
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > MAX_BODY_BYTES:
                return PlainTextResponse(f"a verdict takes at most {MAX_BODY_BYTES:,} bytes", 413)
        try:
            answered = _Answer.model_validate_json(body)
            queue.add(answered.item, answered.verdict, answered.instance, answered.category_id)
        except ValidationError as error:
            return PlainTextResponse(error.errors()[0]["msg"], 422)
        except (ValueError, IndexError, SynthgenError) as error:
            return PlainTextResponse(str(error), 422)
        return answer(queue.state())

    async def undo(_: Request) -> Response:
        try:
            index = queue.undo()
        except SynthgenError as error:
            return PlainTextResponse(str(error), 422)
        return answer({**queue.state(), "undone": index})

    async def state(_: Request) -> Response:
        return answer(queue.state())

    async def root(_: Request) -> Response:
        return HTMLResponse(page)

    routes = [
        Route("/", root),
        Route("/state", state),
        Route("/items/{index}", item),
        Route("/images/{image_id}", image),
        Route("/verdicts", verdict, methods=["POST"]),
        Route("/undo", undo, methods=["POST"]),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guarded)],  # type: ignore[arg-type]
        exception_handlers={SynthgenError: damaged},
    )


def _number(text: str) -> int:
    """The number in an address; -1 for other text and for more digits than an id has."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else -1


def _page(queue: ReviewQueue) -> tuple[str, str]:
    """The HTML, and the Content-Security-Policy that allows no script but the page's."""
    script, style = ((HERE / f"review.{kind}").read_text(encoding="utf-8") for kind in ("js", "css"))
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE), autoescape=True)
    html = environment.get_template("review.html.j2").render(
        spec=queue.build.spec,
        queue=queue.queue,
        classes=[(c.id, c.name, "rgb({},{},{})".format(*class_colour(c.id))) for c in queue.build.spec.categories],
        style=Markup(style),
        script=Markup(script),
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return html, (
        "default-src 'none'; img-src 'self' data:; connect-src 'self'; style-src 'unsafe-inline'; base-uri 'none'; "
        f"form-action 'none'; frame-ancestors 'none'; script-src 'sha256-{digest}'"
    )
