"""Preflight: what is wrong, or will be, before the daemon runs; each finding says what to do.

One function a subject. `panko-ingest check` runs them all, `panko-ingest-status upgrade check` those
that matter to an upgrade.
"""

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from panko_ingest import amqp
from panko_ingest.converter import EventConverter
from panko_ingest.errors import DefinitionError
from panko_ingest.findings import FAILURE, OK, WARNING, Finding
from panko_ingest.storage import Connection, StorageUnavailable

MAX_HOLD_SHARE = 0.5


def configuration(paths: Sequence[str], unread: Iterable[object]) -> Iterator[Finding]:
    """Look at the configuration files.

    :param unread: options in them that have no effect; their text says what to do.
    """
    yield Finding(OK, "configuration", f"valid: {', '.join(paths) or 'no file, defaults only'}")
    for option in unread:
        yield Finding(WARNING, "configuration", str(option))
    for path in paths:
        mode = Path(path).stat().st_mode
        if mode & stat.S_IROTH:
            yield Finding(
                WARNING, "configuration", f"{path} holds passwords and anyone may read it: chmod o-r {path}"
            )


def definitions(path: str, *, drop_unmatched: bool) -> Iterator[Finding]:
    """Load the event definitions."""
    try:
        EventConverter.from_file(path, drop_unmatched=drop_unmatched)
    except DefinitionError as error:
        yield Finding(FAILURE, "definitions", str(error))
    else:
        yield Finding(OK, "definitions", f"{path} loads")


def holding(*, batch_timeout: float, consumer_timeout: float) -> Iterator[Finding]:
    """Compare how long messages are held with how long the broker lets us."""
    if batch_timeout > consumer_timeout * MAX_HOLD_SHARE:
        yield Finding(
            FAILURE,
            "consumer_timeout",
            f"[notification] batch_timeout ({batch_timeout:g} s) is more than half of consumer_timeout "
            f"({consumer_timeout:g} s), after which the broker takes messages away: make it shorter",
        )
    else:
        yield Finding(
            OK, "consumer_timeout", f"batches wait {batch_timeout:g} s, the broker {consumer_timeout:g} s"
        )


def workers(count: int, *, buses: Iterable[amqp.Bus]) -> Iterator[Finding]:
    """Compare the number of workers with the processors, and with what the transports can do."""
    processors = os.cpu_count() or 1
    if count > 4 * processors:
        yield Finding(
            WARNING, "workers", f"{count} workers on {processors} processors: set [notification] workers"
        )
    if count > 1 and any(bus.virtual_url is not None for bus in buses):
        yield Finding(
            WARNING,
            "workers",
            "an embedded transport is made for one process: set [notification] workers = 1",
        )


def bus(
    bus: amqp.Bus,
    topology: amqp.Topology,
    *,
    ours: int | None,
    management: amqp.Management | None,
    consumer_timeout: float,
) -> Iterator[Finding]:
    """Look at a bus and its queues.

    :param ours: consumers that our daemon has on each queue; None when that is not known.
    :param management: the bus' management interface, where there is one to ask.
    :param consumer_timeout: seconds that the broker waits for an acknowledgement, as the operator says.
    """
    yield from amqp.inspect(bus, topology, ours, management, consumer_timeout)


def database(connection: Connection, *, to_expire: bool) -> Iterator[Finding]:
    """Look at the event database and at what the ingest workers' role in it may do.

    :param to_expire: whether this role deletes what is too old, too.
    """
    try:
        connection.ping()
    except StorageUnavailable as error:
        yield Finding(FAILURE, "database", str(error))
        if not error.operator:
            return
    else:
        yield Finding(OK, "database", "answers")
    try:
        findings = connection.check()
        yield from findings
        if not any(finding.subject == "revision" and finding.level == FAILURE for finding in findings):
            yield from connection.check_rights(to_record=True, to_expire=to_expire)
    except StorageUnavailable as error:
        yield Finding(FAILURE, "database", str(error))


def expirer_role(connection: Connection) -> Iterator[Finding]:
    """Look at what the role of its own that the expirer has may do."""
    try:
        yield from connection.check_rights(to_record=False, to_expire=True)
    except StorageUnavailable as error:
        yield Finding(FAILURE, "[expirer] connection", str(error))
