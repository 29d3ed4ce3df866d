"""Past runs side by side, and when the last is said to have fallen behind."""

import shutil
from collections.abc import Callable
from math import comb
from pathlib import Path
from typing import Any

import orjson
import pytest
from rich.console import Console

from synthgen.dataset.history import ALPHA, Past, drop, fisher, history, table
from synthgen.judging.precision import LabelPrecision
from synthgen.judging.quality import Quality
from synthgen.pipeline.build import Build
from synthgen.store.run import Run


def past(number: int, passed: int, made: int, *, right: int = 0, verdicts: int = 0, **spec: Any) -> Past:
    """A finished run of which `passed` of `made` images pass, and `right` of `verdicts` labels were right."""
    quality = Quality(
        name="fruit", wanted=passed, made=made, accepted=passed, surplus=0, rejected=made - passed, instances=passed,
        reasons={}, classes={}, splits={}, objects={}, precision=LabelPrecision.of(right, verdicts, 10_000),
    )  # fmt: skip
    return Past(number, "finished", quality, 7322.0, 12.34, spec)


@pytest.mark.parametrize(
    ("now", "before"), [((1, 9), (11, 12)), ((0, 5), (5, 5)), ((3, 10), (6, 20)), ((10, 10), (1, 10)), ((0, 4), (0, 9))]
)
def test_fisher_is_the_sum_of_hypergeometric_probabilities(now: tuple[int, int], before: tuple[int, int]) -> None:
    (k, n), successes, tries = now, now[0] + before[0], now[1] + before[1]
    ways = sum(comb(successes, i) * comb(tries - successes, n - i) for i in range(k + 1))
    assert fisher(now, before) == pytest.approx(ways / comb(tries, n), rel=1e-9)


def test_fisher_knows_a_published_example() -> None:
    """Fisher's convicts (Statistical Methods, section 21.02): 10 of 13 monozygotic twins of convicts were convicted, 2
    of 17 dizygotic ones; his probability is 619 / 1330665, that of 2 or fewer."""
    assert fisher((2, 17), (10, 13)) == pytest.approx(619 / 1330665, rel=1e-9)


def test_fisher_with_nothing_to_compare() -> None:
    assert fisher((0, 0), (5, 10)) == fisher((5, 10), (0, 0)) == 1.0


def test_fisher_of_large_runs() -> None:
    assert fisher((700_000, 1_000_000), (7_000_000, 10_000_000)) == pytest.approx(0.5, abs=0.01)
    assert 0 < fisher((698_000, 1_000_000), (7_000_000, 10_000_000)) < 1e-4


def test_a_drop_of_the_yield() -> None:
    line = drop([past(1, 80, 100), past(2, 76, 100), past(3, 50, 100)])
    chance = fisher((50, 100), (156, 200))
    assert chance < ALPHA
    assert (
        line == f"run 3: yield 50.0% (50 of 100), after 78.0% (156 of 200) in the 2 runs before it (p = {chance:.1g})"
    )


def test_no_drop_where_chance_will_do() -> None:
    assert fisher((68, 100), (156, 200)) > ALPHA
    assert drop([past(1, 80, 100), past(2, 76, 100), past(3, 68, 100)]) is None
    assert drop([past(1, 50, 100), past(2, 99, 100)]) is None  # better is no drop
    assert drop([past(1, 0, 100)]) is None
    assert drop([]) is None


def test_a_drop_of_label_precision() -> None:
    line = drop([past(1, 8, 10, right=198, verdicts=200), past(2, 8, 10), past(3, 8, 10, right=80, verdicts=100)])
    assert line is not None
    assert line.startswith("run 3: label precision 80.0% (80 of 100), after 99.0% (198 of 200) in the 2 runs before it")


def test_what_the_spec_has_otherwise_is_said_with_it() -> None:
    before = past(1, 90, 100, filters={"sharpness": {"min": 5.0}}, count=100, grow=False)
    line = drop([before, past(2, 40, 100, filters={"sharpness": {"min": 60.0}}, count=40, grow=True)])
    assert line is not None
    assert " in the run before it (p = " in line
    assert line.endswith("; since run 1 the spec has changed: filters.sharpness.min: 5.0 -> 60.0")


def test_only_finished_runs_are_compared_with() -> None:
    good, last = past(1, 90, 100), past(3, 40, 100)
    stopped = Past(2, "unfinished", past(2, 0, 1000).quality, 1.0, 0.0, {})
    assert drop([stopped, last]) is None
    line = drop([good, stopped, last])
    assert line is not None and "after 90.0% (90 of 100) in the run before it" in line
    at_work = Past(3, "at work", last.quality, 1.0, 0.0, {})  # as when its own report is written
    assert drop([good, at_work]) is not None


def test_history_of_a_folder(
    finished: Build, tmp_path: Path, run_through: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "recorded_number", None)  # else copies of a run would not count as runs
    folder = tmp_path / "fruit"
    shutil.copytree(finished.run.root, folder / "run-0001")
    for number in (2, 3, 4):
        shutil.copytree(finished.run.root, folder / f"run-{number:04d}")
    (folder / "run-0002" / "commits" / "export-coco.json").unlink()
    (folder / "run-0003" / "quality.json").write_text("{")
    (folder / "run-0005").mkdir()
    (folder / "run-0005" / "spec.yaml").write_bytes((folder / "run-0001" / "spec.yaml").read_bytes())
    with Run(folder / "run-0004").lock():
        found = history(folder)
    assert [(p.number, p.state) for p in found] == [
        (1, "finished"), (2, "unfinished"), (3, "damaged"), (4, "at work"), (5, "unfinished"),
    ]  # fmt: skip
    raw = orjson.loads((folder / "run-0001" / "quality.json").read_bytes())
    first = found[0]
    assert first.quality == finished.quality()
    assert first.passed == (raw["accepted"] + raw["surplus"], raw["made"])
    assert (first.seconds, first.accepted_per_hour) == (raw["timings"]["seconds"], raw["timings"]["accepted_per_hour"])
    assert found[4].quality is None


def test_the_table() -> None:
    runs = [past(1, 80, 100), past(2, 60, 100, right=45, verdicts=50), past(3, 1234, 2000)]
    runs.insert(2, Past(4, "damaged", None, None, None, {}))
    console = Console(width=140, record=True, force_terminal=False)
    with console.capture() as capture:
        console.print(table(runs))
    lines = [line.split() for line in capture.get().splitlines()]
    assert lines[0] == [
        "run",
        "state",
        "made",
        "accepted",
        "yield",
        "trend",
        "label",
        "precision",
        "time",
        "accepted/h",
    ]
    assert lines[1] == ["1", "finished", "100", "80", "of", "80", "80.0%", "2:02:02", "12"]
    low, high = (
        f"{100 * edge:.1f}" for edge in (LabelPrecision.of(45, 50, 10_000).low, LabelPrecision.of(45, 50, 10_000).high)
    )
    assert lines[2] == f"2 finished 100 60 of 60 60.0% -20.0 90.0 % ({low} to {high}) 2:02:02 12".split()
    assert lines[3] == ["4", "damaged"]
    assert lines[4] == ["3", "finished", "2,000", "1,234", "of", "1,234", "61.7%", "-8.3", "2:02:02", "12"]
