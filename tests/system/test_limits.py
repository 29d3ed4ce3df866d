"""Numbers in a spec that take memory or make no sense beyond some size."""

from typing import Any

import pytest

from synthgen.errors import SpecError
from synthgen.spec import DatasetSpec


@pytest.mark.parametrize(
    ("stage", "options", "field", "most"),
    [
        ("grounder", {"use": "detector"}, "max_boxes", 1000),  # masks of an image: a gigabyte at 1024 px
        ("filters", {"use": "faces"}, "min_size", 4096),  # px: the longest side that an image may have
    ],
)
def test_the_most_is_taken_and_more_is_refused(good: Any, stage: str, options: Any, field: str, most: int) -> None:
    def spec(value: int) -> DatasetSpec:
        chosen = {**options, field: value}
        return DatasetSpec.parse({**good, stage: {"it": chosen} if stage == "filters" else chosen})

    assert getattr(spec(most).filters["it"] if stage == "filters" else spec(most).grounder, field) == most
    with pytest.raises(SpecError, match=rf"{field}: got {most + 1}; takes at most {most:,}$"):
        spec(most + 1)
