"""``panko-ingest tap``: what is being published now."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from typing import Any

from oslo_config import cfg

from panko_ingest import amqp, config, dead_letter
from panko_ingest.cli import arguments, events, output
from panko_ingest.delivery import Delivery
from panko_ingest.errors import BrokerError, DecodeError
from panko_ingest.notification import Notification, parse_text, read_text
from panko_ingest.pipeline import MessageProcessor
from panko_ingest.storage.models import DeadLetter, Event
from panko_ingest.workers.from_config import buses, event_converter, message_processor

_PATIENCE = 0.2


def add_parser(subparsers: Any) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "tap",
        help="show what is being published now",
        description="Show notifications as they are published, from a queue of the command's own that "
        "goes with it: nobody else loses a message by it. Passwords and tokens in them are hidden.",
    )
    parser.add_argument("--count", type=arguments.count, metavar="N", help="end after N messages")
    parser.add_argument(
        "--timeout", type=arguments.seconds, metavar="SECONDS", help="end after so many seconds"
    )
    parser.add_argument("--convert", action="store_true", help="show the events that they would become")
    arguments.add_types(parser)
    parser.add_argument(
        "--exchange",
        action="append",
        type=arguments.exchange,
        metavar="NAME",
        help="published on this exchange; repeatable (default: notification_control_exchanges)",
    )
    parser.add_argument(
        "--show-secrets",
        action="store_true",
        help="hide nothing: passwords and tokens are shown as published",
    )
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="json: one document a line (default: text)"
    )
    parser.set_defaults(run=run, reader_may_leave=True)


def run(conf: cfg.ConfigOpts) -> int:
    """Show what is published; exit code 1 where the time was over before ``--count`` messages had come."""
    command = conf.command
    show = _Show(conf)
    keys = [f"{topic}.*" for topic in conf.oslo_messaging_notifications.topics]
    exchanges = command.exchange or config.control_exchanges(conf)
    end = time.monotonic() + command.timeout if command.timeout is not None else None
    with ExitStack() as stack:
        taps = [stack.enter_context(closing(amqp.Tap(bus, exchanges, keys))) for bus in buses(conf)]
        _tell_where(taps, exchanges)
        shown = 0
        for delivery in _deliveries(taps, end):
            if shown == command.count:
                break
            if delivery is not None:
                shown += show(delivery)
    return int(command.count is not None and shown < command.count)


def _tell_where(taps: Sequence[amqp.Tap], exchanges: Sequence[str]) -> None:
    """Say to how many exchanges we listen, and to which of those that were named we don't.

    :raises BrokerError: there is none.
    """
    why = {name: [tap.left_out.get(name) for tap in taps] for name in exchanges}
    count = sum(reasons.count(None) for reasons in why.values())
    names: dict[str, list[str]] = {}
    for name, reasons in why.items():
        if reasons[0] is not None and None not in reasons:
            names.setdefault(reasons[0], []).append(name)
    left_out = [f"{', '.join(exchanges)}: {reason}" for reason, exchanges in names.items()]
    if not count:
        raise BrokerError(f"there is no exchange to listen to: {'; '.join(left_out)}")
    output.tell("; not to ".join([f"listening to {count} exchanges", *left_out]))
    sys.stderr.flush()


def _deliveries(taps: list[amqp.Tap], end: float | None) -> Iterator[Delivery | None]:
    """Yield what the taps receive in turn, and None whenever nothing comes for a moment."""
    told = False
    patience = 0.0
    while end is None or time.monotonic() < end:
        deliveries = [tap.read(patience) for tap in taps]
        yield from deliveries
        # A bus on which nothing happens holds up no other.
        patience = 0.0 if any(deliveries) else _PATIENCE / len(taps)
        if not told and any(tap.loses_messages for tap in taps):
            told = True
            output.tell("more is published than can be shown: some is left out")


class _Show:
    """Writes deliveries as the options say."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self._command = conf.command
        self._bounds = {
            "max_size": conf.notification.max_message_size,
            "max_depth": conf.notification.max_depth,
        }
        self._processor: MessageProcessor | None = None
        if conf.command.convert:
            self._processor = message_processor(conf, event_converter(conf, log=False))

    def __call__(self, delivery: Delivery) -> bool:
        """Write a delivery unless it is of another type; tell whether it was written."""
        event_type, found = self._read(delivery)
        if self._command.type and not events.matches(str(event_type or ""), self._command.type):
            return False
        if self._processor is not None:
            found = _converted(self._processor.process(delivery))
        where = {"exchange": delivery.exchange, "routing_key": delivery.routing_key}
        if self._command.format == "json":
            output.json_lines([{**where, **found}])
        else:
            output.write(" ".join([*where.values(), str(event_type or "")]))
            output.document(found)
        sys.stdout.flush()
        return True

    def _read(self, delivery: Delivery) -> tuple[Any, dict[str, Any]]:
        """Return the event type of a delivery and what to show of it as it is."""
        body, headers, withheld = delivery.body, dict(delivery.headers), ""
        kind: dict[str, Any] = {
            "content_type": delivery.content_type,
            "content_encoding": delivery.content_encoding,
            "headers": delivery.headers,
        }
        if not self._command.show_secrets:
            body, _, withheld = dead_letter.clean_body(delivery, body, **self._bounds)
            headers, _ = dead_letter.clean_headers(delivery)
        shown = {"headers": headers} if headers else {}
        if withheld:
            return None, {**shown, "error": withheld.strip(" ()")}
        try:
            text = read_text(body, **kind, max_size=self._bounds["max_size"])
            _, inner = parse_text(text, **self._bounds)
        except DecodeError as error:
            reason = delivery.fault or error
            return None, {**shown, "error": f"decode: {reason}", "body": body.decode("utf-8", "replace")}
        return Notification.from_inner(inner).message["event_type"], {**shown, "notification": inner}


def _converted(outcome: Event | DeadLetter | None) -> dict[str, Any]:
    if isinstance(outcome, Event):
        return {"event": events.document(outcome)}
    if outcome is None:
        return {"dropped": "the configuration says not to store it"}
    return {"error": f"{outcome.stage}: {outcome.error}"}
