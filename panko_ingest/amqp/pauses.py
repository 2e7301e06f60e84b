"""How long to wait before a broker is asked again about a queue or an exchange."""

from collections.abc import Callable

from panko_ingest.backoff import Backoff

READ_FIRST = 15.0
"""Seconds in which others are read before it is asked about what may cost as many, or a connection."""

_FIRST_LOOK = 1.0
_LATER_LOOKS = 10.0
_LONGEST_REFUSAL = 60.0
# Each look costs the broker a channel and lines of its log, and most of these exchanges are never made.
_LATER_LOOKS_FOR_EXCHANGES = 20.0
_LATER_LOOKS_FOR_QUEUES = 30.0
# They have to grow beyond the pauses between two connections, or nothing but the same would be asked again.
_FIRST_COSTLY = 2.0
_LATER_COSTLY = 60.0


def looking(clock: Callable[[], float]) -> Backoff:
    """Return when to look again for what was there, or when to try again what is there and can't be read."""
    return Backoff(_FIRST_LOOK, _LATER_LOOKS, clock)


def absent_queue(clock: Callable[[], float]) -> Backoff:
    """Return when to look again for a queue that is not there."""
    return Backoff(_FIRST_LOOK, _LATER_LOOKS_FOR_QUEUES, clock)


def absent_exchange(clock: Callable[[], float]) -> Backoff:
    """Return when to look again for an exchange that never was there."""
    return Backoff(_FIRST_LOOK, _LATER_LOOKS_FOR_EXCHANGES, clock)


def refused(clock: Callable[[], float]) -> Backoff:
    """Return when to ask again for what was refused, without harm to anything else."""
    return Backoff(_LATER_LOOKS, _LONGEST_REFUSAL, clock)


def costly(clock: Callable[[], float]) -> Backoff:
    """Return when to ask again about what a connection was lost over."""
    return Backoff(_FIRST_COSTLY, _LATER_COSTLY, clock)
