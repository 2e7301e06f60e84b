"""``panko-ingest status``: how the daemon does, at a glance."""

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from oslo_config import cfg

from panko_ingest import amqp
from panko_ingest.cli import check, output
from panko_ingest.cli.main import EXIT_FINDINGS, EXIT_OK, EXIT_UNREACHABLE
from panko_ingest.cli.readiness import consuming, readiness
from panko_ingest.config import names_a_bus
from panko_ingest.deadline import Asked
from panko_ingest.errors import STAGES
from panko_ingest.findings import FAILURE, OK, WARNING, Finding
from panko_ingest.storage import Connection, StorageUnavailable, get_connection_from_config
from panko_ingest.workers.from_config import buses, management_interfaces, topology
from panko_ingest.workers.readiness import Readiness

_ANSWERED_WITHIN = 3.5
"""Seconds after its start at which ``status`` waits for nobody any more."""

_PROVED_WITHIN = 1.0
"""Seconds that it may take beyond that to find out why the database takes nothing."""


def add_parser(subparsers: Any) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "status",
        help="show how the daemon does",
        description="Ask the daemon on this host, the brokers and the database how things are. Exit code "
        "0: the daemon is ready; 1: it is not, or does not run; 3: a broker or the database is away.",
    )
    parser.add_argument("--json", action="store_true", help="write a JSON document")
    parser.set_defaults(run=run)


def run(conf: cfg.ConfigOpts) -> int:
    """Show it, within five seconds, whatever hangs."""
    sources = buses(conf) if names_a_bus(conf) else []
    connection = get_connection_from_config(conf)
    # On a slow machine the start takes seconds, all of them of the processor's.
    patience = max(1.0, _ANSWERED_WITHIN - time.process_time())
    readyz = Asked("daemon", lambda: readiness(conf), patience)
    database = Asked("database", lambda: _stored(connection), patience)
    # Of millions the count takes longer than all else: a database that counts is not away.
    letters = Asked("dead letters", lambda: _count_letters(conf), patience)
    expirer = Asked("expirer", lambda: _expirer(conf), patience)
    queues = [
        Asked(f"broker {bus.name}", partial(_queues, bus, topology(conf).names, management), patience)
        for bus, management in zip(sources, management_interfaces(conf, sources), strict=True)
    ]
    daemon = readyz.answer()
    here = consuming(daemon, len(sources))
    stored = database.answer()
    document = {
        "daemon": daemon and asdict(daemon),
        "queues": [
            _document(*found, ours)
            for asked, ours in zip(queues, here, strict=True)
            for found in asked.answer() or ()
        ],
        "without_queues": [
            bus.name
            for bus, asked in zip(sources, queues, strict=True)
            if asked.answer() == [] and bus.virtual_url is None
        ],
        "database": stored and stored | _counted(letters),
        "expirer": [expirer.error] if expirer.error else expirer.answer(),
        "refusal": _refusal(connection)
        if daemon and _is_usable(stored) and not _is_well(daemon, "database")
        else None,
        "errors": [error for error in (*(asked.error for asked in queues), database.error) if error],
    }
    if conf.command.json:
        output.document(document)
    else:
        output.table(Finding._fields, _findings(conf, daemon, document))
        sys.stdout.flush()
    if document["errors"]:
        return EXIT_UNREACHABLE
    return EXIT_OK if _is_usable(stored) and daemon and daemon.ok else EXIT_FINDINGS


def _is_usable(stored: dict[str, Any] | None) -> bool:
    return stored is not None and not stored["unusable"]


def _is_well(daemon: Readiness, subject: str) -> bool:
    return subject not in daemon.checks or daemon.checks[subject].ok


def _refusal(connection: Connection) -> str | None:
    """Return why the database takes no rows, by trying some that are rolled back; None where it does."""
    proof = Asked("the database", connection.prove_rows, _PROVED_WITHIN)
    proof.answer()
    return proof.error or None


def _queues(
    bus: amqp.Bus, names: Sequence[str], management: amqp.Management | None
) -> list[tuple[str, amqp.QueueState, int | None]]:
    """Return the bus, the state, and how many consumers are ours, of every queue that is to be read."""
    states = amqp.queue_states(bus, names)
    ours = amqp.our_consumers(management)
    return [(bus.name, state, None if ours is None else ours.get(state.name, 0)) for state in states]


def _document(bus: str, state: amqp.QueueState, ours: int | None, here: int | None) -> dict[str, Any]:
    known = here if ours is None else ours
    if not state.consumers:
        known = 0  # of none there are no others
    return {
        "bus": bus,
        "name": state.name,
        "messages": state.messages,
        "consumers": state.consumers,
        "others": None if known is None else max(0, state.consumers - known),
    }


