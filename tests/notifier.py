"""Publishes with the real oslo.messaging, as a service of the cloud does.

    python -m tests.notifier URL EXCHANGE COUNT [GROUP.OPTION=VALUE ...]

Run as a process of its own: oslo.messaging keeps threads and connections for the life of a process.
"""

import logging
import subprocess
import sys
import warnings
from pathlib import Path


def publish(url: str, exchange: str = "nova", count: int = 1, *options: str) -> None:
    """Publish ``count`` notifications of event type ``<exchange>.tested`` on an exchange.

    :param options: such as ``oslo_messaging_rabbit.amqp_durable_queues=true``.
    """
    subprocess.run(
        [sys.executable, "-m", "tests.notifier", url, exchange, str(count), *options],
        cwd=Path(__file__).parents[1],
        check=True,
        timeout=60,
        capture_output=True,
    )


def _main(url: str, exchange: str, count: int, options: list[str]) -> None:
    warnings.simplefilter("ignore")
    import oslo_messaging  # noqa: PLC0415 - it warns while it is imported
    from oslo_config import cfg  # noqa: PLC0415

    logging.basicConfig(level=logging.WARNING)
    conf = cfg.ConfigOpts()
    conf([], project="notifier", default_config_files=[])
    oslo_messaging.set_transport_defaults(exchange)
    transport = oslo_messaging.get_notification_transport(conf, url=url.replace("amqp://", "rabbit://"))
    for option in options:
        name, _, value = option.partition("=")
        group, _, name = name.rpartition(".")
        conf.set_override(name, value == "true", group=group)
    notifier = oslo_messaging.Notifier(
        transport, driver="messagingv2", publisher_id=f"{exchange}.host1", topics=["notifications"]
    )
    for number in range(count):
        notifier.info({"request_id": "req-1"}, f"{exchange}.tested", {"number": number})
    transport.cleanup()


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:])
