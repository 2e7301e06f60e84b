"""Services of the cloud that go on publishing whatever happens to the broker."""

import logging
import threading
import time
from collections.abc import Sequence
from typing import Self

import amqp

from tests.bus import Bus

LOG = logging.getLogger(__name__)

_INTERVAL = 0.1


class Feed:
    """Publishes bodies at a rate from a thread of its own, each until the broker confirms it.

    A body that the broker may have got before it broke is published again, as a service would: it
    has the same message_id.

    :param urls: of the broker's nodes; the next one is tried when one fails.
    """

    def __init__(
        self, urls: Sequence[str], bodies: Sequence[bytes], rate: float, *, quorum: bool = False
    ) -> None:
        self.confirmed = 0
        self.failures = 0
        self._urls = list(urls)
        self._bodies = bodies
        self._chunk = max(1, int(rate * _INTERVAL))
        self._quorum = quorum
        self._running = threading.Event()
        self._running.set()
        self._stopping = threading.Event()
        self._idle = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def pause(self) -> None:
        """Stop publishing for a while; returns when nothing is on its way."""
        self._running.clear()
        self._idle.wait(60)

    def resume(self) -> None:
        """Go on."""
        self._idle.clear()
        self._running.set()

    def published_since(self, confirmed: int) -> bool:
        """Return whether the broker has what was first published after so many were confirmed.

        :param confirmed: a former value of ``confirmed``; one more chunk was on its way then.
        """
        return self.confirmed >= min(confirmed + 2 * self._chunk, len(self._bodies))

    def stop(self) -> Sequence[bytes]:
        """Stop for good, and return what the broker has confirmed."""
        self._stopping.set()
        self._running.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "the broker neither took nor refused a message for a minute"
        return self._bodies[: self.confirmed]

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with Bus(self._urls[0], quorum=self._quorum) as bus:
                    bus.declare()
                    self._publish(bus)
            except (amqp.AMQPError, OSError) as error:
                LOG.debug("publishing: %r", error)
                self.failures += 1
                self._urls.append(self._urls.pop(0))
                self._stopping.wait(0.2)

    def _publish(self, bus: Bus) -> None:
        while not self._stopping.is_set():
            if not self._running.is_set():
                self._idle.set()
                self._running.wait()
                continue
            due = time.monotonic() + _INTERVAL
            chunk = self._bodies[self.confirmed : self.confirmed + self._chunk]
            if chunk:
                bus.publish(chunk)
            self.confirmed += len(chunk)
            self._stopping.wait(max(0.0, due - time.monotonic()))
