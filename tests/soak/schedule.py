"""Serves a schedule on a Prefect server, kills and restarts the server between firings, and checks the dataset.

Every firing must add a run, nothing may be there twice, and nothing may move.

    python tests/soak/schedule.py [--interval 60] [--firings 3]

Prints firings, kills and seconds, and exits 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import yaml

sys.path.insert(0, str(Path(__file__).parent.parent))

from servers import answers

SPEC = {
    "name": "grown", "grow": True, "count": 8, "budget": 1.0, "shard_size": 4, "height": 128, "width": 128,
    "classes": ["apple", "orange", "tree"], "objects_per_image": {0: 1, 1: 3, 2: 2},
    "prompts": {
        "templates": ["a photo of {objects} on {ground}"], "background_templates": ["a photo of {ground}"],
        "slots": {"ground": ["grass", "sand", "snow"]},
    },
    "layout": {"size": [0.34, 0.5]}, "generator": {"num_inference_steps": 4},
    "filters": {"predicted_iou": {"min": 0.3}, "near_duplicate": None},
}  # fmt: skip
MOST_SECONDS = 900.0  # for a firing, or a server's start, on a busy machine


def start_server(port: int, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "prefect",
        "server",
        "start",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--no-ui",
    ]
    process = subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_for(lambda: answers(environment["PREFECT_API_URL"]), "the server's start")
    return process


def wait_for(is_so: Any, what: str) -> None:
    deadline = time.monotonic() + MOST_SECONDS
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {MOST_SECONDS:.0f} s for {what}")
        time.sleep(0.5)


def end(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
    process.wait(120)


def firings(folder: Path, outcome: str) -> list[dict[str, Any]]:
    with suppress(OSError, ValueError):
        found = orjson.loads((folder / "schedule.json").read_bytes())["firings"]
        return [firing for firing in found if firing.get("outcome") == outcome]
    return []


def content(folder: Path) -> tuple[dict[int, Any], dict[int, Any], list[str]]:
    """Of a merged dataset: image id -> (split, row), annotation id -> row, what is wrong with it alone."""
    images: dict[int, Any] = {}
    annotations: dict[int, Any] = {}
    wrong = []
    for file in sorted((folder / "dataset" / "coco" / "annotations").iterdir()):
        split = file.stem.removeprefix("instances_")
        coco = orjson.loads(file.read_bytes())
        for kind, found, rows in (
            ("image", images, [(row["id"], (split, row)) for row in coco["images"]]),
            ("annotation", annotations, [(row["id"], row) for row in coco["annotations"]]),
        ):
            for key, row in rows:
                if key in found:
                    wrong.append(f"{kind} {key} is there twice")
                found[key] = row
        there = {p.name for p in (folder / "dataset" / "coco" / split).glob("*.png")}
        if there != {image["file_name"] for image in coco["images"]}:
            wrong.append(f"the images of {split} are not those of its file")
    hashes = [row["measures"].get("near_duplicate") for _, row in images.values()]
    if None not in hashes and len(set(hashes)) < len(hashes):
        wrong.append("two images have one hash")
    return images, annotations, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--interval", type=float, default=60)
    parser.add_argument("--firings", type=int, default=3)
    options = parser.parse_args()
    began, wrong = time.monotonic(), list[str]()
    with tempfile.TemporaryDirectory() as place:
        spec, out = Path(place) / "spec.yaml", Path(place) / "outputs"
        spec.write_text(yaml.safe_dump(SPEC, sort_keys=False))
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        environment = {
            **os.environ, "PREFECT_HOME": f"{place}/prefect", "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
            "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1",
        }  # fmt: skip
        command = [sys.executable, "-m", "synthgen.cli", "schedule", spec, "--out", out]
        server = start_server(port, environment)
        serving = subprocess.Popen(
            [*command, "--interval", str(options.interval)], env=environment, start_new_session=True
        )
        folder, kills, before = out / "grown", 0, None
        try:
            for number in range(1, options.firings + 1):
                # The last run has come to its end, and nobody is at work: `made` is noted after the merge.
                wait_for(lambda n=number: len(firings(folder, "made")) >= n, f"firing {number}")
                now = content(folder)
                wrong += now[2]
                if before and not (before[0].items() < now[0].items() and before[1].items() <= now[1].items()):
                    wrong.append(f"firing {number} has moved what was there")
                before = now
                print(f"firing {number}: {len(now[0])} images, {len(now[1])} objects", flush=True)
                if number < options.firings:
                    # Once at once, once for so long that the schedule notices.
                    end(server, signal.SIGKILL)
                    kills += 1
                    time.sleep(0 if number % 2 else 60)
                    server = start_server(port, environment)
        except TimeoutError as error:
            wrong.append(str(error))
        finally:
            end(serving, signal.SIGTERM)
            end(server, signal.SIGTERM)
        runs = sorted(firing["run"] for firing in firings(folder, "made"))
        if runs != list(range(1, len(runs) + 1)):
            wrong.append(f"firings made the runs {runs}")
        outcomes = {name: len(firings(folder, name)) for name in ("made", "skipped", "missed", "failed")}
    print(f"{outcomes}, {kills} kills of the server, {time.monotonic() - began:.0f} s")
    for line in wrong:
        print(f"wrong: {line}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
