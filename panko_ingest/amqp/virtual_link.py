"""A connection over a transport that kombu emulates: filesystem or sqlalchemy."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from kombu.connection import Connection
from kombu.exceptions import OperationalError

from panko_ingest.amqp.link import LINK_ERRORS, Waker
from panko_ingest.delivery import Delivery

_POLL = 0.2


@contextlib.contextmanager
def _errors_of_a_link() -> Iterator[None]:
    """Let whatever goes wrong end the connection, and nothing more.

    What is no message raises anything, as do libraries beneath kombu; only its first line is safe to log, as
    SQLAlchemy puts statements with their parameters behind it.
    """
    try:
        yield
    except LINK_ERRORS:
        raise
    except Exception as error:
        text, _, _ = str(error).partition("\n")
        raise OperationalError(f"{type(error).__name__}: {text}") from error


class _Channel:
    """A channel of kombu's whose errors are those of a link."""

    refusal = None

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def __getattr__(self, name: str) -> Any:
        return _errors_of_a_link()(getattr(self._channel, name))


class VirtualLink:
    """A connection over an emulated transport.

    :raises LINK_ERRORS: it can't be used; so do the methods.
    """

    is_virtual = True

    @_errors_of_a_link()
    def __init__(self, url: str, waker: Waker) -> None:
        self._waker = waker
        self.client = Connection(url)
        self._transport = self.client.transport
        # Not by transport_options: the sqlalchemy transport hands them all to create_engine.
        self._transport.polling_interval = _POLL
        self._connection = self._transport.establish_connection()

    @_errors_of_a_link()
    def channel(self, *, spare: bool = False) -> Any:  # noqa: ARG002
        """Open a channel."""
        return _Channel(self._transport.create_channel(self._connection))

    @_errors_of_a_link()
    def serve(self, timeout: float) -> bool:
        """Wait for one message at most and dispatch it; return whether one came."""
        self._waker.clear()
        try:
            self._transport.drain_events(self._connection, timeout=min(timeout, _POLL))
        except TimeoutError:
            return False
        return True

    def keep_alive(self) -> None:
        """Do nothing: no such transport has a heartbeat."""

    def consume(
        self,
        channel: Any,
        queue: str,
        tag: str,
        number: int,
        receive: Callable[[Delivery], None],
        timeout: float | None = None,
    ) -> None:
        """Start a consumer whose deliveries go to ``receive``; none of them is ever taken back."""
        del timeout

        def on_message(message: Any) -> None:
            info = message.delivery_info
            body = message.body
            receive(
                Delivery(
                    body.encode("utf-8", "surrogatepass") if isinstance(body, str) else bytes(body),
                    content_type=_text(message.content_type),
                    content_encoding=_text(message.content_encoding),
                    headers=message.headers if isinstance(message.headers, dict) else None,
                    exchange=_text(info.get("exchange")) or "",
                    routing_key=_text(info.get("routing_key")) or "",
                    queue=queue,
                    redelivered=bool(info.get("redelivered")),
                    tag=message.delivery_tag,
                    channel=number,
                )
            )

        channel.basic_consume(queue, False, on_message, tag)

    @_errors_of_a_link()
    def close(self) -> None:
        """Close the connection; what was not acknowledged goes back where the transport can."""
        self._transport.close_connection(self._connection)
        self.client.release()


def _text(value: Any) -> str | None:
    """Return a property as text: those of virtual transports are whatever JSON their publisher wrote."""
    return None if value is None else str(value)
