"""``panko-ingest status``: how the daemon does, at a glance."""

import sys
from collections.abc import Iterator
from typing import Any

from oslo_config import cfg

from panko_ingest import amqp
from panko_ingest.cli import monitor, output
from panko_ingest.errors import BrokerError
from panko_ingest.findings import FAILURE, OK, WARNING, Finding
from panko_ingest.storage import Connection, DeadLetterFilter, StorageUnavailable, get_connection_from_config
from panko_ingest.workers.sources import buses, management_interfaces, topology

_STAGES = ("decode", "convert", "record", "crash")


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
    """Show it.

    :raises ConfigError: a URL can't be used.
    """
    daemon = monitor.readiness(conf)
    queues, broker_errors = _queues(conf, daemon)
    database, database_error = _database(conf)
    document = {
        "daemon": daemon,
        "queues": queues,
        "database": database,
        "errors": [*broker_errors, *([database_error] if database_error else [])],
    }
    if conf.command.json:
        output.document(document)
    else:
        output.table(Finding._fields, _findings(conf, document))
        sys.stdout.flush()
    if document["errors"]:
        return 3
    return 0 if daemon and daemon["ok"] else 1


def _queues(conf: cfg.ConfigOpts, daemon: dict[str, Any] | None) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the state of every queue that is to be read, and which brokers did not tell."""
    found: list[dict[str, Any]] = []
    errors = []
    wanted = topology(conf)
    sources = buses(conf)
    here = daemon["figures"]["readers_consuming"] // len(sources) if daemon else 0
    for bus, management in zip(sources, management_interfaces(conf, sources), strict=True):
        try:
            states = amqp.queue_states(bus, wanted.names)
        except BrokerError as error:
            errors.append(f"broker {error}")
            continue
        ours = amqp.our_consumers(management)
        found += [
            {
                "bus": bus.name,
                "name": state.name,
                "messages": state.messages,
                "consumers": state.consumers,
                "others": max(0, state.consumers - (here if ours is None else ours.get(state.name, 0))),
            }
            for state in states
        ]
    return found, errors


def _database(conf: cfg.ConfigOpts) -> tuple[dict[str, Any] | None, str | None]:
    """Return what the database tells, or why it does not."""
    connection = get_connection_from_config(conf)
    try:
        return _stored(connection), None
    except StorageUnavailable as error:
        return None, f"database: {error}"
    finally:
        connection.close()


def _stored(connection: Connection) -> dict[str, Any]:
    state = connection.schema_state()
    letters = {stage: connection.count_dead_letters(DeadLetterFilter(stage=stage)) for stage in _STAGES}
    return {"revision": state.revision, "dead_letters": {stage: n for stage, n in letters.items() if n}}


def _findings(conf: cfg.ConfigOpts, document: dict[str, Any]) -> Iterator[Finding]:
    daemon, database = document["daemon"], document["database"]
    if daemon:
        yield from _daemon(daemon)
    else:
        where = f"{conf.monitor.host}:{conf.monitor.port}"
        text = f"nobody answers at {where} ([monitor] host, port): it does not run, or runs elsewhere"
        if not conf.monitor.port:
            text = "[monitor] port is 0: it can't be asked"
        yield Finding(FAILURE, "daemon", text)
    for queue in document["queues"]:
        yield Finding(
            WARNING if queue["others"] else OK,
            f"queue {queue['name']}",
            f"{queue['messages']} messages wait; consumers: {queue['consumers'] - queue['others']} of ours, "
            f"{queue['others']} of others",
        )
    if database:
        letters = database["dead_letters"]
        by_stage = ", ".join(f"{count} {stage}" for stage, count in letters.items())
        yield Finding(OK, "database", f"answers, at revision {database['revision']}")
        yield Finding(WARNING if letters else OK, "dead letters", by_stage or "none")
    for error in document["errors"]:
        yield Finding(FAILURE, "unreachable", error)


def _daemon(daemon: dict[str, Any]) -> Iterator[Finding]:
    figures = daemon["figures"]
    for name, check in daemon["checks"].items():
        yield Finding(OK if check["ok"] else FAILURE, f"daemon: {name}", check["text"])
    all_consume = figures["readers_consuming"] == figures["readers"]
    yield Finding(
        OK if all_consume else WARNING,
        "daemon: readers",
        f"{figures['readers_consuming']} of {figures['readers']} are consuming",
    )
    rates = ", ".join(
        f"{rate:.1f} {name.replace('_', ' ')}" for name, rate in figures["per_second"].items() if rate
    )
    yield Finding(OK, "daemon: now", f"{rates} a second" if rates else "idle")
    since = figures["since_start"]
    letters = sum(since["dead_letters"].values())
    yield Finding(
        OK,
        "daemon: since its start",
        f"{since['received']} received, {since['recorded']} recorded, {since['duplicates']} duplicates, "
        f"{letters} dead letters, {since['dropped']} dropped, {since['workers_lost']} workers lost",
    )
    backlog = f"; {figures['expiry_backlog']} expired events are left" if figures["expiry_backlog"] else ""
    yield Finding(OK, "daemon: last expiry", f"{figures['last_expiry'] or 'none yet'}{backlog}")
