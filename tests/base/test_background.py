"""What is read ahead of a model, and written behind it."""

import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import wait
from typing import Any

import pytest

from synthgen.base import background
from synthgen.base.background import WriteBehind, prefetched

HERE = threading.get_ident


def test_items_come_in_order_made_elsewhere() -> None:
    threads = set()

    def items() -> Iterator[int]:
        for i in range(20):
            threads.add(HERE())
            yield i

    assert list(prefetched(items())) == list(range(20))
    assert threads
    assert HERE() not in threads


def test_no_more_is_made_ahead_than_asked() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for i in range(100):
            made.append(i)
            yield i

    taken = prefetched(items(), 3)
    for i in range(10):
        assert next(taken) == i
        time.sleep(0.02)
        assert len(made) <= i + 4
    taken.close()  # type: ignore[attr-defined]
    count = len(made)
    time.sleep(0.05)
    assert len(made) == count <= 14


def test_what_making_an_item_raises_comes_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("gone")

    taken = prefetched(items())
    assert [next(taken), next(taken)] == [1, 2]
    with pytest.raises(OSError, match="gone"):
        next(taken)


def test_work_is_done_in_order_while_the_caller_goes_on() -> None:
    done: list[int] = []
    gate = threading.Event()
    with WriteBehind(2) as behind:
        behind.submit(lambda: gate.wait(10) and done.append(0))
        behind.submit(done.append, 1)
        assert done == []  # and yet we are here
        gate.set()
        for i in range(2, 50):
            behind.submit(done.append, i)
            assert len(done) >= i - 2
    assert done == list(range(50))


def test_a_piece_that_fails_is_told_and_ends_the_rest() -> None:
    done: list[int] = []

    def fail() -> None:
        raise OSError("full")

    with pytest.raises(OSError, match="full"), WriteBehind(2) as behind:
        behind.submit(done.append, 0)
        behind.submit(fail)
        for i in range(1, 10):
            behind.submit(done.append, i)
    assert done == [0]
    with pytest.raises(OSError, match="full"), WriteBehind() as behind:
        behind.submit(fail)
    assert done == [0]


def test_an_interruption_waits_for_what_is_finished() -> None:
    done: list[int] = []

    def slowly(i: int) -> None:
        time.sleep(0.1)
        done.append(i)

    with pytest.raises(KeyboardInterrupt), WriteBehind(2) as behind:
        behind.submit(slowly, 0)
        behind.submit(slowly, 1)
        raise KeyboardInterrupt
    assert done == [0, 1]


def test_a_signal_while_pieces_are_waited_for(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """The piece that is in hand is finished before the block is left; one that has not begun is not done."""
    done: list[int] = []
    begun, gate, interrupted = (threading.Event() for _ in range(3))

    def piece(i: int) -> None:
        begun.set()
        gate.wait(60)
        done.append(i)

    def waited_for(pieces: Any) -> None:
        if not interrupted.is_set():
            interrupted.set()
            begun.wait(60)
            threading.Timer(0.2, gate.set).start()  # by when a block that does not wait would be left
            signal.raise_signal(signal.SIGINT)
        wait(pieces)

    monkeypatch.setattr(background, "wait", waited_for)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever libraries have made of it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with pytest.raises(KeyboardInterrupt), WriteBehind(2) as behind:
        behind.submit(piece, 0)
        behind.submit(piece, 1)
    assert done == [0]
