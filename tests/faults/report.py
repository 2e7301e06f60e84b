"""Makes the table of docs/faults.md from what the fault tests noted down.

python -m tests.faults.report > docs/faults.md
"""

import json
import sys
from collections import defaultdict
from typing import Any

from tests.faults.scene import RESULTS

_HEAD = """\
# What the fault tests do, and what came of it

`make test` runs the short form of `tests/faults`, `make test-faults` the long one, which writes this
table. Each test starts the daemon between a broker and a database of its own, publishes all the time,
breaks something for real, asserts that it broke, and at the end counts: each published message is one
stored event with all its traits, or one dead letter, and nothing is left on the queue.

*Recovery* is the time from the end of the fault until the next event is stored, the longest of several
runs; *messages* are those published, duplicates not counted, in the last run. What did not run since the
table was begun is not in it.

A half-open connection to the database is noticed when a statement has taken too long. These tests set
that to 3 s, and to up to ten times as much on a busy machine, where any statement takes longer.

| fault | recovery | messages | events | dead letters |
|---|---:|---:|---:|---:|
"""


def main() -> None:
    """Write the document to standard output."""
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in RESULTS.read_text().splitlines():
        row = json.loads(line)
        rows[row["fault"]].append(row)
    sys.stdout.write(_HEAD)
    for fault, runs in sorted(rows.items()):
        last, recovery = runs[-1], max(run["recovery"] for run in runs)
        seconds = f"{recovery:.1f} s" if recovery else "-"
        counts = " | ".join(f"{last[name]:,}" for name in ("published", "events", "dead_letters"))
        sys.stdout.write(f"| {fault} | {seconds} | {counts} |\n")


if __name__ == "__main__":
    main()
