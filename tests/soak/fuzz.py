"""Gives hostile files to the readers of specs, records, tables, masks, pictures and requests.

    python tests/soak/fuzz.py --cases 100000 --target spec
    python tests/soak/fuzz.py --seconds 600

Prints cases and seconds of each target. Stops at the first case that raises anything but a `SynthgenError`, writes or
starts anything, takes too much memory, or does not end. It then shows the smallest such case, and exits 1. Add the case
to a parametrised test in `tests/system/test_fuzz.py`.
"""

from __future__ import annotations

import argparse
import faulthandler
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import hostile_files as hostile
from conftest import QUICK
from hypothesis import given, seed
from hypothesis import strategies as st
from runs import made

TARGETS = ("spec", "profile", "rle", "picture", "post", "record")
LOT = 500  # cases that are drawn from one seed
MOST_SECONDS = 120.0  # for a case, on a busy machine: one that takes longer does not end


@contextmanager
def target(name: str, folder: Path) -> Iterator[tuple[st.SearchStrategy[Any], Callable[[Any], None]]]:
    """Its cases, and what is done with one."""
    strategies = {
        "spec": hostile.specs, "profile": hostile.profile_texts(), "rle": hostile.rles,
        "picture": hostile.picture_files(), "post": hostile.posts(),
    }  # fmt: skip
    if name in {"post", "record"}:
        made(QUICK, folder / "made")
        world = hostile.World.of(folder / "world", folder / "made")
    if name == "post":
        with hostile.served(world, folder / "copy") as client:
            yield strategies[name], lambda case: hostile.check_post(case, client)
    elif name == "record":
        names = world.files()
        yield hostile.records(world, names), lambda case: hostile.check_record(case, world, folder / "copy")
    else:
        check = getattr(hostile, f"check_{name}")
        yield strategies[name], lambda case: check(case, folder)


def lot(cases: st.SearchStrategy[Any], check: Callable[[Any], None], number: int, start: int) -> int:
    """Tries so many cases, drawn from one seed; -> how many there were."""
    count = 0

    @seed(start)
    @hostile.trying(number, derandomize=False)
    @given(cases)
    def one(case: Any) -> None:
        nonlocal count
        count += 1
        faulthandler.dump_traceback_later(MOST_SECONDS, exit=True)
        check(case)
        faulthandler.cancel_dump_traceback_later()

    one()
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=TARGETS, action="append", help="default: all")
    parser.add_argument("--cases", type=int, help="of each target")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target, where no --cases are given")
    parser.add_argument("--seed", type=int, default=0, help="another one tries other cases")
    options = parser.parse_args()
    for name in options.target or TARGETS:
        with tempfile.TemporaryDirectory() as folder, target(name, Path(folder)) as (cases, check):
            started, done, start = time.monotonic(), 0, 1000 * options.seed
            while done < options.cases if options.cases else time.monotonic() < started + options.seconds:
                done += lot(cases, check, min(LOT, options.cases - done) if options.cases else LOT, start)
                start += 1
            print(f"{name}: {done:,} cases in {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
