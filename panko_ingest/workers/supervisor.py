"""The master's watch: ends workers that hang, and tells systemd how the daemon is."""

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from enum import Enum, auto

from panko_ingest.shared_metrics import SharedMetrics
from panko_ingest.shared_state import SharedState, Slot, State
from panko_ingest.workers.awake import Awake
from panko_ingest.workers.process_manager import send
from panko_ingest.workers.rates import Rates

LOG = logging.getLogger(__name__)

HANG_LIMIT = 30.0
_STATUS_INTERVAL = 5.0
_PATIENCE = 1.0
_LONGEST_TICK = 5.0
# While we wait for a broker or a database, or workers take turns, systemd is to wait with us.
_EXTENSION_USEC = 60_000_000
# More than a worker takes to end and to be there again: graceful_shutdown_timeout (60 s), and the pauses.
_LONGEST_TURN = 90.0


class Notifier:
    """Tells systemd how the daemon is (sd_notify(3)), where there is one that wants to know."""

    def __init__(self) -> None:
        address = os.environ.pop("NOTIFY_SOCKET", "")
        if address.startswith("@"):
            address = "\0" + address[1:]
        self._address = address
        self._refusal = ""
        self.watchdog_interval = _watchdog_interval(os.environ.get("WATCHDOG_USEC", ""))
        """Seconds within which systemd wants a sign of life; 0 for never."""

    def send(self, *states: str) -> None:
        """Send states such as ``READY=1``."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.settimeout(_PATIENCE)
                sock.connect(self._address)
                sock.sendall("\n".join(states).encode())
        except OSError as error:
            if str(error) != self._refusal:
                LOG.warning("systemd's notify socket refuses %s: %s", states, error)
            self._refusal = str(error)
        else:
            self._refusal = ""

    def reloading(self) -> None:
        """Say that the configuration is being read again."""
        self.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def _watchdog_interval(microseconds: str) -> float:
    try:
        return max(0.0, int(microseconds or 0) / 1_000_000)
    except (ValueError, OverflowError):
        LOG.warning("WATCHDOG_USEC=%.50r is no number of microseconds: no watchdog is fed", microseconds)
        return 0.0


class _Phase(Enum):
    """What systemd waits for."""

    STARTING = auto()
    READING = auto()
    """Whether the new configuration is good."""
    TAKING_TURNS = auto()
    READY = auto()
    STOPPING = auto()


class Supervisor:
    """Watches the shared state.

    A worker without a heartbeat for 30 s, or for half of what systemd's watchdog allows if that is less, is
    killed, and started again, where its slot says no other time. After the master stood still, and so perhaps
    everybody, that time begins anew.

    systemd's watchdog hears of the master alone: it would end those that work for one that does not.
    """

    def __init__(self, shared: SharedState, notifier: Notifier, shared_metrics: SharedMetrics) -> None:
        self._shared = shared
        self._notifier = notifier
        self._rates = Rates(shared_metrics)
        self._hang_limit = min(HANG_LIMIT, notifier.watchdog_interval / 2 or HANG_LIMIT)
        self._phase = _Phase.STARTING
        self._told_working = False
        self._reloaded_at = self._got_on_at = 0.0
        self._least_behind = 0
        # Signals are heard beside the watch; what they change and what systemd is told go together.
        self._lock = threading.Lock()
        self._status_at = 0.0
        self._unheard_since: dict[int, float] = {}
        self._killed: set[int] = set()
        self._awake = Awake(_LONGEST_TICK)

    def stopping(self) -> None:
        """Note that the daemon is told to stop; who hangs now is ended all the same."""
        with self._lock:
            self._phase = _Phase.STOPPING
            self._notifier.send(
                "STOPPING=1", "STATUS=stopping: workers commit and acknowledge what they hold"
            )

    def reloading(self) -> None:
        """Say that the configuration is being read again; before the first READY, systemd waits for that."""
        with self._lock:
            if self._phase not in {_Phase.STARTING, _Phase.STOPPING}:
                self._phase = _Phase.READING
                self._notifier.reloading()

    def reloaded(self, *, accepted: bool) -> None:
        """Say whether the new configuration is in force: if not, systemd has nothing more to wait for."""
        with self._lock:
            self._told_working = self._told_working and not accepted
            if self._phase is not _Phase.READING:
                return
            if accepted:
                self._phase = _Phase.TAKING_TURNS
                self._reloaded_at = self._got_on_at = time.monotonic()
                self._least_behind = sys.maxsize
                self._status_at = 0.0
            else:
                self._notifier.send(*self._become_ready())

    def tick(self, processes: Mapping[int, str], behind: Callable[[], int]) -> None:
        """Look at everybody; called about once a second.

        :param processes: all that run, by pid, with what the log calls them.
        :param behind: how many workers are not there, or don't work by the configuration in force.
        """
        self._killed &= processes.keys()  # what is stuck in the kernel stays, and is told once
        self._kill_hung()
        self._kill_unheard(processes)
        with self._lock:
            if self._phase is not _Phase.STOPPING:
                self._notify(behind())

    def _kill_hung(self) -> None:
        for name, slot in self._shared.occupied():
            pid, silent_for = slot.pid, self._silence_of(slot)
            hangs = pid not in {0, os.getpid()} and silent_for > self._limit_of(slot)
            if hangs:
                # A thread that keeps the interpreter's lock silences the others, some a moment before itself.
                self._shared.note_hang(pid, self._limit_of(slot) / 2)
                if not self._kill(pid, name, silent_for):
                    slot.clear()

    def _kill_unheard(self, processes: Mapping[int, str]) -> None:
        """Kill who has no slot for long: a process can also hang before its work begins, or after its end."""
        now = time.monotonic()
        heard = {slot.pid for _, slot in self._shared.occupied()}
        self._unheard_since = {pid: self._unheard_since.get(pid, now) for pid in processes.keys() - heard}
        for pid, since in self._unheard_since.items():
            if (silent_for := min(now - since, self._awake.seconds())) > self._hang_limit:
                self._kill(pid, processes[pid], silent_for)

    def _kill(self, pid: int, name: str, silent_for: float) -> bool:
        """Kill a process that hangs; return whether it was there."""
        if pid not in self._killed:
            LOG.error("Worker process %d (%s) made no progress for %.0f s: killing it", pid, name, silent_for)
            self._killed.add(pid)
        return send(pid, signal.SIGKILL)

    def _limit_of(self, slot: Slot) -> float:
        return slot.hang_limit or self._hang_limit

    def _silence_of(self, slot: Slot) -> float:
        return min(slot.seconds_since_heartbeat, self._awake.seconds())

    def _notify(self, behind: int) -> None:
        slots = self._shared.slots()
        consuming = sum(slot.state is State.CONSUMING for slot in slots)
        states = []
        working = consuming == len(slots) and not behind
        if working and not self._told_working:
            absent = self._rates.absent_queues
            LOG.info(
                "Ready: all %d readers are consuming%s",
                consuming,
                f"; waiting for queues that are not there: {absent}" if absent else "",
            )
            self._told_working = True
        if (self._phase is _Phase.STARTING and working) or (
            self._phase is _Phase.TAKING_TURNS and self._turns_end(behind)
        ):
            states += self._become_ready()
        waits = ""
        if self._phase in {_Phase.STARTING, _Phase.TAKING_TURNS}:
            states.append(f"EXTEND_TIMEOUT_USEC={_EXTENSION_USEC}")
        if self._phase is _Phase.TAKING_TURNS:
            waits = f"; the reload waits for {behind} processes"
        if time.monotonic() >= self._status_at:
            self._status_at = time.monotonic() + _STATUS_INTERVAL
            states.append(
                f"STATUS={consuming} of {len(slots)} readers consuming; {self._rates.look()}{waits}"
            )
        if self._notifier.watchdog_interval:
            states.append("WATCHDOG=1")
        if states:
            self._notifier.send(*states)

    def _turns_end(self, behind: int) -> bool:
        """Tell whether systemd is to wait no longer for a reload: while it does, nobody can correct it.

        A reload does not wait for brokers, nor for a process that can't be ended or started.
        """
        now = time.monotonic()
        if not behind:
            LOG.info("The reload is done: all processes work by it, after %.0f s", now - self._reloaded_at)
            return True
        if behind < self._least_behind:  # or one that dies again and again would seem to get on
            self._least_behind, self._got_on_at = behind, now
        if now - self._got_on_at <= _LONGEST_TURN:
            return False
        LOG.warning(
            "The reload does not get on: %d processes do not work by it yet, for %.0f s; it is told as done, "
            "so that another one can be tried",
            behind,
            now - self._got_on_at,
        )
        return True

    def _become_ready(self) -> list[str]:
        self._phase = _Phase.READY
        self._status_at = 0.0
        return ["READY=1"]
