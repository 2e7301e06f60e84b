"""What a delivery turns out to be: an event, a dead letter, or nothing."""

import logging

from panko_ingest import dead_letter
from panko_ingest.batch import Batcher
from panko_ingest.converter import EventConverter, TypeFilter
from panko_ingest.delivery import Delivery
from panko_ingest.errors import MessageError
from panko_ingest.notification import Notification
from panko_ingest.progress import Board, Slot
from panko_ingest.storage.models import DeadLetter

LOG = logging.getLogger(__name__)


class DeadlyMessage(MessageError):
    """Several workers died while they converted this message."""

    stage = "crash"


class CrashGuard:
    """Keeps a message that kills its workers from doing so for ever.

    Only messages that were delivered before are noted down, so that the others cost nothing.
    """

    def __init__(self, board: Board, slot: Slot) -> None:
        self._board = board
        self._slot = slot

    def enter(self, delivery: Delivery) -> None:
        """Note down what is about to be converted.

        :raises DeadlyMessage: too many workers died of it.
        """
        digest = delivery.digest()
        if self._board.deadly(digest, delivery.returns):
            raise DeadlyMessage("several workers died or hung while they converted this message")
        self._slot.hold(digest)

    def leave(self) -> None:
        """Note down that it is converted."""
        self._slot.release()


class Intake:
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
        guard: CrashGuard | None = None,
    ) -> None:
        self._converter = converter
        self._wanted = wanted
        self._max_size = max_size
        self._max_depth = max_depth
        self._guard = guard

    def take(self, delivery: Delivery, batcher: Batcher) -> None:
        """Put a delivery into a batch, as what it turns out to be."""
        guard = self._guard if delivery.redelivered else None
        notification: Notification | None = None
        try:
            if guard is not None:
                guard.enter(delivery)
            notification = self._decode(delivery)
            self._convert(notification, delivery, batcher)
        except MessageError as error:
            batcher.add_dead_letter(delivery, self._dead_letter(delivery, error, error.stage, notification))
        # A fault of ours or of a plugin must cost this message only, also where the plugin calls sys.exit().
        except (Exception, SystemExit) as error:
            LOG.exception("Unexpected error while converting a message from %s", delivery.queue)
            batcher.add_dead_letter(delivery, self._dead_letter(delivery, error, "convert", notification))
        if guard is not None:
            guard.leave()

    def _decode(self, delivery: Delivery) -> Notification:
        return Notification.decode(
            delivery.body,
            content_type=delivery.content_type,
            content_encoding=delivery.content_encoding,
            headers=delivery.headers,
            max_size=self._max_size,
            max_depth=self._max_depth,
        )

    def _convert(self, notification: Notification, delivery: Delivery, batcher: Batcher) -> None:
        event_type = notification.message["event_type"]
        if event_type.__class__ is str and not self._wanted(event_type):
            batcher.add_dropped(delivery)
            return
        event = self._converter.to_event(notification.message, notification.priority)
        if event is None:
            batcher.add_dropped(delivery)
        else:
            batcher.add_event(delivery, event)

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
        )
