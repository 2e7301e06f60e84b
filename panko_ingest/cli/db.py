"""``panko-ingest db``: makes the tables, brings them up to date, and looks after them."""

import ctypes
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from oslo_config import cfg

from panko_ingest import config, option_lines, storage
from panko_ingest.cli import output, progress
from panko_ingest.errors import ConfigError, DatabaseUrlError
from panko_ingest.findings import OK
from panko_ingest.foreign_text import escaped, escaped_error

_REFUSED_SHOWN = 20
_IN_MEMORY = re.compile(
    r"sqlite(\+\w+)?:///?((file:)?(:memory:)?(\?.*)?|file:.*[?&]mode=memory(&.*)?)", re.ASCII
)

_ON_A_CLUSTER = """\
This is a Galera cluster: for as long as one of these statements runs, no service of the cloud can write. Run
them with an online schema change tool, and then `db sync` again, which does only what is left; or run `db
sync --block-cluster` in a quiet hour. Don't run them node by node (wsrep_OSU_method = RSU) unless
slave_type_conversions is ALL_NON_LOSSY on each node, and nobody writes through one that is done before all
are: a node that can't take another's rows leaves the cluster.
"""


def add_parser(subparsers: Any) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser("db", help="make the tables, bring them up to date, look at them")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _add_sync(actions)
    _add_partition(actions)
    _add_merge(actions)
    action = actions.add_parser(
        "current",
        help="show the revision that the schema is at",
        description="Show the revision that the schema is at. Exit code 1: this release can't work with it.",
    )
    action.set_defaults(run=current)
    action = actions.add_parser(
        "check",
        help="look at the schema and the server's settings; exit code 1 if anything was found",
        description="Look at the schema, what is in it, and those settings of the server on which it depends "
        "whether events last. Exit code 1: something is not as it should be.",
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
    action.set_defaults(run=sync, goes_on=True)


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
    action.set_defaults(run=partition, goes_on=True)


def _add_merge(actions: Any) -> None:
    action = actions.add_parser(
        "merge",
        help="copy the events and dead letters of another event database into this one",
        description="Copy what another event database has and this one has not: events, told apart by "
        "message_id, and dead letters. It may be Panko's, Ceilometer's or one of ours, on any kind of server "
        "and in any layout, and is only read. When it is interrupted, run it again. Exit code 1 if an event "
        "or a dead letter could not be read there or stored here, or if an event of another day has the "
        "message_id of one here.",
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
    action.set_defaults(run=merge, goes_on=True)


def sync(conf: cfg.ConfigOpts) -> int:
    """Bring the schema to the newest revision."""
    option, url = config.database_url(conf)
    if _IN_MEMORY.fullmatch(url):
        raise DatabaseUrlError(
            "names no file: what is made is in memory, and gone with this command: write "
            "sqlite:////path/of/events.sqlite",
            option,
        )
    connection = storage.get_connection_from_config(conf)
    dry = conf.command.dry_run
    path = connection.missing_file()
    if path and not (folder := Path(path).absolute().parent).is_dir():
        why = f"db sync: {path} can't be made: make its folder {folder}, for the daemon's user, first"
        raise storage.StorageUnavailable(why, operator=True)
    if dry and path:
        output.write(f"{path} would be made; nothing was changed")
        return 0
    if path:
        connection.upgrade()
        _tell(None, connection.current_revision())
        return 0
    before = connection.current_revision()
    block = conf.command.block_cluster
    by_hand = [] if block else connection.left_out_on_a_cluster(dry_run=dry)
    postpone = conf.command.postpone_rewrites or bool(by_hand)
    rewrites = connection.pending_rewrites(dry_run=dry)
    obstacles, users = connection.sync_obstacles()
    refused = [] if postpone and rewrites else obstacles
    if refused and not dry:
        raise storage.StorageUnavailable("db sync: " + "\n".join(refused), operator=True)
    for table, size in rewrites.items():
        what = "left as it is" if postpone else "written anew; whoever writes to it waits"
        output.write(f"{table} ({size}) {'would be' if dry else 'is'} {what}")
    if by_hand:
        for line in (*_ON_A_CLUSTER.splitlines(), *(f"    {statement};" for statement in by_hand)):
            output.write(line)
    sys.stdout.flush()
    if dry:
        if not refused and (missing := connection.missing_tables()):
            output.write(f"{', '.join(missing)} would be made")
        for line in [f"refused: {one}" for one in refused] + [f"kept waiting by {one}" for one in users]:
            output.write(f"it would be {line}")
        output.write(f"the schema is at revision {before or 'none'}; nothing was changed")
        return int(bool(refused or users))
    connection.upgrade(postpone_rewrites=postpone, block_cluster=block)
    _tell(before, connection.current_revision())
    return 0


def _tell(before: str | None, after: str | None) -> None:
    if before == after:
        output.write(f"the schema is at revision {after} already")
    else:
        output.write(f"the schema is at revision {after} now (before: {before or 'none'})")


def current(conf: cfg.ConfigOpts) -> int:
    """Show the revision; exit code 1 where this release can't work with it."""
    connection = storage.get_connection_from_config(conf)
    try:
        state = connection.schema_state()
    except storage.StorageUnavailable as error:
        if not error.operator:
            raise
        revision = None if connection.missing_file() else connection.current_revision()
        sys.stdout.write(f"{escaped(revision or 'none')}: {escaped_error(error)}\n")
        return 1
    newest = "the newest" if state.revision == state.head else f"the newest is {state.head}"
    output.write(f"{state.revision} ({newest})")
    return 0


def check(conf: cfg.ConfigOpts) -> int:
    """Show what was found; exit code 1 if anything is not as it should be."""
    findings = storage.get_connection_from_config(conf).check()
    output.table(("level", "subject", "finding"), findings)
    return int(any(finding.level != OK for finding in findings))


def partition(conf: cfg.ConfigOpts) -> int:
    """Make plain tables partitioned."""
    connection = storage.get_connection_from_config(conf, expires=True)
    width = conf.command.partition_by
    with progress.shown("reading the tables") as show:
        connection.partition(width, show)
    connection.close()
    output.write(f"the tables are partitioned by {width}: set [database] partition_by = {width}")
    return 0


def merge(conf: cfg.ConfigOpts) -> int:
    """Copy what is not here yet."""
    command = conf.command
    if command.source:
        _hide(command.source)
    url = _url_in(command.from_file) if command.source is None else command.source
    connection = storage.get_connection_from_config(conf)
    with progress.shown("copying events") as show:
        merged = connection.merge(url, show)
    connection.close()
    there = merged.events - merged.recorded - len(merged.refused) - len(merged.left_out)
    output.write(
        f"{merged.events} events there: {merged.recorded} are new here, {there} were here already, "
        f"{len(merged.refused)} can't be stored"
    )
    output.write(f"{merged.letters} dead letters there: {merged.new_letters} are new here")
    if merged.refused_letters:
        output.write(f"{len(merged.refused_letters)} dead letters can't be stored")
    if merged.named:
        output.write(f"{merged.named} events had no message_id and got one made of what is in them")
    if merged.salvaged:
        output.write(
            f"{merged.salvaged} traits were changed or dropped, so that their events could be stored: "
            "events list --salvaged"
        )
    if merged.left_out:
        output.write(
            f"{len(merged.left_out)} events are left out: another event has their message_id here, "
            "where one can have it"
        )
    for message_id, generated in merged.left_out[:_REFUSED_SHOWN]:
        output.write(f"left out: {message_id}, of {generated:%Y-%m-%d}")
    for refused in (merged.refused, merged.refused_letters):
        for what, reason in refused[:_REFUSED_SHOWN]:
            output.write(f"not stored: {what}: {reason}")
    return int(bool(merged.refused or merged.left_out or merged.refused_letters))


def _url_in(name: str) -> str:
    if "://" in name:  # which no error is to quote
        _hide(name)
        raise ConfigError("--from-file: is a URL: write it into a file, or give it by --from")
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--from-file: {name}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigError(f"--from-file: {name}: is no UTF-8: write the file in that encoding") from None
    if any(line.startswith("[") for line in text.splitlines()):
        return _url_of_configuration(name, text)
    lines = text.split()
    if len(lines) > 1:
        # Of anything else, such as a line that was torn, an error would tell a part.
        raise ConfigError(f"--from-file: {name}: is neither a configuration nor a URL alone, on one line")
    return text.strip()


def _url_of_configuration(name: str, text: str) -> str:
    """Return the URL that the text of a configuration file names; all else in it is not ours to judge."""
    urls = [option for option in config.DATABASE_OPTS if option.dest in ("connection", "event_connection")]
    other = cfg.ConfigOpts()
    other.register_opts(urls, group="database")
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", prefix="db-merge-") as copy:
        copy.write(text)  # standard input can't be read a second time
        copy.flush()
        try:
            option_lines.check([copy.name], {"database": urls})
            other([], default_config_files=[copy.name], default_config_dirs=[], use_env=False)
            return config.database_url(other).url
        except cfg.Error as error:
            reason = option_lines.told(error)
        except ConfigError as error:
            reason = str(error)
    raise ConfigError(f"--from-file: {reason.replace(copy.name, name)}")


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
