"""Events and dead letters of another event database into ours: what is new here is copied, and counted.

What is stored here already is told by its message_id, type and time (a dead letter by its digest) and passed
over, so that a run which was interrupted is simply begun anew. What can't be read there or stored here costs
itself alone.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from panko_ingest.storage.base import Merged, ToldProgress
from panko_ingest.storage.database import error_classes, fault_search
from panko_ingest.storage.database.engine import read_transaction, write_transaction
from panko_ingest.storage.database.retry import run_transaction
from panko_ingest.storage.errors import MessageIdTaken, StorageUnavailable
from panko_ingest.storage.merge_source import FoundEvent, FoundLetter, Head, LetterHead, Source
from panko_ingest.storage.models import UNSTORABLE
from panko_ingest.storage.recording.dead_letters import write_dead_letters
from panko_ingest.storage.recording.recorder import Recorder
from panko_ingest.storage.recording.stored_events import is_same, look_up
from panko_ingest.storage.recording.validation import Validator
from panko_ingest.storage.schema import partitions
from panko_ingest.storage.schema.column_limits import read_limits
from panko_ingest.storage.settings import StorageSettings
from panko_ingest.storage.source_connection import opened
from panko_ingest.storage.tables import DeadLetter, Event as EventRow


def merge(
    url: str, engine: sa.Engine, settings: StorageSettings, recorder: Recorder, tell: ToldProgress
) -> Merged:
    """Copy what another database has and ours has not.

    :param url: of the other database.
    :param recorder: stores events in ours.
    :raises ConfigError: it is the same database, or the URL can't be used.
    :raises StorageUnavailable: one of the two is away; what was copied stays.
    """
    with opened(url, engine) as connection:
        return _Merge(Source(connection), engine, settings, recorder, tell).run()


class _Merge:
    def __init__(
        self,
        source: Source,
        engine: sa.Engine,
        settings: StorageSettings,
        recorder: Recorder,
        tell: ToldProgress,
    ) -> None:
        self._source = source
        self._engine = engine
        self._settings = settings
        self._recorder = recorder
        self._tell = tell
        self._merged = Merged()
        self._fold: Callable[[str], str] = str

    def run(self) -> Merged:
        """Copy page after page, in the order of ids."""
        with read_transaction(self._engine) as connection:
            by_day = partitions.exist(connection)
            self._fold = read_limits(connection).fold
        merged, total, salvaged = self._merged, self._source.count(), self._recorder.salvaged
        for page in self._source.pages():
            self._copy(page, by_day=by_day)
            self._tell(merged.events, max(total, merged.events))
        for letters in self._source.pages_of_letters():
            self._copy_letters(letters)
        merged.salvaged = self._recorder.salvaged - salvaged
        return merged

    def _copy(self, page: Sequence[Head], *, by_day: bool) -> None:
        new = self._new(page, by_day=by_day)
        self._note_left_out(sorted(set(page).difference(new)))
        unreadable = [head for head in new if head.fault]
        self._merged.refused += [(head.name, head.fault) for head in unreadable]
        self._merged.events += len(page) - len(new) + len(unreadable)
        for found in self._source.events([head for head in new if not head.fault]):
            self._merged.events += len(found)
            self._store(found)
            # It is not to be in memory while the next ones are read.
            found.clear()

    def _new(self, page: Sequence[Head], *, by_day: bool) -> list[Head]:
        """Return those that are not stored here.

        :param by_day: whether each day may have an event of the same message_id.
        """
        columns = [EventRow.message_id, EventRow.generated] if by_day else [EventRow.message_id]
        ids = _message_ids(page)
        with read_transaction(self._engine) as connection:
            stored = connection.execute(sa.select(*columns).where(EventRow.message_id.in_(ids)))
            there = {tuple(row) for row in stored}
        return [
            head
            for head in page
            if ((head.message_id, head.generated) if by_day else (head.message_id,)) not in there
        ]

    def _note_left_out(self, known: Sequence[Head]) -> None:
        """Note those whose message_id another event has here."""
        ids = _message_ids(known)
        if not ids:
            return
        with read_transaction(self._engine) as connection:
            here = look_up(connection, ids)
        types = self._source.type_names({head.event_type_id for head in known})
        for head in known:
            stored = here.get(head.message_id or "", [])
            event_type, generated = self._fold(types[head.event_type_id]), head.generated
            folded = [one._replace(event_type=self._fold(one.event_type or "")) for one in stored]
            if stored and generated and not any(is_same(one, event_type, generated) for one in folded):
                self._merged.left_out.append((head.name, generated))

    def _store(self, found: Sequence[FoundEvent]) -> None:
        self._merged.refused += [(one.head.name, one.fault) for one in found if one.event is None]
        events = [(one.head, one.event) for one in found if one.event is not None]
        result = self._recorder.record_what_can_be([event for _, event in events])
        self._merged.recorded += len(result.recorded)
        for index, error in result.failed:
            head, event = events[index]
            if isinstance(error, MessageIdTaken):
                self._merged.left_out.append((head.name, event.generated))
            else:
                self._merged.refused.append((head.name, str(error)))
        stored = (*result.recorded, *result.duplicates)
        self._merged.named += sum(events[index][0].nameless for index in stored)

    def _copy_letters(self, page: Sequence[LetterHead]) -> None:
        with read_transaction(self._engine) as connection:
            there = _stored_digests(connection, (head.digest for head in page))
        new = [head for head in page if head.digest not in there]
        unreadable = [head for head in new if head.fault]
        self._merged.refused_letters += [(head.name, head.fault) for head in unreadable]
        self._merged.letters += len(page) - len(new) + len(unreadable)
        for found in self._source.letters([head for head in new if not head.fault]):
            self._merged.letters += len(found)
            self._merged.refused_letters += [
                (one.head.name, one.fault) for one in found if one.letter is None
            ]
            self._store_letters([one for one in found if one.letter is not None])
            found.clear()

    def _store_letters(self, found: Sequence[FoundLetter]) -> None:
        """Store them together if they can be, else each for itself."""
        if not found:
            return
        try:
            self._merged.new_letters += run_transaction(self._settings, lambda: self._write_letters(found))
        except StorageUnavailable:
            raise
        except Exception as error:
            if not fault_search.may_be_a_rows(error):
                raise
            if len(found) == 1:
                self._merged.refused_letters.append((found[0].head.name, error_classes.describe(error)))
                return
            for one in found:
                self._store_letters([one])

    def _write_letters(self, found: Sequence[FoundLetter]) -> int:
        with write_transaction(self._engine) as connection:
            there = _stored_digests(connection, (one.head.digest for one in found))
            new = [one for one in found if one.head.digest not in there]
            letters = [one.letter for one in new if one.letter is not None]
            write_dead_letters(connection, letters, Validator(read_limits(connection)))
            return sum(_keep_times(connection, one.head.digest, one.times or {}) for one in new)


def _message_ids(heads: Iterable[Head]) -> list[str]:
    """Return the message_ids that any database can be asked for; of others, storing them tells."""
    return [head.message_id for head in heads if head.message_id and not UNSTORABLE.search(head.message_id)]


def _stored_digests(connection: sa.Connection, digests: Iterable[bytes]) -> set[bytes]:
    stored = sa.select(DeadLetter.digest).where(DeadLetter.digest.in_(list(digests)))
    return {bytes(digest) for digest in connection.scalars(stored)}


def _keep_times(connection: sa.Connection, digest: bytes, times: dict[str, Any]) -> int:
    """Give a dead letter that was just written the times of its source; return 1 if it is new, else 0."""
    # More than one attempt: somebody else has stored it since we looked, and its times are its own.
    ours = sa.update(DeadLetter).where(DeadLetter.digest == digest, DeadLetter.attempts == 1)
    return connection.execute(ours.values(times)).rowcount
