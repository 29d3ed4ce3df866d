"""Time, memory and size of a run's judging and report, over synthesised records.

    python benchmarks/report.py [--images 100000]

Prints the seconds of judging with all figures and of the report, the yield, the size of `report.html`, and the peak
memory of the process with the memory before.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

from synthgen.bench.synthesis import synthesise
from synthgen.pipeline.build import Build
from synthgen.pipeline.judge import judge_run
from synthgen.report.page import write
from synthgen.store.run import Run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    images = parser.parse_args().images
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        root = synthesise(Path(folder), images).run.root
        print(f"{images:,} images, {2 * images:,} labels: records made in {time.perf_counter() - began:.1f} s")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        build, began = Build.open(Run(root)), time.perf_counter()
        quality = judge_run(build)
        judged = time.perf_counter() - began
        began = time.perf_counter()
        page = write(build)
        wrote = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"judge and figures {judged:.1f} s, report {wrote:.1f} s; yield {quality.passed:.0%}")
        print(f"report.html {page.stat().st_size / 1e6:.2f} MB; peak memory {peak:.0f} MB ({before:.0f} MB before)")


if __name__ == "__main__":
    main()
