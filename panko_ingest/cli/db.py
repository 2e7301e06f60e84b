"""``panko-ingest db``: makes the tables, brings them up to date, and looks after them."""

import contextlib
import ctypes
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from oslo_config import cfg
from rich.console import Console
from rich.progress import Progress

from panko_ingest import config, storage
from panko_ingest.cli import output
from panko_ingest.errors import ConfigError
from panko_ingest.foreign_text import escaped_error

_REFUSED_SHOWN = 20

_ON_A_CLUSTER = """\
This is a Galera cluster: for as long as one of these statements runs, no service of the cloud can write. Run
them node by node (SET SESSION wsrep_OSU_method = 'RSU'), or with an online schema change tool, and then `db
sync` again, which does only what is left; or run `db sync --block-cluster` in a quiet hour:
"""


def add_parser(subparsers: Any) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser("db", help="make the tables, bring them up to date, look at them")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _add_sync(actions)
    _add_partition(actions)
    _add_merge(actions)
    action = actions.add_parser("current", help="show the revision that the schema is at")
    action.set_defaults(run=current)
    action = actions.add_parser(
        "check", help="look at the schema and the server's settings; exit code 1 if anything was found"
    )
    action.set_defaults(run=check)


def _add_sync(actions: Any) -> None:
    action = actions.add_parser(
        "sync",
        help="bring the schema to the newest revision",
        description="Make the tables in an empty database; bring those of Panko, of Ceilometer or of an "
        "older release up to date with all events in place. It may run at any time, and any number of "
        "times at once; after a crash, run it again.",
    )
    action.add_argument(
        "--postpone-rewrites",
        action="store_true",
        help="leave out, for now, what writes big tables of an adopted database anew or indexes them; "
        "everything works meanwhile, within the old tables' limits",
    )
    action.add_argument(
        "--block-cluster",
        action="store_true",
        help="do so also on a Galera cluster, where no service can write to any database meanwhile; without "
        "it the statements are printed, for an online way",
    )
    action.add_argument(
        "--dry-run",
        action="store_true",
        help="only tell what would be done, how long it takes and what is in its way; exit code 1 if "
        "anything is",
    )
    action.set_defaults(run=sync)


def _add_partition(actions: Any) -> None:
    action = actions.add_parser(
        "partition",
        help="make plain tables partitioned (PostgreSQL)",
        description="Make plain tables the first of many partitions, as they are. They are read once, beside "
        "writers, who then wait for a part of a second. It needs an account that owns the tables, or a "
        "superuser's. When it is interrupted, run it again. Then set [database] partition_by.",
    )
    action.add_argument(
        "--partition-by", required=True, choices=["day", "week", "month"], help="what a partition holds"
    )
    action.set_defaults(run=partition)


def _add_merge(actions: Any) -> None:
    action = actions.add_parser(
        "merge",
        help="copy the events and dead letters of another event database into this one",
        description="Copy what another event database has and this one has not: events, told apart by "
        "message_id, and dead letters. It may be Panko's, Ceilometer's or one of ours, on any kind of server "
        "and in any layout, and is only read. When it is interrupted, run it again. Exit code 1 if an event "
        "or a dead letter could not be read there or stored here.",
    )
    source = action.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--from",
        dest="source",
        metavar="URL",
        help="the other database: mysql://panko:...@host/panko. Others on this host may see the command line "
        "for a moment: give a URL with a password by --from-file",
    )
    source.add_argument(
        "--from-file",
        metavar="FILE",
        help="a file that names it: a panko.conf, a ceilometer.conf or one of ours, of which [database] "
        "connection is taken, or the URL alone; - is standard input",
    )
    action.set_defaults(run=merge)


def sync(conf: cfg.ConfigOpts) -> int:
    """Bring the schema to the newest revision."""
    connection = storage.get_connection_from_config(conf)
    dry = conf.command.dry_run
    if dry and (path := connection.missing_file()):
        sys.stdout.write(f"{path} would be made; nothing was changed\n")
        return 0
    before = connection.current_revision()
    block = conf.command.block_cluster
    by_hand = [] if block else connection.left_out_on_a_cluster()
    postpone = conf.command.postpone_rewrites or bool(by_hand)
    rewrites = connection.pending_rewrites(dry_run=dry)
    obstacles, users = connection.sync_obstacles()
    refused = [] if postpone and rewrites else obstacles
    if refused and not dry:
        raise storage.StorageUnavailable("db sync: " + "\n".join(refused), operator=True)
    for table, size in rewrites.items():
        what = "left as it is" if postpone else "written anew; whoever writes to it waits"
        sys.stdout.write(f"{table} ({size}) {'would be' if dry else 'is'} {what}\n")
    if by_hand:
        sys.stdout.write(_ON_A_CLUSTER + "".join(f"    {statement};\n" for statement in by_hand))
    sys.stdout.flush()
    if dry:
        for line in [f"refused: {one}" for one in refused] + [f"kept waiting by {one}" for one in users]:
            sys.stdout.write(f"it would be {line}\n")
        sys.stdout.write(f"the schema is at revision {before or 'none'}; nothing was changed\n")
        return int(bool(refused or users))
    connection.upgrade(postpone_rewrites=postpone, block_cluster=block)
    after = connection.current_revision()
    if before == after:
        sys.stdout.write(f"the schema is at revision {after} already\n")
    else:
        sys.stdout.write(f"the schema is at revision {after} now (before: {before or 'none'})\n")
    if rewrites and not postpone:
        sys.stdout.write("restart the daemons: those that run keep to the limits of the old tables\n")
    return 0


