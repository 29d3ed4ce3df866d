"""Building a model from a folder: within the bounds that its weights give, and without a connection. Whatever the
libraries raise becomes one kind of error; what they log is kept (`remarks`)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident
from typing import Any

from synthgen import devices
from synthgen.base.wording import plain
from synthgen.errors import BackendError, SynthgenError
from synthgen.models import remarks
from synthgen.models.weights import Held

# Keeps the layers of transformers from taking compiled kernels from the hub; it is read when transformers is imported.
os.environ["USE_HUB_KERNELS"] = "NO"

# What a model may build, as its weights are on the disk. A parameter has at least half a byte there (of 4 bits); one
# that two layers share is built twice and stored once; what is not stored, such as a head that is not used, is small.
PARAMETERS_A_BYTE, PARAMETERS_BESIDES = 4, 100_000_000
PARTS_A_TENSOR, PARTS_BESIDES = 4, 10_000
BYTES_OF_ONE = 8  # at most


@contextmanager
def loading(path: Path, held: Held, field: str = "") -> Iterator[None]:
    """Surrounds the code that builds a model from an inspected folder and reads its weights.

    Args:
        held: what its weights hold.
        field: the key of the spec that the message begins with.

    Raises:
        BackendError: it could not be loaded, or was about to build what its weights do not hold.
    """
    from huggingface_hub import constants
    from torch.nn.modules.module import register_module_parameter_registration_hook

    remarks.listen()
    bounds = _Bounds(path, held)
    hook = register_module_parameter_registration_hook(bounds)
    was_offline, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    except SynthgenError:
        raise
    except Exception as error:  # the settings in a folder are not checked by what reads them
        if devices.is_out_of_memory(error):
            bounds.require_justified(error)
            raise
        reason = plain(" ".join(str(error).split()) or type(error).__name__, 300)
        raise BackendError(f"{field}{path} was not loaded: {reason}") from error
    finally:
        constants.HF_HUB_OFFLINE = was_offline
        hook.remove()


class _Bounds:
    """Counts the parameters that modules are given by this thread. Building asks for their memory and does not use it
    yet: that begins when weights are read."""

    def __init__(self, path: Path, held: Held) -> None:
        self.path, self.thread = path, get_ident()
        self.parts = PARTS_A_TENSOR * held.tensors + PARTS_BESIDES
        self.numbers = PARAMETERS_A_BYTE * held.size + PARAMETERS_BESIDES
        self.sizes: dict[tuple[int, str], int] = {}
        self.total = 0

    def __call__(self, module: Any, name: str, parameter: Any) -> None:
        if get_ident() != self.thread or parameter is None:
            return
        place = (id(module), name)  # reading weights puts others in the same places
        self.total += parameter.numel() - self.sizes.get(place, 0)
        self.sizes[place] = parameter.numel()
        if len(self.sizes) > self.parts:
            raise self._error(f"{self.parts:,} tensors")
        if self.total > self.numbers:
            raise self._error(f"{self.numbers:,} numbers")

    def require_justified(self, error: Exception) -> None:
        """Raises: BackendError: what there was no memory for is more than all that may be built."""
        asked = re.search(r"tried to allocate (\d+) bytes", str(error))
        if asked and int(asked[1]) > BYTES_OF_ONE * self.numbers:
            raise self._error(f"{self.numbers:,} numbers") from error

    def _error(self, most: str) -> BackendError:
        return BackendError(
            f"{self.path} was not loaded: its settings ask for more than {most}, and its weights hold fewer"
        )
