"""Dealt choices keep their shares."""

from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from synthgen.planning.draws import Dealer


def prefixes(dealer: Dealer[Any], n: int) -> Iterator[Counter[Any]]:
    counts: Counter[Any] = Counter()
    for _ in range(n):
        counts[dealer.deal()] += 1
        yield counts


@pytest.mark.parametrize("n", [1, 2, 3, 10, 80])
def test_equal_weights_differ_by_one_at_most(n: int) -> None:
    for counts in prefixes(Dealer(dict.fromkeys(range(n), 3.5), "key", n), 12 * n + 5):
        assert max(counts[k] for k in range(n)) - min(counts[k] for k in range(n)) <= 1


def test_weights_keep_their_shares_within_the_bound_that_is_stated() -> None:
    random = Random(0)
    worst = 0.0
    for trial in range(200):
        weights = {k: random.choice([1.0, 2.0, 0.1, 9.0, random.random() + 1e-3]) for k in range(random.randint(2, 9))}
        total = sum(weights.values())
        for n, counts in enumerate(prefixes(Dealer(weights, "bound", trial), 150), 1):
            for k, weight in weights.items():
                off = abs(counts[k] - n * weight / total)
                assert off < 1 + weight / total * (len(weights) - 2)
                worst = max(worst, off)
    assert worst > 1  # else the bound could be a simpler one


def test_weight_0_never_comes() -> None:
    dealer = Dealer({"a": 1.0, "b": 0.0}, "zero")
    assert {dealer.deal() for _ in range(50)} == {"a"}
