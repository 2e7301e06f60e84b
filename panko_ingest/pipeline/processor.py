"""What a delivery turns out to be: an event, a dead letter, or nothing. No I/O here.

The daemon, ``convert`` and ``dead-letters replay`` all ask this one.
"""

from panko_ingest import dead_letter, guarded_log
from panko_ingest.converter import EventConverter, TypeFilter
from panko_ingest.delivery import Delivery
from panko_ingest.errors import DecodeError, MessageError
from panko_ingest.notification import Notification, read_text, too_large
from panko_ingest.shared_state import SharedState, Slot
from panko_ingest.storage.models import SALVAGED_KEY, DeadLetter, Event

_LONGEST_SOURCE = 255

LOG = guarded_log.logger_about_messages(__name__)


class PoisonMessage(MessageError):
    """Several workers died while they converted or stored this message.

    ``may_be_read`` says that it is not what is in it that they died of.
    """

    stage = "crash"

    def __init__(self, *, may_be_read: bool) -> None:
        done = "stored" if may_be_read else "converted"
        super().__init__(f"several workers died or hung while they {done} this message")
        self.may_be_read = may_be_read


class PoisonGuard:
    """Keeps a message that kills its workers from doing so for ever.

    Only messages that were delivered before are noted down, so that the others cost nothing; all of them for
    an hour after one was found out, as it may come as a copy, too.
    """

    def __init__(self, shared: SharedState, slot: Slot) -> None:
        self._shared = shared
        self._slot = slot

    def concerns(self, delivery: Delivery) -> bool:
        """Whether a message is to be noted down."""
        return delivery.redelivered or self._shared.knows_poison

    def suspects(self, delivery: Delivery) -> bool:
        """Whether a worker may have died of this message."""
        return self._shared.has_suspects and self._shared.is_suspect(delivery.digest())

    def enter(self, delivery: Delivery) -> None:
        """Note down what is about to be converted.

        :raises PoisonMessage: too many workers died of it.
        """
        digest = delivery.digest()
        self._slot.hold(digest)  # before: its dead letter may look into it, too
        if self._shared.is_poison(digest, delivery.returns):
            raise PoisonMessage(may_be_read=self._shared.may_be_read(digest))

    def leave(self) -> None:
        """Note down that it is converted."""
        self._slot.release()


class MessageProcessor:
    """Makes of each delivery an event, a dead letter, or nothing.

    :param wanted: which event types to store.
    :param max_size: bytes of a body, decompressed.
    :param max_depth: levels of nesting.
    :param guard: remembers which message is being converted, for the case that it kills us.
    """

    def __init__(
        self,
        converter: EventConverter,
        wanted: TypeFilter,
        *,
        max_size: int,
        max_depth: int,
        guard: PoisonGuard | None = None,
    ) -> None:
        self._converter = converter
        self._wanted = wanted
        self._max_size = max_size
        self._max_depth = max_depth
        self._guard = guard

    def suspects(self, delivery: Delivery) -> bool:
        """Whether a worker may have died of this message."""
        return self._guard is not None and self._guard.suspects(delivery)

    def process(self, delivery: Delivery) -> Event | DeadLetter | None:
        """Return what a delivery becomes; None where the configuration says not to store it."""
        guard = self._guard if self._guard is not None and self._guard.concerns(delivery) else None
        notification: Notification | None = None
        try:
            if guard is not None:
                guard.enter(delivery)
            notification = self._decode(delivery)
            outcome: Event | DeadLetter | None = self._convert(notification)
            delivery.source = _source(notification)
            if isinstance(outcome, Event) and outcome.raw:
                is_left_out = outcome.raw.keys() == {SALVAGED_KEY}
                delivery.bytes_held += 0 if is_left_out else notification.bytes_held
        except MessageError as error:
            # The message is at fault, and may be anybody's, whatever name it bears: it stays with what it
            # came by, or a few names of others would make a flood look like everybody's.
            outcome = self._dead_letter(delivery, error, error.stage, notification)
        except KeyboardInterrupt:  # who converts in a command's main thread may end that
            raise
        # A fault of ours or of a plugin must cost this message only, also where the plugin calls sys.exit()
        # or raises what is no Exception, as asyncio and eventlet do.
        except BaseException as error:
            LOG.exception("Unexpected error while converting a message from %s", delivery.queue)
            if notification is not None:
                delivery.source = _source(notification)
            outcome = self._dead_letter(delivery, error, "convert", notification)
        if guard is not None:
            guard.leave()
        return outcome

    def _decode(self, delivery: Delivery) -> Notification:
        if delivery.fault is not None:
            raise DecodeError(delivery.fault)
        if delivery.rest is not None:
            raise too_large(delivery.size, self._max_size)
        text = read_text(
            delivery.body,
            content_type=delivery.content_type,
            content_encoding=delivery.content_encoding,
            headers=delivery.headers,
            max_size=self._max_size,
        )
        if text is not delivery.body:
            delivery.inflated_to(len(text))
        return Notification.from_text(text, max_size=self._max_size, max_depth=self._max_depth)

    def _convert(self, notification: Notification) -> Event | None:
        event_type = notification.message["event_type"]
        if event_type.__class__ is str and not self._wanted(event_type):
            return None
        return self._converter.to_event(
            notification.message, notification.priority, lambda: notification.bytes_held
        )

    def _dead_letter(
        self, delivery: Delivery, error: BaseException, stage: str, notification: Notification | None
    ) -> DeadLetter:
        message = notification.message if notification else {"metadata": {}}
        return dead_letter.from_delivery(
            delivery,
            error,
            stage=stage,
            message_id=message["metadata"].get("message_id"),
            event_type=message.get("event_type"),
            max_size=self._max_size,
            max_depth=self._max_depth,
            # What killed the others may be the search for credentials in it.
            unread=isinstance(error, PoisonMessage) and not error.may_be_read,
        )


def _source(notification: Notification) -> tuple[str, str]:
    message = notification.message
    publisher, event_type = message["publisher_id"], message["event_type"]
    # The flood breaker remembers a thousand of them.
    return (
        publisher[:_LONGEST_SOURCE] if publisher.__class__ is str else "",
        event_type[:_LONGEST_SOURCE] if event_type.__class__ is str else "",
    )
