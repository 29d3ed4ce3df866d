"""The review's page and its answers: on this machine's loopback only, and only to who has the token."""

from __future__ import annotations

import base64
import hashlib
import secrets
import socket
import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import Any

import jinja2
import orjson
from markupsafe import Markup
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from synthgen.errors import RunError, SynthgenError
from synthgen.pipeline import Build
from synthgen.review.queue import ReviewQueue
from synthgen.reviews import Queue, ReviewLog, Verdict
from synthgen.sheet import class_colour

HERE = Path(__file__).parent
HOSTS = ("127.0.0.1", "localhost")  # another name in a request may be a page of elsewhere that points here


class _Said(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    item: int = Field(ge=0)
    verdict: Verdict
    instance: int | None = Field(None, ge=0)
    category_id: int | None = None


def serve(build: Build, queue: Queue, count: int | None, port: int, browser: bool) -> int:
    """Serves until it is stopped; -> verdicts made meanwhile.

    Raises:
        RunError: nothing is to be reviewed, another review is open, or the port is taken.
    """
    import uvicorn

    run = build.run
    with run.reviewing(), ReviewLog.open(run.reviews_file, run.publish) as log, socket.socket() as bound:
        before, token = len(log.made), secrets.token_urlsafe(24)
        application = app(ReviewQueue(build, queue, count, log), token)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind(("127.0.0.1", port))
        except OSError as error:
            raise RunError(f"port {port} cannot be used: {error.strerror}; take another --port, or 0") from error
        bound.listen()
        address = f"http://127.0.0.1:{bound.getsockname()[1]}/?token={token}"
        print(f"review: {address}\nEvery verdict is kept as it is made; Ctrl-C ends the review.", flush=True)
        if browser:
            webbrowser.open(address)
        server = uvicorn.Server(uvicorn.Config(application, log_level="error", lifespan="off", ws="none"))
        with suppress(KeyboardInterrupt):
            server.run(sockets=[bound])
        return len(log.made) - before


def app(queue: ReviewQueue, token: str) -> Any:
    """The ASGI application."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
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

    class Guarded:
        def __init__(self, inner: Any) -> None:
            self._inner = inner

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            request = Request(scope)
            given = request.headers.get("x-token") or request.query_params.get("token") or ""
            inner = self._inner
            if not secrets.compare_digest(given.encode(), token.encode()):
                inner = PlainTextResponse("Open the address that `synthgen review` has printed.", 403)

            async def with_headers(message: Any) -> None:
                if message["type"] == "http.response.start":
                    message["headers"] += [(k.lower().encode(), v.encode()) for k, v in fixed.items()]
                await send(message)

            await inner(scope, receive, with_headers)

    async def item(request: Request) -> Response:
        place = _number(request.path_params["place"])
        if not 0 <= place < len(queue.items):
            return PlainTextResponse("there is no such item", 404)
        return answer(queue.item(place))

    async def image(request: Request) -> Response:
        data = queue.image(_number(request.path_params["image_id"]))
        return Response(data, media_type="image/png") if data else PlainTextResponse("no such image here", 404)

    async def verdict(request: Request) -> Response:
        try:
            said = _Said.model_validate_json(await request.body())
            queue.add(said.item, said.verdict, said.instance, said.category_id)
        except ValidationError as error:
            return PlainTextResponse(error.errors()[0]["msg"], 422)
        except (ValueError, IndexError) as error:
            return PlainTextResponse(str(error), 422)
        return answer(queue.state())

    async def undo(_: Request) -> Response:
        place = queue.undo()
        return answer({**queue.state(), "undone": place})

    async def state(_: Request) -> Response:
        return answer(queue.state())

    async def refused(_: Request, error: Exception) -> Response:
        return PlainTextResponse(str(error), 422)

    async def root(_: Request) -> Response:
        return HTMLResponse(page)

    routes = [
        Route("/", root),
        Route("/state", state),
        Route("/items/{place}", item),
        Route("/images/{image_id}", image),
        Route("/verdicts", verdict, methods=["POST"]),
        Route("/undo", undo, methods=["POST"]),
    ]
    guards = [Middleware(TrustedHostMiddleware, allowed_hosts=list(HOSTS)), Middleware(Guarded)]  # type: ignore[arg-type]
    return Starlette(routes=routes, middleware=guards, exception_handlers={SynthgenError: refused})


def _number(text: str) -> int:
    """A number of an address, and not one of thousands of digits, which Python does not read; -1: it is none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else -1


def _page(queue: ReviewQueue) -> tuple[str, str]:
    """The HTML, and the policy that lets it run its own script and nothing else."""
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
