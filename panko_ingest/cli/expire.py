"""``panko-ingest expire``: one round of expiry, as the daemon does it every [expirer] interval."""

from contextlib import closing
from typing import Any

from oslo_config import cfg

from panko_ingest import timestamps
from panko_ingest.cli import output
from panko_ingest.storage import Connection, DeadLetterFilter, get_connection_from_config
from panko_ingest.workers.expirer import run_round


def add_parser(subparsers: Any) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "expire",
        help="delete what is older than its time to live, once",
        description="Do one round of expiry by [database] event_time_to_live and [expirer] "
        "dead_letter_time_to_live, such as the daemon does every [expirer] interval.",
    )
    parser.add_argument("--dry-run", action="store_true", help="delete nothing; show what would go")
    parser.set_defaults(run=run, goes_on=True)


def run(conf: cfg.ConfigOpts) -> int:
    """Delete what expired, or show what would be deleted."""
    with closing(get_connection_from_config(conf, expires=True)) as connection:
        if conf.command.dry_run:
            _forecast(connection, conf)
            return 0
        return 1 if run_round(connection, conf, output.write).stood_by else 0


def _forecast(connection: Connection, conf: cfg.ConfigOpts) -> None:
    forecast = connection.forecast_expiry(conf.database.event_time_to_live)
    if forecast.limit is None:
        output.write("events never expire: [database] event_time_to_live is not set")
    elif not forecast.events:
        output.write(f"no event is from before {forecast.limit:%Y-%m-%d %H:%M:%S} UTC")
    else:
        output.table(
            ("expired for at least", "events"), [(f"{age.days} days", age.events) for age in forecast.ages]
        )
        output.write(
            f"{forecast.events} events from before {forecast.limit:%Y-%m-%d %H:%M:%S} UTC would be deleted, "
            f"the oldest of {forecast.oldest:%Y-%m-%d %H:%M:%S}, in about {forecast.seconds:.0f} s"
        )
    if forecast.kept:
        output.write(f"of the {forecast.tried} oldest, {forecast.kept} would stay: {forecast.why}")
    if forecast.partitions:
        fates = {True: "dropped", False: "thinned out"}
        output.table(
            ("from", "to", "events", "bytes", "what happens"),
            [
                (part.start, part.end, part.events, part.size, fates[part.dropped])
                for part in forecast.partitions
            ],
        )
    if forecast.not_dropped:
        output.write(f"no partition would be dropped, for {forecast.not_dropped}")
    ttl = conf.expirer.dead_letter_time_to_live
    if ttl > 0:
        seen_before = timestamps.ago(ttl, connection.now())
        count = connection.count_dead_letters(DeadLetterFilter(seen_before=seen_before))
        output.write(
            f"{count} dead letters last seen before {seen_before:%Y-%m-%d %H:%M:%S} UTC would be deleted"
        )
