"""``panko-ingest``, also as ``python -m panko_ingest``."""

import os
import signal
import sys


def main() -> int:
    """Run one command; return its exit code."""
    if "serve" in sys.argv:  # a SIGHUP that comes before the daemon looks for it would end it, and waits now
        early = {signal.SIGHUP}
        if os.getpid() == 1:  # the kernel would throw away what nobody looks for yet
            early.add(signal.SIGTERM)
        # Who starts us may have blocked signals that we live by, such as that of a worker's end.
        signal.pthread_sigmask(signal.SIG_SETMASK, early)
    from panko_ingest.cli import main as command  # noqa: PLC0415 - all the libraries, which take a while

    return command.main()


if __name__ == "__main__":
    sys.exit(main())
