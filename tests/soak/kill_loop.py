"""Kills a run at every commit point and at random moments, and compares its results with those of an undisturbed run.

    python tests/soak/kill_loop.py [--kills 100] [--seed 0]

Prints kills, starts and seconds. Exits 1 if a result differs, or a temporary file or a process is left.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parent.parent))

import runs
from runs import results

SPEC = {
    "name": "killed", "count": 22, "budget": 2.0, "shard_size": 2, "height": 128, "width": 128,
    "classes": ["apple", "orange", "tree"], "objects_per_image": {0: 1, 1: 3, 2: 2},
    "prompts": {
        "templates": ["a photo of {objects} on {ground}"], "background_templates": ["a photo of {ground}"],
        "slots": {"ground": ["grass", "sand", "snow"]},
    },
    "layout": {"size": [0.34, 0.5]}, "generator": {"num_inference_steps": 2, "batch_size": 1},
    "filters": {"predicted_iou": {"min": 0.3}, "sharpness": {"min": 20}, "near_duplicate": {"max_distance": 0}},
}  # fmt: skip

NOT_COMPARED = ("commits/", "run.json", "report.html", "README.md")  # what holds times, or says how it was made
POINTS = [
    "*/spec.yaml", "*/run.json", "*/commits/round-0001.json", "*/jobs/00003.parquet", "*/commits/plan-00003.json",
    "*/images/00002/*.png", "*/partial/generate-00004-0001.json", "*/commits/generate-00005.json",
    "*/labels/00006.parquet", "*/commits/label-00006.json", "*/measures/00007.parquet", "*/commits/measure-00007.json",
    "*/verdicts.parquet", "*/quality.json", "*/commits/judge.json", "*/commits/round-0002.json",
    "*/annotations/instances_train.json", "*/commits/export-coco.files", "*/commits/export-coco.json",
    "*/report.html", "*/README.md", "*/commits/report.json",
]  # fmt: skip


def start(spec: Path, out: Path, fault: str = "") -> subprocess.Popen[bytes]:
    """What the flow does, without Prefect: a kill then costs seconds, not the start of a server."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "SYNTHGEN_FAULT": fault}
    return subprocess.Popen([sys.executable, runs.__file__, spec, out], env=environment, start_new_session=True)


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def kill_until(spec: Path, out: Path, kills: int, seed: int) -> tuple[int, int, list[str]]:
    """-> kills, starts, what went wrong. Every commit point first, before and after; then random moments, in fresh
    folders as runs come to their ends."""
    chance, wrong, killed, starts, folder = random.Random(seed), list[str](), 0, 0, 0
    reference = results(out / "undisturbed" / "killed" / "run-0001", NOT_COMPARED)
    faults = [f"{when} {point}" for point in POINTS for when in ("before", "after")]
    while killed < kills or faults:
        place = out / f"disturbed-{folder}"
        fresh = not place.exists()
        fault = faults.pop(0) if faults else ""
        process = start(spec, place, fault)
        starts += 1
        if fault:
            process.wait(600)
        else:
            try:
                process.wait(chance.uniform(0.2, 14))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        ended = process.wait()
        killed += ended == -signal.SIGKILL
        if fault and ended == 0 and fresh:
            wrong.append(f"{fault}: was not reached")
        elif fault and ended == 0:  # it lay behind: once more in a fresh folder
            faults.insert(0, fault)
        if alive(process.pid):
            wrong.append("a process is left")
        if ended == 0:
            wrong += differences(place, reference)
            folder += 1
        elif ended != -signal.SIGKILL:
            wrong.append(f"ended with {ended}")
            break
    if start_to_the_end(spec, out / f"disturbed-{folder}") != 0:
        wrong.append("the last resumption failed")
    return killed, starts, wrong + differences(out / f"disturbed-{folder}", reference)


def start_to_the_end(spec: Path, out: Path) -> int:
    return start(spec, out).wait()


def differences(place: Path, reference: dict[str, bytes]) -> list[str]:
    root = place / "killed" / "run-0001"
    now = results(root, NOT_COMPARED)
    found = [f"{place.name}: {n} differs" for n in sorted({*now, *reference}) if now.get(n) != reference.get(n)]
    return found + [f"{p} is left" for p in root.rglob(".*.tmp")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        out, spec = Path(folder), Path(folder) / "spec.yaml"
        spec.write_text(yaml.safe_dump(SPEC, sort_keys=False))
        assert start_to_the_end(spec, out / "undisturbed") == 0
        shards = len(list((out / "undisturbed" / "killed" / "run-0001" / "images").iterdir()))
        killed, starts, wrong = kill_until(spec, out, options.kills, options.seed)
    print(f"{shards} shards, {killed} kills (one at each of {2 * len(POINTS)} points), {starts - killed} runs to their "
          f"end, {starts} starts, {time.monotonic() - began:.0f} s")  # fmt: skip
    for line in wrong:
        print(f"wrong: {line}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
