"""What hostile input must not do, for the tests that read such input: write, start a process, ask a network, take long,
or bring an error of more than one line."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml

LONGEST = 600  # characters of a problem
# Hostile input may cost this many times what a short ordinary text of YAML does (`ordinary`): two seconds where that
# takes 3 ms, and as much longer as the machine is slower.
TIMES = 700.0

# What hostile input would like to do: the names that Python's audit hooks give it.
DEEDS = ("socket.", "os.system", "os.exec", "os.posix_spawn", "os.startfile", "subprocess.", "pty.", "webbrowser.",
         "os.mkdir", "os.rename", "os.remove", "os.link", "os.symlink", "shutil.")  # fmt: skip
watched: list[list[str]] = []
HERE = threading.get_ident()  # other tests may have left threads behind


def audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not watched or threading.get_ident() != HERE:
        return
    if event == "open":
        path, _, flags = arguments
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes and path != os.devnull:
            watched[-1].append(f"open {path!r} for writing")
    elif event.startswith(DEEDS):
        watched[-1].append(f"{event} {arguments!r}"[:200])


sys.addaudithook(audit)  # It cannot be removed, and does nothing unless `watched` has a list.


@contextmanager
def harmless() -> Iterator[None]:
    """Fails if its block writes, starts a process, asks a network or takes long."""
    deeds: list[str] = []
    watched.append(deeds)
    start = time.process_time()
    try:
        yield
    finally:
        watched.pop()
    assert deeds == []
    require_quick(time.process_time() - start)


def ordinary() -> float:
    """The processor seconds that this machine takes now to read an ordinary text of YAML."""
    text = "\n".join(f"key{i}: [a, {i}, {{b: c}}]" for i in range(30))
    start = time.process_time()
    yaml.load(text, yaml.SafeLoader)
    return time.process_time() - start


def require_quick(seconds: float) -> None:
    """Compares processor seconds with those of an ordinary text."""
    if seconds > 0.1:  # Less is never slow, and comparing costs time.
        assert seconds < TIMES * sorted(ordinary() for _ in range(5))[2]


def one_line(text: str) -> None:
    """Fails if an error has more than one line, or is too long to read."""
    assert "\n" not in text and text.isprintable(), text
    assert len(text) < LONGEST, f"{len(text)} characters: {text}"


def bomb(levels: int) -> str:
    """A short text of YAML whose aliases stand for 10 ** levels values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "\n".join(lines)
