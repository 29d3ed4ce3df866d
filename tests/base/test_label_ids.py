"""Names of labels in files of annotation tools."""

import pytest

from synthgen.base.label_ids import instance_of, label_id, numbers_in, ranges


def test_a_label_is_known_again_in_its_own_image() -> None:
    assert instance_of(label_id(12, 3), 12) == 3
    assert instance_of(label_id(12, 3), 13) is None


@pytest.mark.parametrize("text", ["", "3", "12-", "-3", "12-3 ", "12--3", "12-3-4", "dLfH3k", "12-" + "9" * 30])
def test_other_texts_name_none(text: str) -> None:
    assert instance_of(text, 12) is None


@pytest.mark.parametrize(
    ("numbers", "text"), [([], ""), ([7], "7"), ([0, 1, 2], "0-2"), ([5, 0, 2, 1, 9, 8], "0-2 5 8-9")]
)
def test_numbers_as_text(numbers: list[int], text: str) -> None:
    assert ranges(numbers) == text
    assert numbers_in(text) == frozenset(numbers)


@pytest.mark.parametrize("text", ["x", "1 x", "1,2", "-1", "0-999999999", "1-2-3", "9" * 20])
def test_other_texts_hold_no_numbers(text: str) -> None:
    assert numbers_in(text) is None
