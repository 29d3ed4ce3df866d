"""Runs on a disk that fails at one call: a sample of what `tests/soak/faults.py` goes through."""

from collections.abc import Iterator

import pytest
from bad_disk import Case, Outcome, calls, cases_of, compiled, tried
from cheap import write_parts

CASES = 36


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[tuple[Case, Outcome]]]:
    place = tmp_path_factory.mktemp("bad")
    library = compiled(place)
    if library is None:
        pytest.skip("needs Linux and a C compiler")
    write_parts(place)
    asked = calls(library, place)
    if not asked:
        pytest.skip("this Python calls another C library")
    cases = cases_of(asked)
    yield list(tried(library, place, cases[:: len(cases) // CASES]))


def test_no_call_that_fails_spoils_a_run(outcomes: list[tuple[Case, Outcome]]) -> None:
    """It goes on without, or ends in one line; and the next run makes the same dataset, to the last byte."""
    assert [(case, outcome) for case, outcome in outcomes if outcome.wrong] == []
    assert {outcome.code for _, outcome in outcomes} == {"0", "2", "4"}
    assert len({case.kind for case, _ in outcomes}) > 8 and sum(outcome.hit for _, outcome in outcomes) > CASES / 2
