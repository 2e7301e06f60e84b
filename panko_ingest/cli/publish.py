"""``panko-ingest publish``: sends notifications from files, as the services do."""

import itertools
import json
import time
from contextlib import closing
from typing import Any

from oslo_config import cfg

from panko_ingest.amqp.publisher import Publisher, envelope, opened
from panko_ingest.cli import arguments, output, progress
from panko_ingest.errors import ConfigError
from panko_ingest.workers.from_config import buses

_PROGRESS_FROM = 100


def add_parser(subparsers: Any) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "publish",
        help="send notifications from files",
        description="Send the notifications in files to the bus that the configuration names, in the "
        "envelope and to the exchange and queue that oslo.messaging would use.",
    )
    arguments.add_files(parser, "JSON")
    parser.add_argument("--exchange", default="openstack", help="control exchange (default: %(default)s)")
    parser.add_argument("--topic", help="topic (default: the first of the configured ones)")
    parser.add_argument("--priority", help="priority (default: each notification's own, else info)")
    parser.add_argument(
        "--count",
        type=arguments.count,
        metavar="N",
        help="send N in all, over and over, each with a message_id and a timestamp of its own",
    )
    parser.add_argument("--rate", type=arguments.rate, metavar="N", help="send at most N a second")
    parser.add_argument(
        "--create",
        action="store_true",
        help="make exchange and queue where they are absent, durable and classic: on a bus for tests only, "
        "as services that declare them otherwise could no longer publish",
    )
    parser.set_defaults(run=run)


def run(conf: cfg.ConfigOpts) -> int:
    """Send the notifications."""
    command = conf.command
    renew = command.count is not None
    notifications = [_object(body, where, renew) for where, body in arguments.notifications(command.files)]
    if not notifications:
        raise ConfigError(f"no notifications in {', '.join(command.files)}")
    topic = command.topic or conf.oslo_messaging_notifications.topics[0]
    total = len(notifications) if command.count is None else command.count
    source = itertools.islice(itertools.cycle(notifications), total)
    started = time.monotonic()
    with (
        closing(Publisher(buses(conf)[0], create=command.create)) as publisher,
        progress.shown("publishing", worthwhile=total >= _PROGRESS_FROM) as tell,
    ):
        for number, notification in enumerate(source):
            if command.rate:
                time.sleep(max(0.0, started + number / command.rate - time.monotonic()))
            priority = command.priority or str((opened(notification) or {}).get("priority") or "info")
            publisher.send(
                envelope(notification, renew=renew),
                exchange=command.exchange,
                routing_key=f"{topic}.{priority.lower()}",
            )
            tell(number + 1, total)
    output.write(f"{total} notifications published")
    return 0


def _object(body: bytes, where: str, renew: bool) -> dict[str, Any]:
    try:
        item = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: no JSON: {error}") from error
    if not isinstance(item, dict):
        raise ConfigError(f"{where}: a notification is a JSON object, not {type(item).__name__}")
    if renew and opened(item) is None:
        raise ConfigError(
            f"{where}: its oslo.message is no JSON object, which --count would give a message_id"
        )
    return item