def current(conf: cfg.ConfigOpts) -> int:
    """Show the revision; exit code 1 where this release can't work with it."""
    connection = storage.get_connection_from_config(conf)
    try:
        state = connection.schema_state()
    except storage.StorageUnavailable as error:
        if not error.operator:
            raise
        sys.stdout.write(f"{connection.current_revision() or 'none'}: {escaped_error(error)}\n")
        return 1
    newest = "the newest" if state.revision == state.head else f"the newest is {state.head}"
    sys.stdout.write(f"{state.revision} ({newest})\n")
    return 0


def check(conf: cfg.ConfigOpts) -> int:
    """Show what was found; exit code 1 if anything is not as it should be."""
    findings = storage.get_connection_from_config(conf).check()
    output.table(("level", "subject", "finding"), findings)
    return int(any(finding.level != "ok" for finding in findings))


def partition(conf: cfg.ConfigOpts) -> int:
    """Make plain tables partitioned."""
    connection = storage.get_connection(config.expirer_database_url(conf), conf)
    width = conf.command.partition_by
    with _progress("reading the tables") as show:
        connection.partition(width, show)
    connection.close()
    sys.stdout.write(f"the tables are partitioned by {width}: set [database] partition_by = {width}\n")
    return 0


def merge(conf: cfg.ConfigOpts) -> int:
    """Copy what is not here yet."""
    command = conf.command
    if command.source:
        _hide(command.source)
    url = _url_in(command.from_file) if command.source is None else command.source
    connection = storage.get_connection_from_config(conf)
    with _progress("copying events") as show:
        merged = connection.merge(url, show)
    connection.close()
    there = merged.events - merged.recorded - len(merged.refused)
    sys.stdout.write(
        f"{merged.events} events there: {merged.recorded} are new here, {there} were here already, "
        f"{len(merged.refused)} can't be stored\n"
        f"{merged.letters} dead letters there: {merged.new_letters} are new here\n"
    )
    if merged.refused_letters:
        sys.stdout.write(f"{len(merged.refused_letters)} dead letters can't be stored\n")
    if merged.named:
        sys.stdout.write(f"{merged.named} events had no message_id and got one made of what is in them\n")
    for message_id, reason in merged.refused[:_REFUSED_SHOWN]:
        sys.stdout.write(f"not stored: {message_id}: {reason}\n")
    for row, reason in merged.refused_letters[:_REFUSED_SHOWN]:
        sys.stdout.write(f"not stored: {row}: {reason}\n")
    return int(bool(merged.refused or merged.refused_letters))


def _url_in(name: str) -> str:
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--from-file: {name}: {error}") from error
    if "[database]" not in text:
        return text.strip()
    other = cfg.ConfigOpts()
    config.register_opts(other, ["database"])
    try:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", prefix="db-merge-") as copy:
            copy.write(text)  # standard input can't be read a second time
            copy.flush()
            other([], default_config_files=[copy.name], default_config_dirs=[])
        return config.database_url(other)
    except (cfg.Error, ConfigError) as error:
        raise ConfigError(f"--from-file: {name}: {error}") from error


@contextlib.contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show how much is done while it is; what it yields takes how much is, and of how much."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _hide(secret: str) -> None:
    """Write over an argument where the kernel keeps it for ``ps``; elsewhere than on Linux, do nothing."""
    try:
        fields = (
            Path("/proc/self/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        )
    except OSError:
        return
    # proc(5): the addresses of the first argument and of the end of the last one.
    start, end = int(fields[45]), int(fields[46])
    if not start:
        return  # the kernel does not tell
    place = ctypes.string_at(start, end - start).find(secret.encode())
    if place >= 0:
        ctypes.memset(start + place, ord("*"), len(secret.encode()))
