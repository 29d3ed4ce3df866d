"""A run folder that is moved or removed while a run is at work in it."""

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cheap
import pytest
from cheap import write_parts

from synthgen.errors import RunError
from synthgen.store.run import Run


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    write_parts(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield {**cheap.SPEC, "count": 4}
    for name in [name for name in sys.modules if name.partition(".")[0] == "cheap_parts"]:
        del sys.modules[name]


def moved(root: Path) -> None:
    root.rename(root.with_name("elsewhere"))


def replaced(root: Path) -> None:
    """Another run has begun in its place."""
    moved(root)
    root.mkdir()
    (root / ".lock").write_text("pid 7 on elsewhere\nboot 00\n")


@pytest.mark.parametrize("go", [moved, shutil.rmtree, replaced], ids=["moved", "removed", "replaced"])
@pytest.mark.parametrize("where", ["generate", "segment", "measure", "export"])
def test_a_folder_that_goes(
    where: str, go: Callable[[Path], None], spec: Any, run_through: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    root, gone = tmp_path / "out" / "cheap" / "run-0001", list[bool]()

    def come(now: str) -> None:
        if now == where and not gone:
            gone.append(True)
            go(root)

    for name in ("noise", "whole", "corner", "lines"):
        monkeypatch.setattr(f"cheap_parts.{name}.come", come)
    with pytest.raises(RunError) as stop:
        run_through(spec, tmp_path / "out")
    said = f"{root} has been moved or removed" if go is not replaced else "pid 7 on elsewhere has taken over"
    assert str(stop.value).startswith(said) and "\n" not in str(stop.value) and stop.value.exit_code == 2
    assert not root.exists() if go is not replaced else [p.name for p in root.rglob("*")] == [".lock"]
    if go is moved:  # it can be moved back, and gone on with
        assert not Run(root.with_name("elsewhere")).holder()
        root.with_name("elsewhere").rename(root)
        assert run_through(spec, tmp_path / "out").is_complete()
