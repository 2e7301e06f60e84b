"""Runs the comparison; exit code 1 and the first cases where a difference is not explained."""

import argparse
import collections
import json
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from panko_ingest.converter import EventConverter
from tests.differential.cases import as_line, cases
from tests.differential.comparison import ours, verdict
from tests.unit.corpus import DEFINITIONS

CEILOMETER = "ceilometer==27.*"
SHOWN = 10


def main() -> int:
    """Compare, print how often each verdict fell, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="cases (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the mutations (default: %(default)s)")
    parser.add_argument(
        "--environment",
        type=Path,
        default=Path("build/ceilometer"),
        help="virtual environment with Ceilometer, made when it is absent (default: %(default)s)",
    )
    arguments = parser.parse_args()
    if not DEFINITIONS.is_file():
        sys.exit(f"{DEFINITIONS} is missing: the corpus of notifications belongs beside the repository")
    python = _environment(arguments.environment)
    generated = list(cases(arguments.count, arguments.seed))
    differ = [
        _compare(python, definitions, generated)
        for definitions in (DEFINITIONS, Path(__file__).with_name("features.yaml"))
    ]
    return int(any(differ))


def _compare(python: Path, definitions: Path, generated: list[dict[str, Any]]) -> bool:
    sys.stdout.write(f"{definitions.parent.name}/{definitions.name}\n")
    converter = EventConverter.from_file(definitions)
    verdicts: collections.Counter[str] = collections.Counter()
    unexplained = []
    for case, upstream in zip(generated, _upstream(python, definitions, generated), strict=True):
        found = verdict(case, upstream, ours(converter, case))
        verdicts[found.partition(": only")[0] if found.startswith("unexplained") else found] += 1
        if found.startswith("unexplained"):
            unexplained.append((found, case))
    for found, number in verdicts.most_common():
        sys.stdout.write(f"{number:7} {found}\n")
    for found, case in unexplained[:SHOWN]:
        sys.stdout.write(f"\n{case['sample']}: {found}\n{json.dumps(case['notification'])[:2000]}\n")
    return bool(unexplained)


def _environment(folder: Path) -> Path:
    python = folder / "bin" / "python"
    if not python.exists():
        sys.stderr.write(f"installing {CEILOMETER} into {folder}\n")
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", CEILOMETER, "setuptools"], check=True)
    return python


def _upstream(python: Path, definitions: Path, generated: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    script = Path(__file__).with_name("ceilometer_side.py")
    done = subprocess.run(
        [python, script, definitions],
        input="\n".join(map(as_line, generated)),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return map(json.loads, done.stdout.splitlines())


if __name__ == "__main__":
    sys.exit(main())
