"""Lets calls to the disk fail in a run of three shards and a second round: every kind of call for every kind of file,
with every error, once or for good. Then does the same run again on a whole disk, and compares it with one that nobody
disturbed.

    python tests/soak/faults.py

Prints a table of exit codes (0: it went on without), with the errors as columns, and what was said; `!` marks what is
not as it should be: an error of more than a line, no end, another dataset, a run that cannot be resumed. Exits 1 then.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from bad_disk import ERRORS, Outcome, calls, cases_of, compiled, kind_of_file, tried
from cheap import write_parts


def main() -> int:
    began, cells, said, wrong = time.monotonic(), dict[tuple[str, str], dict[str, Counter[str]]](), Counter[str](), []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder).resolve()
        write_parts(place)
        library = compiled(place)
        if library is None:
            print("needs Linux and a C compiler")
            return 2
        cases = cases_of(calls(library, place))
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
