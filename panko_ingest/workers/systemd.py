"""Telling systemd how the daemon is, by its notify protocol (sd_notify(3))."""

import logging
import os
import socket
import time

LOG = logging.getLogger(__name__)


class Notifier:
    """Sends states to the socket that systemd gave us; does nothing where there is none.

    It takes NOTIFY_SOCKET out of the environment: cotyledon would say READY before anything is.
    """

    def __init__(self) -> None:
        address = os.environ.pop("NOTIFY_SOCKET", None)
        if address and address.startswith("@"):
            address = "\0" + address[1:]
        self._address = address
        self.watchdog_interval = int(os.environ.get("WATCHDOG_USEC", "0")) / 1_000_000
        """Seconds within which systemd wants a sign of life; 0 for never."""

    def send(self, *states: str) -> None:
        """Send states such as ``READY=1``."""
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.connect(self._address)
                sock.sendall("\n".join(states).encode())
        except OSError as error:
            LOG.warning("systemd's notify socket refuses %s: %s", states, error)

    def reloading(self) -> None:
        """Say that the configuration is being read again."""
        self.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
