"""``panko-ingest check``: what is wrong, or will be, before the daemon runs; each finding says what to do.

A function a subject; ``panko-ingest-status upgrade check`` runs the same.
"""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from oslo_config import cfg

from panko_ingest import (
    amqp,
    config,
    config_reader,
    control_groups,
    ineffective_options,
    log_setup,
    option_lines,
    processors,
    redaction,
)
from panko_ingest.cli import failures, output
from panko_ingest.cli.readiness import consuming, readiness
from panko_ingest.converter import load_definitions
from panko_ingest.errors import ConfigError, DefinitionError
from panko_ingest.findings import FAILURE, OK, WARNING, Finding
from panko_ingest.shared_state import check_size
from panko_ingest.storage import Connection, StorageUnavailable, get_connection_from_config
from panko_ingest.workers.endpoint import Endpoint
from panko_ingest.workers.from_config import buses, management_interfaces, topology

_MAX_HOLD_SHARE = 0.5

Check = Callable[[cfg.ConfigOpts], Iterator[Finding]]


def add_parser(subparsers: Any) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "check",
        help="look for what is wrong before the daemon runs",
        description="Look at configuration, event definitions, brokers and database, change nothing, and "
        "show what was found, each with what to do. Exit code 0: all is well, or there are only "
        "warnings; 1: something will not work.",
    )
    parser.add_argument("--json", action="store_true", help="write a JSON list")
    parser.add_argument("--strict", action="store_true", help="exit with code 1 on warnings too")
    parser.set_defaults(run=run)


def run(conf: cfg.ConfigOpts) -> int:
    """Show what was found; exit code 1 if something will not work."""
    findings = [finding for check in CHECKS.values() for finding in found_by(check, conf)]
    if conf.command.json:
        output.json_list(finding._asdict() for finding in findings)
    else:
        output.table(Finding._fields, findings)
        count = {level: sum(finding.level == level for finding in findings) for level in (WARNING, FAILURE)}
        output.write(f"{len(findings)} findings: {count[FAILURE]} failures, {count[WARNING]} warnings")
    bad = {FAILURE, WARNING} if conf.command.strict else {FAILURE}
    return int(any(finding.level in bad for finding in findings))


def found_by(check: Check, conf: cfg.ConfigOpts) -> Iterator[Finding]:
    """Yield what a check finds; that it can't begin or go on is a finding, too."""
    subject = check.__name__.replace("_", " ")
    try:
        yield from check(conf)
    except ConfigError as error:
        yield Finding(FAILURE, subject, str(error))
    except Exception as error:  # noqa: BLE001 - the other checks are worth the same
        yield Finding(FAILURE, subject, failures.told(error)[0])


def configuration(conf: cfg.ConfigOpts) -> Iterator[Finding]:
    """Look at the configuration files."""
    paths = list(option_lines.read_by(conf))
    yield Finding(OK, "configuration", f"valid: {', '.join(paths) or 'no file, defaults only'}")
    for option in ineffective_options.find(conf):
        yield Finding(WARNING, "configuration", str(option))
    for doubt in log_setup.doubts(conf):
        yield Finding(WARNING, "configuration", doubt)
    for closed in config_reader.closed_credentials():
        text = f"{closed}: this user may not read it, and what is in it is not known here: run check as root"
        yield Finding(WARNING, "configuration", text)
    for path in paths:
        if Path(path).stat().st_mode & stat.S_IROTH and _holds_passwords(path):
            text = f"{path} holds passwords and anyone may read it: chmod o-r {path}"
            yield Finding(WARNING, "configuration", text)


def _holds_passwords(path: str) -> bool:
    content = Path(path).read_bytes()
    try:
        return redaction.overwrite(content) != content
    except redaction.TooMuchText:  # nobody can tell
        return True


def log(conf: cfg.ConfigOpts) -> Iterator[Finding]:
    """Look whether the daemon can write its log as and where it is to; commands write none there."""
    try:
        log_setup.check(conf)
    except ConfigError as error:
        yield Finding(FAILURE, "log", str(error))
    if conf.log_config_append or not (conf.log_file or conf.log_dir):
        return
    path = Path(conf.log_dir or "", conf.log_file or f"{config.PROJECT}.log")
    try:
        folder = path.parent.stat()
        written = path if path.exists() else path.parent
        writers = _writers(written.stat())
    except OSError as error:
        yield Finding(FAILURE, "log", f"[DEFAULT] log_file, log_dir: {path}: {error.strerror}")
        return
    if os.geteuid():
        if os.access(written, os.W_OK):
            yield Finding(OK, "log", f"{path}: the daemon writes it, if it runs as this user")
        else:
            text = f"[DEFAULT] log_file, log_dir: {path}: user {os.geteuid()} may not write it: chown it"
            yield Finding(FAILURE, "log", text)
    elif set(writers) <= {"user 0"}:
        # Whose the folder is, that is the daemon's user, where it isn't root's as well.
        remedy = f"chown {folder.st_uid or 'USER'} {written}"
        text = f"{path}: only root may write it: a daemon that runs as another user can't: {remedy}"
        yield Finding(WARNING, "log", text)
    else:
        yield Finding(OK, "log", f"{path}: {', '.join(writers)} may write it")


