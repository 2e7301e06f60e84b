"""Threads beside the work, which the system may refuse, and which a forked process has not."""

import os
import signal
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

_owners: weakref.WeakKeyDictionary[Any, Callable[[Any], object]] = weakref.WeakKeyDictionary()


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


def call(work: Callable[[], T], name: str) -> Future[T]:
    """Do something in a thread that does not keep the process from ending, however long it hangs.

    :returns: what it returns, or raises.
    :raises OSError: as :func:`start` does.
    """
    called: Future[T] = Future()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
            called.set_exception(error)
        else:
            called.set_result(result)

    start(run, name)
    return called


def in_children(owner: T, start_over: Callable[[T], object]) -> None:
    """Have the owner of a thread, or of connections, start over in a forked process as long as it lives.

    There it has no thread, locks stay taken, and connections go on being the parent's.

    :param start_over: is given the owner, which it must not keep itself.
    """
    _owners[owner] = start_over


def _start_over() -> None:
    for owner, start_over in _owners.items():
        start_over(owner)


os.register_at_fork(after_in_child=_start_over)
