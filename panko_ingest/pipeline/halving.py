"""Recording what makes recording fail unforeseen: by halves, until those at fault are alone.

The store itself finds the rows that its database refuses. This is for what nobody thought of, so that
even then it costs the messages at fault, and not the worker again and again.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from panko_ingest.storage import Connection, RecordResult, StorageUnavailable
from panko_ingest.storage.models import DeadLetter, Event


def record_by_halves(
    connection: Connection,
    events: Sequence[Event],
    dead_letters: Sequence[DeadLetter],
    on_failure: Callable[[int, Exception], DeadLetter],
) -> RecordResult:
    """Record events and dead letters in several transactions; what can't be recorded is dead-lettered.

    :raises StorageUnavailable: the store is away; what was recorded before is a duplicate next time.
    """
    recorded: list[int] = []
    duplicates: list[int] = []
    failed: list[tuple[int, Exception]] = []

    def record(indexes: range) -> None:
        try:
            result = connection.record_events(
                [events[index] for index in indexes],
                (),
                lambda position, error: on_failure(indexes[position], error),
            )
        except StorageUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - of whatever kind, it must cost this event only
            if len(indexes) > 1:
                middle = len(indexes) // 2
                record(indexes[:middle])
                record(indexes[middle:])
                return
            _record_letter(connection, on_failure(indexes[0], error))
            failed.append((indexes[0], error))
        else:
            recorded.extend(indexes[position] for position in result.recorded)
            duplicates.extend(indexes[position] for position in result.duplicates)
            failed.extend((indexes[position], error) for position, error in result.failed)

    if events:
        record(range(len(events)))
    for letter in dead_letters:
        _record_letter(connection, letter)
    return RecordResult(tuple(recorded), tuple(duplicates), tuple(failed))


def _record_letter(connection: Connection, letter: DeadLetter) -> None:
    try:
        connection.record_events((), [letter])
    except StorageUnavailable:
        raise
    except Exception as error:  # noqa: BLE001 - as above
        reason = f"{letter.error} (its headers are left out: {type(error).__name__}: {error})"
        connection.record_events((), [replace(letter, headers={}, error=reason)])
