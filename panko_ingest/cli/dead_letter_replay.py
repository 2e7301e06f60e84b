"""Dead letters once more through conversion, with the definitions of today."""

from collections.abc import Iterator

from oslo_config import cfg

from panko_ingest import config, storage
from panko_ingest.converter import EventConverter, TypeFilter
from panko_ingest.notification import Notification
from panko_ingest.storage.models import DeadLetter, Event


class Unwanted(Exception):
    """The configuration says not to store it."""


class Replay:
    """Converts stored dead letters again; ``replayed`` counts those that became events.

    :param dry_run: store nothing.
    :raises ConfigError: the definitions are wrong.
    """

    def __init__(self, connection: storage.Connection, conf: cfg.ConfigOpts, *, dry_run: bool) -> None:
        self.replayed = 0
        self._connection = connection
        self._dry_run = dry_run
        self._limits = {
            "max_size": conf.notification.max_message_size,
            "max_depth": conf.notification.max_depth,
        }
        self._wanted = TypeFilter(conf.event.types)
        self._converter = EventConverter.from_file(
            config.find_definitions(conf),
            store_raw=conf.event.store_raw,
            drop_unmatched=conf.event.drop_unmatched_notifications,
        )

    def run(self, which: storage.DeadLetterFilter) -> Iterator[tuple[int, str]]:
        """Replay dead letters; yield id and reason of those that stay.

        :raises StorageUnavailable: the store is away; what was replayed before stays so.
        """
        for summary in self._connection.get_dead_letters(which):
            stored = self._connection.get_dead_letter(summary.id)
            if stored is None:
                continue  # replayed or purged by somebody else meanwhile
            try:
                event = self._event(stored.letter)
                if not self._dry_run:
                    self._connection.replay_dead_letter(stored.id, event)
            except storage.StorageUnavailable:
                raise
            except Exception as error:  # noqa: BLE001 - a fault of a plugin must not keep the others back
                yield stored.id, f"{type(error).__name__}: {error}"
            else:
                self.replayed += 1

    def _event(self, letter: DeadLetter) -> Event:
        notification = Notification.decode(
            letter.body,
            content_type=letter.content_type,
            content_encoding=letter.content_encoding,
            headers=letter.headers,
            **self._limits,
        )
        event = self._converter.to_event(notification.message, notification.priority)
        if event is None or not self._wanted(event.event_type):
            raise Unwanted("its event type is not to be stored ([event] types, drop_unmatched_notifications)")
        return event
