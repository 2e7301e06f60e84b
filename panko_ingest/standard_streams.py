"""Writing to standard streams that may take nothing, as on a full disk."""

import os
import sys
from typing import TextIO


def tell(text: str) -> None:
    """Write to standard error, if it takes anything: an exit code, or the work, tells the rest."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        forget(sys.stderr)


def forget(stream: TextIO) -> None:
    """Leave nothing that the interpreter would flush at its end, and end with 120 for failing again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
