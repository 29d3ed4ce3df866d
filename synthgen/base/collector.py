"""Python's garbage collector, where very many objects are made that live for a moment."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

OBJECTS = 20_000  # more that are made than die, before the collector looks for cycles among them


@contextmanager
def short_lived_objects() -> Iterator[None]:
    """Lets the block make millions of objects that soon die by their reference counts.

    Each full pass of the collector goes over every object that lives, also over the 300,000 of imported libraries. Such
    passes take a quarter of the time of an export. In the block, what lives already is left out of them, and passes
    come less often.
    """
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(OBJECTS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
