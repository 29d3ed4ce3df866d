"""Builds a model from a folder without a connection, and not larger than its weights justify. Every exception of the
libraries becomes a `BackendError`; the warnings that they log are kept (`remarks`)."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident
from typing import Any

from synthgen import devices
from synthgen.base.wording import one_line, plain
from synthgen.errors import BackendError, SynthgenError, listed
from synthgen.models import remarks
from synthgen.models.weights import Held

# This keeps transformers from fetching compiled kernels from the hub; it reads the variable when it is imported.
os.environ["USE_HUB_KERNELS"] = "NO"

# How many parameters a model may build for its weights on the disk. A stored parameter has at least 4 bits; a parameter
# that two layers share is built twice and stored once; parts that are not stored, such as an unused head, are small.
PARAMETERS_A_BYTE, PARAMETERS_BESIDES = 4, 100_000_000
PARTS_A_TENSOR, PARTS_BESIDES = 4, 10_000
MAX_BYTES_A_PARAMETER = 8


@contextmanager
def loading(path: Path, held: Held, field: str = "") -> Iterator[None]:
    """Surrounds the code that builds a model from an inspected folder and reads its weights.

    Args:
        held: the sizes of its weights.
        field: the key of the spec that the message begins with.

    Raises:
        BackendError: the model could not be loaded, or its settings ask for a larger model than its weights.
    """
    from huggingface_hub import constants
    from torch.nn.modules.module import register_module_parameter_registration_hook

    remarks.listen()
    bounds = _Bounds(path, held)
    hook = register_module_parameter_registration_hook(bounds)
    was_offline, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        with warnings.catch_warnings():
            # Classes of diffusers are built on deprecated ones of diffusers; users cannot change that.
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"diffusers\.")
            yield
    except SynthgenError:
        raise
    except Exception as error:  # the libraries do not check the settings in a folder, so anything may be raised
        if devices.is_out_of_memory(error):
            bounds.require_justified(error)
            raise
        reason = one_line(error, 300) or type(error).__name__
        raise BackendError(f"{field}{path} was not loaded: {reason}") from error
    finally:
        constants.HF_HUB_OFFLINE = was_offline
        hook.remove()


def require_all_weights(path: Path, model: Any, found: Mapping[str, Any]) -> None:
    """Raises: BackendError: a model of transformers has parts for which its folder holds no weights. transformers fills
    them with random numbers. `found`: what `from_pretrained` gives with `output_loading_info`."""
    if missing := sorted(found["missing_keys"]):
        parts = "1 part" if len(missing) == 1 else f"{len(missing):,} parts"
        raise BackendError(
            plain(f"{path} has no weights for {parts} of a {type(model).__name__}: {listed(missing)}", 400)
        )


class _Bounds:
    """Counts the parameters that this thread registers in modules. Building a model reserves their memory but does not
    use it yet: use begins when the weights are read. So a model that is too large is stopped in time."""

    def __init__(self, path: Path, held: Held) -> None:
        self.path, self.thread = path, get_ident()
        self.parts = PARTS_A_TENSOR * held.tensors + PARTS_BESIDES
        self.numbers = PARAMETERS_A_BYTE * held.size + PARAMETERS_BESIDES
        self.sizes: dict[tuple[int, str], int] = {}
        self.total = 0

    def __call__(self, module: Any, name: str, parameter: Any) -> None:
        if get_ident() != self.thread or parameter is None:
            return
        key = (id(module), name)  # reading weights replaces parameters under the same key
        self.total += parameter.numel() - self.sizes.get(key, 0)
        self.sizes[key] = parameter.numel()
        if len(self.sizes) > self.parts:
            raise self._error(f"{self.parts:,} tensors")
        if self.total > self.numbers:
            raise self._error(f"{self.numbers:,} numbers")

    def require_justified(self, error: Exception) -> None:
        """Raises: BackendError: the allocation that failed is larger than the largest model that may be built."""
        requested = re.search(r"tried to allocate (\d+) bytes", str(error))
        if requested and int(requested[1]) > MAX_BYTES_A_PARAMETER * self.numbers:
            raise self._error(f"{self.numbers:,} numbers") from error

    def _error(self, limit: str) -> BackendError:
        return BackendError(
            f"{self.path} was not loaded: its settings ask for more than {limit}, and its weights hold fewer"
        )
