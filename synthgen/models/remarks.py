"""Keeps the warnings that diffusers and transformers log while they load and run models, each one once, for people."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from functools import lru_cache
from threading import Lock

from synthgen.base.wording import plain

LIBRARIES = ("diffusers", "transformers")
MAX_REMARKS, MAX_CHARACTERS = 20, 300  # remarks that are kept, and characters of each
# Remarks about correct models, or remarks that another message explains better.
HARMLESS = re.compile(
    r"The following part of your input was truncated"  # `check` reports it before images are made
    r"|Token indices sequence length is longer than"  # the same
    r"|Guiders are currently an experimental feature"  # diffusers, of the only way to guide a modular pipeline
    r"|Kwargs passed to `processor\.__call__`"  # diffusers' own call of a processor
    r"|Keyword argument `enable_thinking` is not a valid argument"  # the same
    r"|No LoRA keys associated to"  # a LoRA need not change every part; one that changes none is refused
    r"|Unable to import `torchao` Tensor objects"  # those that old checkpoints hold, of which none is loaded here
    r"|Expected types for vae: .*synthgen\.mini\.autoencoder"  # the embedded model's class has the same methods
)
# Loggers of libraries that remark upon themselves as soon as they are imported, and how those remarks begin.
OF_THEMSELVES = {
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",
    "torch.utils._pytree": "<enum ",  # torchao's
}


class _Remarks(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.heard: dict[str, None] = {}
        self.noted = 0
        self.guard = Lock()

    def emit(self, record: logging.LogRecord) -> None:
        text = plain(" ".join(record.getMessage().split()), MAX_CHARACTERS)
        with self.guard:
            if not HARMLESS.match(text) and len(self.heard) < MAX_REMARKS:
                self.heard[f"{record.name.partition('.')[0]} says: {text}"] = None


_remarks = _Remarks()


@lru_cache
def _begins_otherwise(begin: str) -> Callable[[logging.LogRecord], bool]:
    """A filter; the same each time, since a logger ignores one that it already has."""
    return lambda record: not record.getMessage().startswith(begin)


def listen() -> None:
    """Starts to keep remarks instead of printing them."""
    for name, begin in OF_THEMSELVES.items():
        logging.getLogger(name).addFilter(_begins_otherwise(begin))
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    for library in (of_diffusers, of_transformers):
        library.disable_default_handler()
        library.disable_progress_bar()
        library.disable_propagation()
    for name in LIBRARIES:
        logging.getLogger(name).addHandler(_remarks)  # a logger ignores a handler that it already has


def forget() -> None:
    """Forgets all remarks: each counts as new if it is logged again."""
    with _remarks.guard:
        _remarks.heard.clear()
        _remarks.noted = 0


def notes() -> dict[str, list[str]]:
    """The remarks that no mark holds yet, as notes for a mark. So each remark is reported once."""
    with _remarks.guard:
        new = list(_remarks.heard)[_remarks.noted :]
        _remarks.noted += len(new)
    return {"remarks": new} if new else {}
