"""What diffusers and transformers log as warnings while they load and run models: kept for people, each one once."""

from __future__ import annotations

import logging
import re
from threading import Lock

from synthgen.base.wording import plain

LIBRARIES = ("diffusers", "transformers")
MOST, LONGEST = 20, 300  # remarks that are kept, and characters of one
# Remarks about models that are as they should be, or that another message explains better.
HARMLESS = re.compile(
    r"The following part of your input was truncated"  # `check` says it, before anything is made
    r"|Token indices sequence length is longer than"  # of the same
    r"|Expected types for vae: .*synthgen\.mini\.autoencoder"  # the embedded model's, which answers the same calls
)


class _Remarks(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.heard: dict[str, None] = {}
        self.noted = 0
        self.guard = Lock()

    def emit(self, record: logging.LogRecord) -> None:
        text = plain(" ".join(record.getMessage().split()), LONGEST)
        with self.guard:
            if not HARMLESS.match(text) and len(self.heard) < MOST:
                self.heard[f"{record.name.partition('.')[0]} says: {text}"] = None


_remarks = _Remarks()


def listen() -> None:
    """From now on, remarks are kept instead of printed."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    for library in (of_diffusers, of_transformers):
        library.disable_default_handler()
        library.disable_progress_bar()
        library.disable_propagation()
    for name in LIBRARIES:
        logging.getLogger(name).addHandler(_remarks)  # once: a logger ignores a handler that it has


def forget() -> None:
    """Drops the remarks that were kept: each counts as new when it is heard again."""
    with _remarks.guard:
        _remarks.heard.clear()
        _remarks.noted = 0


def notes() -> dict[str, list[str]]:
    """The remarks that no mark has yet, as notes of a mark. So each is reported once, whichever worker heard it."""
    with _remarks.guard:
        new = list(_remarks.heard)[_remarks.noted :]
        _remarks.noted += len(new)
    return {"remarks": new} if new else {}
