"""``panko-ingest db``: makes the tables, brings them up to date, and looks after them."""

import sys
from typing import Any

from oslo_config import cfg

from panko_ingest import storage
from panko_ingest.cli import db_convert, output


def add_parser(subparsers: Any) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser("db", help="make the tables, bring them up to date, look at them")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    add_sync(actions)
    db_convert.add_parser(actions)
    action = actions.add_parser("current", help="show the revision that the schema is at")
    action.set_defaults(run=current)
    action = actions.add_parser(
        "check", help="look at the schema and the server's settings; exit code 1 if anything was found"
    )
    action.set_defaults(run=check)


def add_sync(actions: Any) -> None:
    """Add the action ``sync``."""
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
        help="leave out, for now, what writes big tables of an adopted database anew; everything works "
        "meanwhile, within the old tables' limits",
    )
    action.set_defaults(run=sync)


def sync(conf: cfg.ConfigOpts) -> int:
    """Bring the schema to the newest revision.

    :raises StorageUnavailable: the database is away, or refuses.
    """
    connection = storage.get_connection_from_config(conf)
    before = connection.current_revision()
    postpone = conf.command.postpone_rewrites
    rewrites = connection.pending_rewrites()
    for table, size in rewrites.items():
        what = "is left as it is" if postpone else "is written anew now; whoever writes to it waits"
        sys.stdout.write(f"{table} ({size}) {what}\n")
    sys.stdout.flush()
    connection.upgrade(postpone_rewrites=postpone)
    after = connection.current_revision()
    if before == after:
        sys.stdout.write(f"the schema is at revision {after} already\n")
    else:
        sys.stdout.write(f"the schema is at revision {after} now (before: {before or 'none'})\n")
    if rewrites and not postpone:
        sys.stdout.write("restart the daemons: those that run keep to the limits of the old tables\n")
    return 0


def current(conf: cfg.ConfigOpts) -> int:
    """Show the revision; exit code 1 where this release can't work with it.

    :raises StorageUnavailable: the database is away.
    """
    connection = storage.get_connection_from_config(conf)
    try:
        state = connection.schema_state()
    except storage.StorageUnavailable as error:
        if not error.operator:
            raise
        sys.stdout.write(f"{connection.current_revision() or 'none'}: {error}\n")
        return 1
    newest = "the newest" if state.revision == state.head else f"the newest is {state.head}"
    sys.stdout.write(f"{state.revision} ({newest})\n")
    return 0


def check(conf: cfg.ConfigOpts) -> int:
    """Show what was found; exit code 1 if anything is not as it should be.

    :raises StorageUnavailable: the database is away.
    """
    findings = storage.get_connection_from_config(conf).check()
    output.table(("level", "subject", "finding"), findings)
    return int(any(finding.level != "ok" for finding in findings))
