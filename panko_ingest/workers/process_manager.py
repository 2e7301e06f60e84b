"""cotyledon's manager of processes, which forks workers and starts them again, made to outlive more."""

import contextlib
import logging
import mmap
import os
import signal
import sys
import time
from collections.abc import Iterator
from multiprocessing.context import ForkContext, ForkProcess
from multiprocessing.popen_fork import Popen
from multiprocessing.process import BaseProcess
from typing import Any

import cotyledon
from cotyledon.types import ServiceId, WorkerId

from panko_ingest.backoff import pauses

LOG = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 5.0
_POLL = 0.01
# Workers end themselves after graceful_shutdown_timeout; one that is stopped does not, and one that is stuck
# in the kernel can't be killed either.
_KILL_AFTER, _LEAVE_AFTER = 2.0, 5.0


class ProcessManager(cotyledon.ServiceManager):
    """Starts services as processes, and again when they end; has no thread or file that can fail unseen.

    :param graceful_shutdown_timeout: seconds in which they are to end when all are told to; 0 for any time.
    """

    def __init__(self, graceful_shutdown_timeout: int) -> None:
        # Workers inherit the configuration, which does not pickle.
        super().__init__(graceful_shutdown_timeout=graceful_shutdown_timeout, mp_context=_Context())

    def end_within(self, graceful_shutdown_timeout: int) -> None:
        """Have another time in which processes are to end."""
        self._graceful_shutdown_timeout = graceful_shutdown_timeout

    @property
    def _forktimes(self) -> "_ForkTimes":
        return self.__forktimes

    @_forktimes.setter
    def _forktimes(self, times: list[float]) -> None:
        self.__forktimes = _ForkTimes(times)

    def processes(self) -> dict[int, str]:
        """Return the processes that were started and have not ended: what they are, by pid."""
        return {process.pid: name for process, name in self._started().items() if _runs(process.pid)}

    def _started(self) -> dict[Any, str]:
        return {
            process: f"{self._services[service_id].service.name}-{info.worker_id}"
            for service_id, running in list(self._running_services.items())
            for process, info in list(running.items())
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
                self._collect_strangers()  # which count towards the limit that may be the reason
            else:
                return
            self._dead.wait(pause)

    def _shutdown(self) -> None:
        """Tell all to end, and see to it that they do, or that this does.

        cotyledon would wait for one after the other, and for ever, and hear of no exit code.
        """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        begun = time.monotonic()
        self._dead.set()
        self._got_sig_chld.set()
        self._run_hooks("terminate")
        sys.exit(0 if self._end_all(begun) else 1)

    def _end_all(self, begun: float) -> bool:
        """Return whether all ended in good order, of those that were there to be told."""
        timeout = self._graceful_shutdown_timeout
        told: set[Any] = set()
        killed: set[Any] = set()
        while True:
            forking = self._child_supervisor is not None and self._child_supervisor.is_alive()
            while not forking and self._get_last_worker_died():  # else that thread may do so, too
                pass
            started = self._started()
            if not started and not forking:
                return not any(process.exitcode for process in told)
            for process in started.keys() - told:
                if _runs(process.pid):  # else it ended by itself before
                    process.terminate()
                    told.add(process)
            late = time.monotonic() - begun - timeout if timeout else 0.0
            for process in started.keys() - killed if late > _KILL_AFTER else ():
                text = "Process %d (%s) did not end in graceful_shutdown_timeout (%d s): killing it"
                LOG.error(text, process.pid, started[process], timeout)
                process.kill()
                killed.add(process)
            if late > _LEAVE_AFTER:
                for process, name in started.items():
                    LOG.error("Nothing ends process %d (%s): it is left behind", process.pid, name)
                return False
            time.sleep(_POLL)

    def _get_last_worker_died(self) -> tuple[ServiceId, WorkerId] | None:
        died = super()._get_last_worker_died()
        if died is None:
            self._collect_strangers()
        return died

    def _collect_strangers(self) -> None:
        """Collect what has ended and is none of ours: process 1 has whatever lost its parent.

        Called where workers are forked, so that each of those is known by now.
        """
        ours = {process.pid for process in self._started()}
        with contextlib.suppress(ChildProcessError):
            while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if ended.si_pid in ours:  # which is cotyledon's to collect, at the signal of its end
                    return
                os.waitpid(ended.si_pid, os.WNOHANG)

    def _child_supervisor_thread(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # for workers, which wait for it
        with ending_all("Workers could not be started any more"):
            super()._child_supervisor_thread()


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

    def __getitem__(self, index: Any) -> Any:
        try:
            return super().__getitem__(index)
        except IndexError:
            return 0.0


class _Fork(Popen):
    """A fork without pipes, which multiprocessing leaves open when it fails."""

    sentinel = -1  # which would be one of them; nobody here waits for it

    def _launch(self, process_obj: BaseProcess) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                code = process_obj._bootstrap()  # type: ignore[attr-defined]
            finally:
                os._exit(code)


class _Process(ForkProcess):
    """A process that keeps nobody from ending."""

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> _Fork:  # noqa: N802 - multiprocessing's name
        return _Fork(process_obj)

    def join(self, timeout: float | None = None) -> None:
        """Return: the interpreter's end would wait for one that nothing ends."""


class _Context(ForkContext):
    """Processes by fork, and events that need no semaphore, for which /dev/shm must be writable."""

    Process = _Process

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
