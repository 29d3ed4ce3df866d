"""Work in the background of a model: a thread prefetches what the model needs next, another writes what it made."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from types import TracebackType
from typing import Any, Self, TypeVar

DEPTH = 2  # items that may wait: one slow item then stops neither side, and memory stays bounded

T = TypeVar("T")


def prefetched(items: Iterable[T], depth: int = DEPTH) -> Iterator[T]:
    """Yields the items in order; a thread makes up to `depth` of them before they are asked for. If making an item
    raises an error, the error is raised in the item's place."""
    end: Any = object()
    source = iter(items)
    pool = ThreadPoolExecutor(1, "prefetch")
    try:
        waiting = deque(pool.submit(next, source, end) for _ in range(depth))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(pool.submit(next, source, end))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)


class WriteBehind:
    """Calls functions in a thread, one after the other, while its caller goes on.

    `submit` waits while `depth` calls are still to be made. If a call raises an error, a later `submit` or the end of
    the block raises it, and no later call starts. However else the block ends, the calls that were submitted are made
    first, so an interrupted stage keeps what was finished. If a signal comes during that wait, the call that has
    started is finished and no other starts.
    """

    def __init__(self, depth: int = DEPTH) -> None:
        self._depth = depth
        self._pool = ThreadPoolExecutor(1, "write-behind")
        self._waiting: deque[Future[None]] = deque()
        self._failed = False

    def __enter__(self) -> Self:
        return self

    def submit(self, work: Callable[..., Any], *arguments: Any) -> None:
        while len(self._waiting) >= self._depth:
            self._waiting[0].result()
            self._waiting.popleft()
        # Prefect knows by the context in which run a task is called, so the thread takes over the caller's context.
        self._waiting.append(self._pool.submit(copy_context().run, self._call, work, *arguments))

    def _call(self, work: Callable[..., Any], *arguments: Any) -> None:
        if not self._failed:
            try:
                work(*arguments)
            except BaseException:
                self._failed = True
                raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # This waits for the calls, not for the thread: Python 3.11 takes a thread for ended if a signal comes while it
        # is joined (bpo-46726).
        try:
            wait(self._waiting)
        except BaseException:  # A signal came: the call that has started is finished, and no other starts.
            self._failed = True
            wait(self._waiting)
            raise
        self._pool.shutdown()
        if kind is None:
            for piece in self._waiting:
                piece.result()
