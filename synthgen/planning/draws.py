"""Random choices that are the same on every machine: each is drawn from a stream that a hash of its purpose seeds.

Choices among named things (classes, numbers of objects, templates, slot values) are dealt like cards: after any number
of jobs, the counts of things of equal weight differ by at most one. So classes are balanced by construction. With n
things of any weights, the count of a thing with share s differs from s times all draws by less than 1 + s * (n - 2).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from hashlib import blake2b
from heapq import heapify, heapreplace
from random import Random
from typing import Generic, TypeVar

K = TypeVar("K")

to_json = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=str).encode


def stable_hash(*values: object, bits: int = 64) -> int:
    """A hash of plain values, below 2**bits, the same on every machine and in every version."""
    return stable_hash_of_json(to_json(values), bits)


def stable_hash_of_json(text: str, bits: int = 64) -> int:
    """`stable_hash` of values that are JSON already. Writing JSON takes longer than hashing it, so the planner composes
    the text of each job from pieces."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) >> (64 - bits)


def stream(*key: object) -> Callable[[], float]:
    """Random numbers in [0, 1) from a key, by `Random.random`, whose values Python promises never to change."""
    return Random(stable_hash(*key)).random


class Dealer(Generic[K]):
    """Deals keys in proportion to their weights, in random order.

    The k-th time of a key of weight w is (k + u) / w, for a uniform u. The key with the earliest time is dealt. With
    equal weights every key is dealt once a turn. At any time t a key has been dealt |d| < 1 more often than w * t. The
    bound in the module's docstring follows from it by eliminating t.
    """

    def __init__(self, weights: Mapping[K, float], *key: object) -> None:
        self._keys = [k for k, w in weights.items() if w > 0]
        self._weights = [weights[k] for k in self._keys]
        self._streams = [stream(*key, str(k)) for k in self._keys]
        self._dealt = [0] * len(self._keys)
        # The next time of each key, and its index, which decides if two times are equal.
        self._next = [(draw() / w, i) for i, (draw, w) in enumerate(zip(self._streams, self._weights, strict=True))]
        heapify(self._next)

    def deal(self) -> K:
        i = self._next[0][1]
        self._dealt[i] += 1
        heapreplace(self._next, ((self._dealt[i] + self._streams[i]()) / self._weights[i], i))
        return self._keys[i]
