"""What a delivery turns out to be: an event, a dead letter, or nothing."""

import logging

from panko_ingest import dead_letter
from panko_ingest.batch import Batcher
from panko_ingest.converter import EventConverter, TypeFilter
from panko_ingest.delivery import Delivery
from panko_ingest.errors import MessageError
from panko_ingest.notification import Notification

LOG = logging.getLogger(__name__)


class Intake:
    """Makes of each delivery an event, a dead letter, or nothing.

    :param wanted: which event types to store.
    :param max_size: bytes of a body, decompressed.
    :param max_depth: levels of nesting.
    """

    def __init__(
        self, converter: EventConverter, wanted: TypeFilter, *, max_size: int, max_depth: int
    ) -> None:
        self._converter = converter
        self._wanted = wanted
        self._max_size = max_size
        self._max_depth = max_depth

    def take(self, delivery: Delivery, batcher: Batcher) -> None:
        """Put a delivery into a batch, as what it turns out to be."""
        try:
            notification = Notification.decode(
                delivery.body,
                content_type=delivery.content_type,
                content_encoding=delivery.content_encoding,
                headers=delivery.headers,
                max_size=self._max_size,
                max_depth=self._max_depth,
            )
            event = self._converter.to_event(notification.message, notification.priority)
        except MessageError as error:
            batcher.add_dead_letter(delivery, dead_letter.from_delivery(delivery, error, stage=error.stage))
        except Exception as error:  # a fault of ours or of a plugin must cost this message only
            LOG.exception("Unexpected error while converting a message from %s", delivery.queue)
            batcher.add_dead_letter(delivery, dead_letter.from_delivery(delivery, error, stage="convert"))
        else:
            if event is None or not self._wanted(event.event_type):
                batcher.add_dropped(delivery)
            else:
                batcher.add_event(delivery, event)
