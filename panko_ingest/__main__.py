"""``panko-ingest``, also as ``python -m panko_ingest``."""

import signal
import sys


def main() -> int:
    """Run one command; return its exit code."""
    if "serve" in sys.argv:  # a SIGHUP that comes before the daemon looks for it would end it, and waits now
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    from panko_ingest.cli import main as command  # noqa: PLC0415 - all the libraries, which take a while

    return command.main()


if __name__ == "__main__":
    sys.exit(main())
