"""`synthgen run` on workers of Ray, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

TWO = {"runner": "ray", "workers": 2, "num_cpus": 1, "shards_at_once": 1}


def written(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return path


def run(spec: Path, out: Path, profile: Path, home: Path, migrated: Any) -> subprocess.CompletedProcess[str]:
    """`synthgen run`, with a Prefect server and Ray of its own, and one thread a worker."""
    migrated(home / "prefect")
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    folders = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]  # of `mylab`
    return subprocess.run(
        [sys.executable, "-m", "synthgen.cli", "run", spec, "--out", out, "--quiet", "--profile", profile],
        capture_output=True, text=True, timeout=290, check=False,
        env={**kept, "SYNTHGEN_HOME": str(home), "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(folders)},
    )  # fmt: skip
