"""The same commands by the names that deployment tools call them by."""

import sys
from collections.abc import Sequence

from panko_ingest.cli.main import main

_HELP = ("-h", "--help")


def dbsync() -> int:
    """``panko-ingest-dbsync``: as ``panko-ingest db sync``."""
    return _run(("db", "sync"), ("--postpone-rewrites", "--block-cluster", "--dry-run"))


def expirer() -> int:
    """``panko-ingest-expirer``: as ``panko-ingest expire``."""
    return _run(("expire",), ("--dry-run",))


def _run(command: Sequence[str], own: Sequence[str]) -> int:
    """Run a command with the arguments of this process, of which ``own`` belong behind the command."""
    arguments = sys.argv[1:]
    behind = [argument for argument in arguments if argument in (*own, *_HELP)]
    before = [argument for argument in arguments if argument not in behind]
    return main([*before, *command, *behind])
