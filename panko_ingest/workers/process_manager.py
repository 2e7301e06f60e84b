"""cotyledon's manager of processes, which forks workers and starts them again, made to outlive more."""

import contextlib
import logging
import mmap
import os
import signal
import sys
import time
from collections.abc import Iterator
from multiprocessing.context import ForkContext
from multiprocessing.process import BaseProcess
from typing import Any

import cotyledon
from cotyledon.types import ServiceId, WorkerId

from panko_ingest.backoff import pauses

LOG = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 5.0
_POLL = 0.01


class ProcessManager(cotyledon.ServiceManager):
    """Starts services as processes, and again when they end; has no thread or file that can fail unseen."""

    def __init__(self, graceful_shutdown_timeout: int) -> None:
        # Workers inherit the configuration, which does not pickle.
        super().__init__(graceful_shutdown_timeout=graceful_shutdown_timeout, mp_context=_Context())

    def leave_after(self, seconds: int) -> None:
        """Leave processes that have not ended so long after the daemon is told to stop."""
        self._graceful_shutdown_timeout = seconds

    @property
    def _forktimes(self) -> "_ForkTimes":
        return self.__forktimes

    @_forktimes.setter
    def _forktimes(self, times: list[float]) -> None:
        self.__forktimes = _ForkTimes(times)

    def processes(self) -> dict[int, str]:
        """Return the processes that were started and have not ended: what they are, by pid."""
        return {
            pid: f"{self._services[service_id].service.name}-{info.worker_id}"
            for service_id, running in list(self._running_services.items())
            for process, info in list(running.items())
            if (pid := _pid(process)) is not None and _runs(pid)
        }

    def _start_worker(self, service_id: ServiceId, worker_id: WorkerId) -> None:
        for pause in pauses(_FIRST_PAUSE, _LONGEST_PAUSE):
            if self._dead.is_set():
                return
            try:
                super()._start_worker(service_id, worker_id)
            except OSError as error:
                name = self._services[service_id].service.name
                LOG.error(
                    "No process can be started for %s-%d, trying again: %s", name, worker_id, error.strerror
                )
            else:
                return
            self._dead.wait(pause)

    def _shutdown(self) -> None:
        try:
            super()._shutdown()
        except (
            RuntimeError
        ):  # it waits for the newest workers in threads, of which there may be none to be had
            self._run_hooks("terminate")
            for process in self._child_processes:
                process.terminate()
            for process in self._child_processes:
                process.join()
            sys.exit(0)

    def _child_supervisor_thread(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # for workers, which wait for it
        with ending_all("Workers could not be started any more"):
            super()._child_supervisor_thread()


def _pid(process: BaseProcess) -> int | None:
    try:
        return process.pid
    except ValueError:  # At a stop those that have ended are closed, and listed until the last has.
        return None


def _runs(pid: int) -> bool:
    try:
        # One that has ended is left for cotyledon to collect.
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


def send(pid: int, number: int) -> bool:
    """Send a signal to a process; return whether it was there."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


@contextlib.contextmanager
def ending_all(reason: str) -> Iterator[None]:
    """End the daemon where a thread of the master fails; its workers then end in good order."""
    try:
        yield
    except Exception:
        LOG.critical("%s: the daemon ends", reason, exc_info=True)
        logging.shutdown()
        os._exit(1)


class _ForkTimes(list[float]):
    """When processes were forked; a reload may empty the list while the oldest time is being taken out."""

    def pop(self, index: Any = -1) -> float:
        return super().pop(index) if self else 0.0


class _Context(ForkContext):
    """Processes by fork, and events that need no semaphore, for which /dev/shm must be writable."""

    def Event(self) -> Any:  # noqa: N802 - multiprocessing's name
        return _SharedFlag()


class _SharedFlag:
    """What cotyledon uses of ``multiprocessing.Event``."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 1)

    def set(self) -> None:
        self._memory[0] = 1

    def wait(self, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while not self._memory[0] and time.monotonic() < deadline:
            time.sleep(_POLL)
        return bool(self._memory[0])
