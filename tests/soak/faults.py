"""Lets calls to the disk fail in a run, and compares the resumed run with an undisturbed one.

The run has three shards and two rounds. Every kind of call fails for every kind of file, with every error, once or for
good. Then the same run resumes on a whole disk.

    python tests/soak/faults.py [--cases N]

Prints a table of exit codes with the errors as columns, where 0 means that the run went on without the call; and how
often each message came. `!` marks what is wrong: an error of several lines, a run without end, another dataset, or a
run that cannot be resumed. Exits 1 then.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from bad_disk import ERRORS, Outcome, calls, cases_of, compiled, kind_of_file, tried
from cheap import write_parts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cases", type=int, help="try about so many, spread over all; default: all")
    options = parser.parse_args()
    began, cells, said, wrong = time.monotonic(), dict[tuple[str, str], dict[str, Counter[str]]](), Counter[str](), []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder).resolve()
        write_parts(place)
        library = compiled(place)
        if library is None:
            print("needs Linux and a C compiler")
            return 2
        cases = cases_of(calls(library, place))
        cases = cases[:: max(1, len(cases) // options.cases)] if options.cases else cases
        for number, (case, outcome) in enumerate(tried(library, place, cases)):
            if number % 100 == 0:
                print(f"{number} of {len(cases)} cases", file=sys.stderr, flush=True)
            row = cells.setdefault((case.kind, kind_of_file(case.name)), {error: Counter() for error in ERRORS})
            row[case.error][_mark(outcome)] += 1
            said[f"exit {outcome.code}: {kind_of_file(outcome.said)}"] += 1
            if outcome.wrong:
                wrong.append(f"{case}: {outcome.code}, {outcome.said}: {outcome.wrong}")
    print(f"{'call':10}{'file':50}" + "".join(f"{error:>10}" for error in ERRORS))
    for (kind, name), row in sorted(cells.items()):
        print(f"{kind:10}{name or '.':50}" + "".join(f"{' '.join(sorted(row[error])):>10}" for error in ERRORS))
    print()
    for words, times in said.most_common():
        print(f"{times:6} {words}")
    made = sum(count for row in cells.values() for cell in row.values() for count in cell.values())
    print(f"\n{made} cases, {len(wrong)} wrong, {time.monotonic() - began:.0f} s")
    for line in wrong:
        print(f"wrong: {line}")
    return bool(wrong)


def _mark(outcome: Outcome) -> str:
    return outcome.code + ("!" if outcome.wrong else "") + ("" if outcome.hit else "?")


if __name__ == "__main__":
    sys.exit(main())
