"""Label precision from samples whose truth is known."""

from math import comb

import numpy as np
import pytest

from synthgen.judging.precision import LabelPrecision, sample_size, shuffled, wilson


def test_wilson_without_an_end() -> None:
    """Figures of Newcombe, Statistics in Medicine 17 (1998), table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    for right, verdicts, low, high in [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611),
                                       (1, 29, 0.0061, 0.1718)]:  # fmt: skip
        assert wilson(right, verdicts, 10**12) == pytest.approx((low, high), abs=1e-4)


def test_a_whole_population_leaves_nothing_open() -> None:
    assert wilson(9, 10, 10) == (0.9, 0.9)
    assert wilson(0, 0, 10) == wilson(0, 0, 0) == (0.0, 1.0)
    widths = [high - low for low, high in (wilson(round(0.9 * n), n, 200) for n in (20, 50, 100, 150, 190))]
    assert widths == sorted(widths, reverse=True)


@pytest.mark.parametrize("numbers", [(-1, 5, 9), (6, 5, 9), (5, 10, 9)])
def test_what_cannot_be(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="right <= verdicts <= population"):
        wilson(*numbers)


@pytest.mark.parametrize("population", [40, 68, 500, 10**6])
@pytest.mark.parametrize("half_width", [0.1, 0.05, 0.03])
def test_a_sample_of_the_said_size_gives_the_width(population: int, half_width: float) -> None:
    n = sample_size(half_width, population)
    widths = [(high - low) / 2 for low, high in (wilson(k, n, population) for k in range(n + 1))]
    assert max(widths) <= half_width + 1e-9
    fewer = n - 2  # one less may do by rounding
    assert max((h - lo) / 2 for lo, h in (wilson(k, fewer, population) for k in (fewer // 2, fewer // 2 + 1))) > (
        half_width - 2e-3
    )


def test_sizes_known_by_hand() -> None:
    """z^2 / (4 h^2) - z^2 for a half: 384.1 - 3.8."""
    assert sample_size(0.05, 10**9) == 381
    assert sample_size(0.05, 0) == 0
    assert sample_size(0.05, 1) == 1


def test_in_words() -> None:
    assert str(LabelPrecision.of(0, 0, 10**9)) == "not reviewed: 381 verdicts give ± 5 %"
    assert str(LabelPrecision.of(0, 0, 0)) == "not reviewed; there are no labels to review"
    assert str(LabelPrecision.of(95, 100, 10**9)).startswith("95.0 % (88.8 to 97.8 %) by 100 verdicts")


def test_an_order_that_holds() -> None:
    """Random, another for another seed, and that of the rest where some are left out."""
    keys = np.arange(1000, dtype=np.int64) * 7 + 3
    order = keys[shuffled(keys, 5)]
    assert sorted(order) == keys.tolist() and (order != keys).any()
    assert (keys[shuffled(keys, 6)] != order).any()
    some = keys[keys % 2 == 1]
    assert some[shuffled(some, 5)].tolist() == [k for k in order if k % 2]
    assert abs(np.corrcoef(keys, order)[0, 1]) < 0.1
    first = np.array([shuffled(np.arange(10, dtype=np.int64), seed)[0] for seed in range(2000)])
    assert np.bincount(first, minlength=10).min() > 150  # each of ten comes first about 200 times


@pytest.mark.parametrize(("population", "wrong"), [(320, 40), (600, 60), (1000, 100), (70, 7)])
def test_coverage(population: int, wrong: int) -> None:
    """By the hypergeometric distribution: for one size of a sample or another it lies a little beside 95 %, as few
    numbers of right ones are possible; over the sizes it does not."""
    covers = []
    for n in range(30, min(population - 10, 260), 5):
        held = [wilson(k, n, population) for k in range(n + 1)]
        ways = [comb(population - wrong, k) * comb(wrong, n - k) for k in range(n + 1)]
        inside = sum(w for w, (low, high) in zip(ways, held, strict=True) if low <= 1 - wrong / population <= high)
        covers.append(inside / comb(population, n))
    assert 0.94 <= np.mean(covers) <= 0.96
    assert min(covers) > 0.88 and max(covers) < 0.99
