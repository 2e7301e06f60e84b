"""``panko-ingest db convert``: plain tables into partitioned ones, while the daemon runs."""

import sys
from typing import Any

from oslo_config import cfg
from rich.console import Console
from rich.progress import Progress

from panko_ingest import config
from panko_ingest.storage import get_connection


def add_parser(actions: Any) -> None:
    """Add the action to those of ``db``."""
    action = actions.add_parser(
        "convert",
        help="make plain tables partitioned (PostgreSQL)",
        description="Copy all events into partitioned tables, which then take the place of the plain ones. "
        "Events are recorded meanwhile; writers wait for some seconds at the end. It needs about as much "
        "free disk as the events take, and the account that owns the tables. When it is interrupted, run "
        "it again. Then set [database] partition_by.",
    )
    action.add_argument(
        "--partition-by", required=True, choices=["day", "week", "month"], help="what a partition holds"
    )
    action.set_defaults(run=convert)


def convert(conf: cfg.ConfigOpts) -> int:
    """Make plain tables partitioned.

    :raises ConfigError: the database has no partitions, or the width would make too many.
    :raises StorageUnavailable: the database is away or in use by others.
    """
    connection = get_connection(config.expirer_database_url(conf), conf)
    width = conf.command.partition_by
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("copying events", total=None)
        connection.convert(width, lambda done, total: progress.update(task, completed=done, total=total))
    connection.close()
    sys.stdout.write(f"the tables are partitioned by {width}: set [database] partition_by = {width}\n")
    return 0
