"""The garbage collector, as it was before and after."""

from __future__ import annotations

import gc

import pytest

from synthgen.base.collector import OBJECTS, short_lived_objects


def test_the_collector_is_put_back() -> None:
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    with pytest.raises(ValueError, match="as always"), short_lived_objects():
        assert gc.get_freeze_count() > 1000 and gc.get_threshold()[0] == OBJECTS and gc.isenabled()
        raise ValueError("as always")
    assert gc.get_threshold() == before and gc.get_freeze_count() <= frozen