def _writers(status: os.stat_result) -> list[str]:
    """Return in words who may write a file, or make one in a folder, by its owner and mode."""
    writers = {
        "anyone": status.st_mode & stat.S_IWOTH,
        f"user {status.st_uid}": status.st_mode & stat.S_IWUSR,
        f"group {status.st_gid}": status.st_mode & stat.S_IWGRP,
    }
    return [who for who, may in writers.items() if may]


def definitions(conf: cfg.ConfigOpts) -> Iterator[Finding]:
    """Load the event definitions."""
    path = config.find_definitions(conf)
    warnings: list[str] = []
    try:
        load_definitions(path, warnings.append)
    except DefinitionError as error:
        yield Finding(FAILURE, "definitions", str(error))
    else:
        yield Finding(OK, "definitions", f"{path} loads")
        for warning in warnings:
            yield Finding(WARNING, "definitions", warning)


def workers(conf: cfg.ConfigOpts) -> Iterator[Finding]:
    """Compare the number of workers with the processors, and how long they hold with the broker's."""
    options, usable = conf.notification, processors.usable()
    if options.workers > 4 * usable:
        most = f"set [notification] workers to {4 * usable} at most"
        text = f"{options.workers} workers on {usable} processors: {most}"
        yield Finding(WARNING, "workers", text)
    if control_groups.die_together():
        yield Finding(WARNING, "workers", control_groups.DIE_TOGETHER)
    held, patience = options.batch_timeout, options.consumer_timeout
    if held > patience * _MAX_HOLD_SHARE:
        yield Finding(
            FAILURE,
            "consumer_timeout",
            f"[notification] batch_timeout ({held:g} s) is more than half of consumer_timeout "
            f"({patience:g} s), after which the broker takes messages away: make it shorter",
        )
    else:
        yield Finding(OK, "consumer_timeout", f"batches wait {held:g} s, the broker {patience:g} s")


def monitor(conf: cfg.ConfigOpts) -> Iterator[Finding]:
    """Look whether the monitor can listen where it is to, if no daemon of ours answers there."""
    host, port = conf.monitor.host, conf.monitor.port
    if not port or readiness(conf):
        return
    try:
        Endpoint(host, port, {}).server_close()
    except OSError as error:
        text = (
            f"[monitor] host, port: on this host nothing can listen on {host}:{port}: {error.strerror}: "
            "who probes the daemon would take it for dead"
        )
        yield Finding(WARNING, "monitor", text)


def broker(conf: cfg.ConfigOpts) -> Iterator[Finding]:
    """Look at the brokers and their queues."""
    if not config.names_a_bus(conf):
        text = "no transport_url is set: the daemon works here as `serve --only expirer` alone"
        yield Finding(WARNING, "broker", text)
        return
    daemon, sources = readiness(conf), buses(conf)
    here = consuming(daemon, len(sources))
    for bus, ours, management in zip(sources, here, management_interfaces(conf, sources), strict=True):
        yield from amqp.inspect(bus, topology(conf), ours, management)
    processes = conf.notification.workers
    if processes > 1 and any(bus.virtual_url is not None for bus in sources):
        text = "an embedded transport is made for one process: set [notification] workers = 1"
        yield Finding(WARNING, "workers", text)
    check_size(processes, len(sources))


def database(conf: cfg.ConfigOpts) -> Iterator[Finding]:
    """Look at the event database, by the account of the ingest workers and by that of the expirer."""
    expires = conf.database.event_time_to_live > 0 or conf.expirer.dead_letter_time_to_live > 0
    alone = config.database_url(conf).url == config.expirer_database_url(conf).url
    with closing(get_connection_from_config(conf)) as connection:
        yield from _database(connection, to_expire=expires and alone)
    if expires and not alone:
        yield from expirer_role(conf)


def _database(connection: Connection, *, to_expire: bool) -> Iterator[Finding]:
    if path := connection.missing_file():
        folder = Path(path).absolute().parent
        first = "" if folder.is_dir() else f"make its folder {folder}, for the daemon's user, then "
        text = f"{path} is not there: {first}run `panko-ingest db sync`, which makes it"
        yield Finding(FAILURE, "database", text)
        return
    told = ""
    try:
        connection.ping()
    except StorageUnavailable as error:
        told = str(error)
        yield Finding(FAILURE, "database", told)
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
        if str(error) != told:
            yield Finding(FAILURE, "database", str(error))


def expirer_role(conf: cfg.ConfigOpts) -> Iterator[Finding]:
    """Look at what the expirer's account may do in the event database."""
    with closing(get_connection_from_config(conf, expires=True)) as connection:
        if connection.missing_file():
            return
        try:
            yield from connection.check_rights(to_record=False, to_expire=True)
        except StorageUnavailable as error:
            yield Finding(FAILURE, "[expirer] connection", str(error))


CHECKS: dict[str, Check] = {
    "Configuration": configuration,
    "Log": log,
    "Event definitions": definitions,
    "Workers and batches": workers,
    "Monitor": monitor,
    "Brokers and queues": broker,
    "Event database": database,
}
"""All of them, by what oslo.upgradecheck shows."""
