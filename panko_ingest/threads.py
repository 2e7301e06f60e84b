"""Threads beside the work, which the system may refuse."""

import signal
import threading
from collections.abc import Callable
from typing import Any


def start(work: Callable[..., object], name: str, *arguments: Any) -> threading.Thread:
    """Start a thread that does not keep the process from ending, and leaves signals to the main thread.

    :raises OSError: the system has no thread for us now, as it may have no file or no memory.
    """
    thread = threading.Thread(target=work, name=name, args=arguments, daemon=True)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # the thread inherits it
    try:
        thread.start()
    except RuntimeError as error:
        raise OSError(
            f"no thread can be started ({error}): raise the limit of processes and threads "
            "(TasksMax=, pids.max, ulimit -u)"
        ) from None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return thread
