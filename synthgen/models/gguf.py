"""GGUF files: weights that llama.cpp's tools have rounded to few bits. Only the header is read, without the package
`gguf`; the format is that of ggml's docs/gguf.md."""

from __future__ import annotations

import os
import struct
from math import prod
from pathlib import Path
from typing import Any

from synthgen.base.wording import plain, shown
from synthgen.errors import BackendError, listed
from synthgen.models.weights import Held

# Name, numbers in a block and bytes of a block, by the number of a type. Only the types that diffusers computes with.
TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 20: ("IQ4_NL", 32, 18), 23: ("IQ4_XS", 256, 136),
    30: ("BF16", 1, 2),
}  # fmt: skip
SCALARS = (1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8)  # bytes of a value by the number of its type; text and lists have 0
TEXT, LIST = 8, 9
MAX_HEADER = 50_000_000  # bytes; headers of pipelines' parts have less than 100,000
MAX_ENTRIES = 1_000_000  # values in the header: the reader keeps an object for each
MAX_DIMENSIONS = 4


def require_gguf(file: Path) -> Held:
    """The sizes of the weights in a file, from its header. `Held.size` counts the bytes that they have there.

    Raises:
        BackendError: the file is no GGUF file, is cut short, or has weights of a type that diffusers does not take.
    """
    try:
        with open(file, "rb") as opened:
            size = os.fstat(opened.fileno()).st_size
            return _Header(opened.read(MAX_HEADER), size).held()
    except (OSError, ValueError, struct.error, UnicodeDecodeError) as error:
        reason = str(error) if type(error) is ValueError else "its header is cut short"
        raise BackendError(f"{file} is no whole GGUF file: {plain(reason, 200)}") from error


class _Header:
    """Reads a header. Raises: ValueError, struct.error: it is damaged.

    Args:
        data: the beginning of the file.
        size: bytes of the whole file.
    """

    def __init__(self, data: bytes, size: int) -> None:
        self.data, self.size, self.at, self.entries = data, size, 0, 0

    def held(self) -> Held:
        magic, version, tensors, values = self._take("<4sIQQ")
        if magic != b"GGUF" or version not in (2, 3):
            raise ValueError(f"it begins with {shown(magic)}, version {version}; takes GGUF of version 2 or 3")
        alignment = 32
        for _ in range(self._counted(values)):
            key, (kind,) = self._text(), self._take("<I")
            begin = self.at
            self._skip(kind)
            if key == b"general.alignment" and kind == 4:
                (alignment,) = struct.unpack_from("<I", self.data, begin)
        if alignment < 1 or alignment & (alignment - 1) or alignment > 1 << 20:
            raise ValueError(f"its alignment is {alignment:,}")
        infos = [self._tensor() for _ in range(self._counted(tensors))]
        begin = -(-self.at // alignment) * alignment
        bytes_of = [length for _, length, _ in infos]
        if sum(bytes_of) > self.size or any(begin + offset + length > self.size for _, length, offset in infos):
            raise ValueError(f"its tensors need {sum(bytes_of):,} bytes, and the file has {self.size:,}")
        return Held(len(infos), max((numbers for numbers, _, _ in infos), default=0), sum(bytes_of))

    def _tensor(self) -> tuple[int, int, int]:
        """Numbers, bytes and offset of the next tensor."""
        name, (count,) = self._text(), self._take("<I")
        if count > MAX_DIMENSIONS:
            raise ValueError(f"a tensor has {count:,} dimensions")
        shape = self._take(f"<{count}Q")
        kind, offset = self._take("<IQ")
        if kind not in TYPES:
            takes = listed(known for known, _, _ in TYPES.values())
            raise ValueError(f"its tensor {shown(name.decode())} is of the type {kind}; diffusers takes {takes}")
        _, numbers, length = TYPES[kind]
        if shape and shape[0] % numbers:
            raise ValueError(f"a tensor of shape {shown(shape)} has no whole blocks of {numbers}")
        return prod(shape), prod(shape) // numbers * length, offset

    def _skip(self, kind: int, depth: int = 0) -> None:
        """Goes beyond a value."""
        if kind == TEXT:
            self._text()
        elif kind == LIST and depth < 2:
            inner, count = self._take("<IQ")
            if inner < len(SCALARS) and SCALARS[inner]:
                self._advance(self._counted(count) * SCALARS[inner])
            else:
                for _ in range(self._counted(count)):
                    self._skip(inner, depth + 1)
        elif kind < len(SCALARS) and SCALARS[kind]:
            self._advance(SCALARS[kind])
        else:
            raise ValueError(f"a value is of the type {kind}")

    def _counted(self, entries: int) -> int:
        self.entries += entries
        if self.entries > MAX_ENTRIES:
            raise ValueError(f"its header has {self.entries:,} entries; takes at most {MAX_ENTRIES:,}")
        return entries

    def _text(self) -> bytes:
        (length,) = self._take("<Q")
        self._advance(length)
        return self.data[self.at - length : self.at]

    def _take(self, form: str) -> tuple[Any, ...]:
        values = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return values

    def _advance(self, length: int) -> None:
        self.at += length
        if self.at > len(self.data):
            raise ValueError("its header is cut short, or too long")
