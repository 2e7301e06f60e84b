"""``python -m tests.simulation COUNT``: run so many worlds, and tell the seeds in which something broke."""

import argparse
import logging
import multiprocessing
import sys
import time
from collections.abc import Iterator

from tests.simulation.runner import failures, show

_CHUNK = 50


def _chunks(first: int, count: int) -> Iterator[range]:
    for start in range(first, first + count, _CHUNK):
        yield range(start, min(start + _CHUNK, first + count))


def main() -> int:
    """Run what the command line says; return 1 where a seed failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seeds", type=int, help="how many worlds, or with --show which")
    parser.add_argument("--first", type=int, default=0, help="the seed to begin with")
    parser.add_argument("--show", action="store_true", help="tell all that happens in one world")
    parser.add_argument("--processes", type=int, default=multiprocessing.cpu_count())
    options = parser.parse_args()
    if options.show:
        show(options.seeds)
        return 0
    started = time.monotonic()
    failed = 0
    with multiprocessing.Pool(options.processes, logging.disable, [logging.CRITICAL]) as pool:
        for found in pool.imap_unordered(failures, _chunks(options.first, options.seeds)):
            for seed, faults, reason in found:
                failed += 1
                sys.stdout.write(f"seed {seed} ({', '.join(faults)}): {reason}\n")
    sys.stdout.write(
        f"{options.seeds} worlds in {time.monotonic() - started:.0f} s, {failed} of them broke\n"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
