"""Where a run is computed: profiles, and many workers, which make what one makes."""

from pathlib import Path
from typing import Any

import pytest
from ray_runs import TWO, run, written
from runs import results

from synthgen.errors import SpecError
from synthgen.orchestration.profile import Profile, load_profile
from synthgen.store.run import Run


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"runner": "dask"}, "runner: got 'dask'; takes 'local' or 'ray'"),
        ({"runer": "ray"}, "runer: unknown key (did you mean 'runner'?)"),
        ({"workers": 0}, "workers: got 0; takes 1 or more"),
        ({"address": "head"}, "address: got 'head'; takes an address such as ray://head:10001 or head:6379"),
        ("[1]", "runner: got [1]; takes 'local' or 'ray'"),
        ("a: [", "line 1"),
    ],
)
def test_what_is_wrong_with_a_profile_is_said_in_a_line(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        load_profile(written(tmp_path / "p.yaml", content))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_profile_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"cannot read the profile .*: No such file"):
        load_profile(tmp_path / "none.yaml")


def test_ray_that_is_not_installed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synthgen.orchestration.profile.find_spec", lambda name: None)
    with pytest.raises(SpecError, match=r"needs the package prefect-ray: pip install 'synthgen\[ray\]'"):
        load_profile(written(tmp_path / "p.yaml", TWO))


def test_the_usual_profile_is_this_process() -> None:
    assert Profile().task_runner() is None


@pytest.mark.slow
def test_two_workers_make_what_one_makes_and_one_may_be_killed(
    quick: Any, run_through: Any, tmp_path: Path, migrated: Any
) -> None:
    """A worker is killed while it measures its first shard: what comes of it is the same, to the byte."""
    flag = tmp_path / "flag"
    quick["filters"] = {**quick["filters"], "fatal": {"use": "mylab.fatal", "flag": str(flag)}}
    alone = run_through(quick, tmp_path / "alone")
    flag.touch()
    spec = written(tmp_path / "spec.yaml", quick)
    done = run(spec, tmp_path / "many", written(tmp_path / "ray.yaml", TWO), tmp_path / "home", migrated)
    assert done.returncode in {0, 3}, done.stderr
    told = [
        line for line in done.stderr.splitlines() if not line.startswith("note: filters.fatal: imported your module")
    ]
    assert all(line.startswith("short: ") for line in told), done.stderr
    assert not flag.exists()  # somebody was killed
    other = Run.at(tmp_path / "many", "fruit", 1)
    assert results(other.root) == results(alone.run.root)
    assert (
        len(
            {
                mark.environment["generator"]["threads"]
                for s, _, mark in other.marks.read_all()
                if s == "generate" and mark
            }
        )
        == 1
    )
