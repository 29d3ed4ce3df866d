"""The version of a dataset: a hash of its content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import orjson

from synthgen.base.files import sha256
from synthgen.types import Category, Record

_MODULUS = 1 << 256


def record_digest(record: Record, names: dict[int, str]) -> bytes:
    """A hash, 32 bytes, of an image, its labels and its split. It does not depend on ids, on the order of labels, on
    scores or on measures.

    Args:
        names: category id -> name.
    """
    image = record.image_sha256 or sha256(record.image_path)
    labels = sorted([names[a.category_id], *a.rle["size"], a.rle["counts"], a.ignore] for a in record.annotations)
    return hashlib.sha256(orjson.dumps([image, record.job.split, labels])).digest()


class Stored(Protocol):
    """Records as they are read from disk, as often as wanted: `backends.Records` without their content hash."""

    def __iter__(self) -> Iterator[Record]: ...

    def split(self, name: str) -> Iterator[Record]: ...


class Content:
    """Records whose content hash is known once they have been iterated: see `backends.Records`.

    The hash is the sum of the records' hashes modulo 2**256, so it does not depend on their order and takes no memory
    (the additive hash of sets by Bellare and Micciancio, https://doi.org/10.1007/3-540-69053-0_13). It tells versions
    of a dataset apart; it does not keep a forger out.
    """

    def __init__(self, records: Stored, categories: Sequence[Category]) -> None:
        self._records, self._names = records, {category.id: category.name for category in categories}
        self._hash: str | None = None

    def __iter__(self) -> Iterator[Record]:
        total = count = 0
        for record in self._records:
            count += 1
            total += int.from_bytes(record_digest(record, self._names))
            yield record
        ends = count.to_bytes(8) + (total % _MODULUS).to_bytes(32)
        self._hash = hashlib.sha256(ends).hexdigest()

    def split(self, name: str) -> Iterator[Record]:
        return self._records.split(name)

    @property
    def content_hash(self) -> str:
        if self._hash is None:
            for _ in self:
                pass
        assert self._hash is not None
        return self._hash
