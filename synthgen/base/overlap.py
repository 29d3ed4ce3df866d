"""Work beside a model: what it will need is read ahead of it, what it made is written behind it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from types import TracebackType
from typing import Any, Self, TypeVar

DEPTH = 2  # pieces that may wait: enough that neither side waits for the other's slow one, and memory stays bounded

T = TypeVar("T")


def ahead(items: Iterable[T], depth: int = DEPTH) -> Iterator[T]:
    """The items in their order, up to `depth` of them made in a thread before they are asked for. What making one
    raises is raised in its place."""
    end: Any = object()
    source = iter(items)
    pool = ThreadPoolExecutor(1, "ahead")
    try:
        waiting = deque(pool.submit(next, source, end) for _ in range(depth))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(pool.submit(next, source, end))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)


class Behind:
    """Does pieces of work in a thread, one after the other, while its caller goes on.

    `do` waits while `depth` pieces are still to be done. What a piece raises is raised by a later `do` or at the end of
    the block, and no later piece is begun. However the block ends otherwise, what it was given is done first: so an
    interrupted stage keeps what was finished. One that is interrupted while it waits for that keeps what is being
    written, whole, and begins no more.
    """

    def __init__(self, depth: int = DEPTH) -> None:
        self._depth = depth
        self._pool = ThreadPoolExecutor(1, "behind")
        self._waiting: deque[Future[None]] = deque()
        self._failed = False

    def __enter__(self) -> Self:
        return self

    def do(self, work: Callable[..., Any], *arguments: Any) -> None:
        while len(self._waiting) >= self._depth:
            self._waiting[0].result()
            self._waiting.popleft()
        # In the caller's context, by which Prefect knows in which run a task is called.
        self._waiting.append(self._pool.submit(copy_context().run, self._one, work, *arguments))

    def _one(self, work: Callable[..., Any], *arguments: Any) -> None:
        if not self._failed:
            try:
                work(*arguments)
            except BaseException:
                self._failed = True
                raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Not for the thread: Python 3.11 takes it for ended if a signal comes while it is waited for (bpo-46726).
        try:
            wait(self._waiting)
        except BaseException:  # of a signal; what is being written is written, and no more is begun
            self._failed = True
            wait(self._waiting)
            raise
        self._pool.shutdown()
        if kind is None:
            for piece in self._waiting:
                piece.result()