def _stored(connection: Connection) -> dict[str, Any]:
    with contextlib.closing(connection):
        try:
            state = connection.schema_state()
        except StorageUnavailable as error:
            if not error.operator:
                raise
            # Raises what it is where the database does not even let us in.
            revision = None if connection.missing_file() else connection.current_revision()
            return {"revision": revision, "unusable": str(error), "waits_for": []}
        waits = [str(wait) for wait in connection.lock_waits()]
        return {"revision": state.revision, "unusable": None, "waits_for": waits}


def _count_letters(conf: cfg.ConfigOpts) -> dict[str, int]:
    # By a connection of its own: [database] max_pool_size may be 1.
    with contextlib.closing(get_connection_from_config(conf)) as connection:
        return connection.count_dead_letters_by_stage()


def _counted(letters: Asked[dict[str, int]]) -> dict[str, Any]:
    """Return how many dead letters there are, in the order of a message's way, or why that is not known."""
    found = letters.answer()
    if found is None:
        return {"dead_letters": None, "not_counted": letters.error}
    return {"dead_letters": {stage: found[stage] for stage in STAGES if stage in found}}


def _expirer(conf: cfg.ConfigOpts) -> list[str]:
    """Return what keeps the expirer's account from its work."""
    return [finding.text for finding in check.expirer_role(conf) if finding.level != OK]


def _findings(conf: cfg.ConfigOpts, daemon: Readiness | None, document: dict[str, Any]) -> Iterator[Finding]:
    if daemon:
        yield from _daemon(daemon)
        if not _is_well(daemon, "expirer"):
            for fault in document["expirer"]:
                yield Finding(FAILURE, "expirer", fault)
    else:
        where = f"{conf.monitor.host}:{conf.monitor.port}"
        text = f"no daemon answers at {where} ([monitor] host, port): it does not run, or runs elsewhere"
        if not conf.monitor.port:
            text = "[monitor] port is 0: it can't be asked"
        yield Finding(FAILURE, "daemon", text)
    unknown = (
        "the daemon has not read yet which buses are configured now, so have it reload"
        if daemon
        else "no daemon can be asked here, and no broker that [notification] management_urls names"
    )
    names = {queue["bus"] for queue in document["queues"]}
    for queue in document["queues"]:
        others = queue["others"]
        whose = (
            f"{queue['consumers']}, and whose they are is not known: {unknown}"
            if others is None
            else f"{queue['consumers'] - others} of ours, {others} of others"
        )
        yield Finding(
            OK if others == 0 else WARNING,
            f"queue {queue['name']}" + (f" at {queue['bus']}" if len(names) > 1 else ""),
            f"{queue['messages']} messages wait; consumers: {whose}",
        )
    for bus in document["without_queues"]:
        wanted = ", ".join(topology(conf).names)
        yield Finding(
            WARNING,
            f"queues at {bus}",
            f"none is there ({wanted}): nothing was published yet, or vhost, topics or priorities are others",
        )
    if document["database"]:
        yield from _database(document["database"], document["refusal"])
    for error in document["errors"]:
        yield Finding(FAILURE, "unreachable", error)


def _database(database: dict[str, Any], refusal: str | None) -> Iterator[Finding]:
    if database["unusable"]:
        yield Finding(FAILURE, "database", database["unusable"])
        return
    letters = database["dead_letters"]
    if letters is None:
        told = f"not counted: {database['not_counted'].partition(': ')[2]}"
    else:
        told = ", ".join(f"{count} {stage}" for stage, count in letters.items())
    yield Finding(OK, "database", f"answers, at revision {database['revision']}")
    if refusal:
        yield Finding(FAILURE, "database: refuses", refusal)
    yield Finding(WARNING if told else OK, "dead letters", told or "none")
    for wait in database["waits_for"]:
        yield Finding(WARNING, "database: waits", wait)


def _daemon(daemon: Readiness) -> Iterator[Finding]:
    figures, since = daemon.figures, daemon.figures.since_start
    for name, one in daemon.checks.items():
        yield Finding(OK if one.ok else FAILURE, f"daemon: {name}", one.text)
    absent = ", ".join(figures.absent_queues)
    waits = f"; waiting for queues that are not there: {absent}" if absent else ""
    yield Finding(
        OK if figures.readers_consuming == figures.readers else WARNING,
        "daemon: readers",
        f"{figures.readers_consuming} of {figures.readers} are consuming{waits}",
    )
    rates = ", ".join(
        f"{rate:.1f} {name.replace('_', ' ')}" for name, rate in figures.per_second.items() if rate
    )
    yield Finding(OK, "daemon: now", f"{rates} a second" if rates else "idle")
    letters = sum(since.dead_letters.values())
    yield Finding(
        OK,
        "daemon: since its start",
        f"{since.received} received, {since.recorded} recorded, {since.duplicates} duplicates, "
        f"{letters} dead letters, {since.dropped} dropped, {since.workers_lost} workers lost",
    )
    backlog = f"; {figures.expiry_backlog} expired events are left" if figures.expiry_backlog else ""
    yield Finding(OK, "daemon: last expiry", f"{figures.last_expiry or 'none yet'}{backlog}")
