"""Makes docs/faults.md of report_head.md, what a fault costs, and of what the fault tests noted down.

python -m tests.faults.report > docs/faults.md
"""

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from tests.faults.scene import RESULTS

HEAD = Path(__file__).with_name("report_head.md").read_text()


def main() -> None:
    """Write the document to standard output."""
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in RESULTS.read_text().splitlines():
        row = json.loads(line)
        rows[row["fault"]].append(row)
    sys.stdout.write(HEAD)
    for fault, runs in sorted(rows.items()):
        last, recovery = runs[-1], max(run["recovery"] for run in runs)
        seconds = f"{recovery:.1f} s" if recovery else "-"
        counts = " | ".join(f"{last[name]:,}" for name in ("published", "events", "dead_letters"))
        sys.stdout.write(f"| {fault} | {seconds} | {counts} |\n")


if __name__ == "__main__":
    main()
