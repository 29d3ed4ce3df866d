import numpy as np

from synthgen.judging.reasons import Reasons, gathered, lowest

REASONS = Reasons(("a", "b", "c", *(f"n{k}" for k in range(60)), "last"))


def sets(*rows: str) -> np.ndarray:
    return np.array([REASONS.bits(*row.split()) for row in rows], np.uint64)


def test_names_come_back_in_their_order() -> None:
    rows = sets("", "c a", "last", "last b", "b", "")
    expected = [[], ["a", "c"], ["last"], ["b", "last"], ["b"], []]
    assert [REASONS.listed(row) for row in rows] == REASONS.table(rows).to_pylist() == expected
    assert REASONS.table(rows[:0]).to_pylist() == []


def test_tables_of_many() -> None:
    rows = np.random.default_rng(0).integers(0, 2**64, 500, np.uint64)
    assert REASONS.table(rows).to_pylist() == [REASONS.listed(row) for row in rows]


def test_counts() -> None:
    rows = sets("", "a c", "last", "a last", "c")
    assert REASONS.having(rows) == {"a": 2, "c": 2, "last": 2}
    assert REASONS.having(rows, np.array([1, 10, 100, 1000, 10000])) == {"a": 1010, "c": 10010, "last": 1100}
    assert REASONS.having(rows[:0]) == {}


def test_the_first_of_each() -> None:
    assert [REASONS.listed(row) for row in lowest(sets("", "b c", "last", "last b"))] == [[], ["b"], ["last"], ["b"]]


def test_groups() -> None:
    found = gathered(sets("a", "b", "a last"), np.array([2, 2, 0]), 4)
    assert [REASONS.listed(row) for row in found] == [["a", "last"], [], ["a", "b"], []]
