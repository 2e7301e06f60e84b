"""A notify socket as systemd has it, for what the daemon tells it."""

import itertools
import re
import socket
import threading
import time
from pathlib import Path

from tests.waiting import wait_until


class NotifySocket:
    """Collects what is sent to it, with the time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.received: list[tuple[float, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        threading.Thread(target=self._collect, daemon=True).start()

    def _collect(self) -> None:
        while datagram := self._socket.recv(4096):
            now = time.monotonic()
            self.received += [(now, state) for state in datagram.decode().splitlines()]

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def states(self) -> list[str]:
        """Return all states but the watchdog's, without their values."""
        return [state.partition("=")[0] for _, state in self.received if state != "WATCHDOG=1"]

    def wait_for(self, pattern: str, timeout: float = 30.0) -> str:
        return wait_until(
            lambda: next((state for _, state in self.received if re.search(pattern, state)), None),
            timeout,
            f"{pattern!r} among {self.received[-20:]}",
        )

    def longest_silence(self, since: float) -> float:
        """Return the seconds between two signs of life that were furthest apart, the last one up to now."""
        beats = [at for at, state in self.received if state == "WATCHDOG=1" and at >= since]
        return max(later - at for at, later in itertools.pairwise([since, *beats, time.monotonic()]))

    def watchdogs_since(self, moment: float) -> int:
        return sum(state == "WATCHDOG=1" and at > moment for at, state in self.received)
