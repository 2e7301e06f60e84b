"""``panko-ingest publish``: sends notifications from files, as the services do."""

import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from oslo_config import cfg
from rich.progress import Progress

from panko_ingest.amqp.publisher import Publisher, envelope
from panko_ingest.errors import ConfigError
from panko_ingest.workers.sources import buses

_PROGRESS_FROM = 100


def add_parser(subparsers: Any) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "publish",
        help="send notifications from files",
        description="Send the notifications in files to the bus that the configuration names, in the "
        "envelope and to the exchange and queue that oslo.messaging would use.",
    )
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="JSON: one notification, a list of them, or one a line; - is standard input",
    )
    parser.add_argument("--exchange", default="openstack", help="control exchange (default: %(default)s)")
    parser.add_argument("--topic", help="topic (default: the first of the configured ones)")
    parser.add_argument("--priority", help="priority (default: each notification's own, else info)")
    parser.add_argument(
        "--count",
        type=int,
        metavar="N",
        help="send N in all, over and over, each with a message_id and a timestamp of its own",
    )
    parser.add_argument("--rate", type=float, metavar="N", help="send at most N a second")
    parser.set_defaults(run=run)


def run(conf: cfg.ConfigOpts) -> int:
    """Send the notifications.

    :raises ConfigError: a file can't be read, or is no JSON.
    :raises BrokerError: the broker is away, or refuses.
    """
    command = conf.command
    notifications = [item for name in command.files for item in _read(name)]
    if not notifications:
        raise ConfigError(f"no notifications in {', '.join(command.files)}")
    topic = command.topic or conf.oslo_messaging_notifications.topics[0]
    total = command.count or len(notifications)
    source = itertools.islice(itertools.cycle(notifications), total)
    started = time.monotonic()
    with Publisher(buses(conf)[0]) as publisher, Progress(disable=total < _PROGRESS_FROM) as progress:
        for number, notification in enumerate(progress.track(source, total, description="publishing")):
            if command.rate:
                time.sleep(max(0.0, started + number / command.rate - time.monotonic()))
            priority = command.priority or str(notification.get("priority") or "info")
            publisher.send(
                envelope(notification, renew=command.count is not None),
                exchange=command.exchange,
                routing_key=f"{topic}.{priority.lower()}",
            )
    sys.stdout.write(f"{total} notifications published\n")
    return 0


def _read(name: str) -> Iterator[dict[str, Any]]:
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{name}: {error.strerror}") from error
    try:
        document = json.loads(text)
    except ValueError:
        yield from _read_lines(name, text)
        return
    for item in document if isinstance(document, list) else [document]:
        yield _object(item, name)


def _read_lines(name: str, text: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            yield _object(json.loads(line), f"{name}:{number}")
        except ValueError as error:
            raise ConfigError(f"{name}:{number}: no JSON: {error}") from error


def _object(item: Any, where: str) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise ConfigError(f"{where}: a notification is a JSON object, not {type(item).__name__}")
    return item
