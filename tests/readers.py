"""Readers of dataset formats that conflict with our own environment, run as processes in one of their own.

They see neither synthgen nor the tests. So they read an export as a stranger does.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PYTHON = Path(sys.prefix) / "readers" / "bin" / "python"


def run_reader(script: str, *arguments: object, timeout_s: float = 120) -> Any:
    """Runs Python source with these `sys.argv[1:]` where the packages of `readers.txt` are installed.

    The script prints its result as JSON: the last line of its output counts, since libraries print too.

    Returns:
        The result; the test is skipped where the environment is missing, and fails with the script's own words where
        the script fails.
    """
    if not PYTHON.is_file():
        pytest.skip(f"{PYTHON} is missing; `make test` installs the readers")
    command = [str(PYTHON), "-I", "-W", "ignore", "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    if done.returncode != 0:
        pytest.fail(f"the reader ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])
