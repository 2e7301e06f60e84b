import datetime
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, strategies as st

from panko_ingest.pipeline.halving import record_by_halves
from panko_ingest.storage import RecordResult, StorageUnavailable
from panko_ingest.storage.models import DeadLetter, Event


class Store:
    """Breaks unforeseen on whatever it is told; remembers the rest."""

    def __init__(self, deadly: set[str] = frozenset(), headers_break: bool = False) -> None:  # type: ignore[assignment]
        self.deadly = deadly
        self.headers_break = headers_break
        self.events: list[str] = []
        self.letters: list[DeadLetter] = []

    def record_events(
        self,
        events: Sequence[Event],
        letters: Sequence[DeadLetter] = (),
        on_failure: Callable[[int, Exception], DeadLetter] | None = None,
    ) -> RecordResult:
        if any(event.message_id in self.deadly for event in events):
            raise KeyError("nobody foresaw this")
        if self.headers_break and any(letter.headers for letter in letters):
            raise KeyError("nor this")
        duplicates = [index for index, event in enumerate(events) if event.message_id in self.events]
        recorded = [index for index in range(len(events)) if index not in duplicates]
        self.events += [events[index].message_id for index in recorded]
        self.letters += letters
        return RecordResult(tuple(recorded), tuple(duplicates))


def event(number: int) -> Event:
    return Event(str(number), "compute.instance.update", datetime.datetime(2026, 1, 1))


def letter(name: str) -> DeadLetter:
    return DeadLetter(
        digest=name.encode(), body=b"", stage="record", error_class="KeyError", error="", headers={"a": 1}
    )


@given(st.integers(1, 40), st.sets(st.integers(0, 39)), st.sets(st.integers(0, 39)))
def test_only_the_events_at_fault_become_dead_letters(count: int, deadly: set[int], stored: set[int]) -> None:
    events = [event(number) for number in range(count)]
    deadly &= set(range(count))
    stored = stored & set(range(count)) - deadly
    store = Store({str(number) for number in deadly})
    store.events = [str(number) for number in stored]

    result = record_by_halves(store, events, [letter("given")], lambda index, _: letter(f"failed-{index}"))  # type: ignore[arg-type]

    assert set(result.recorded) == set(range(count)) - deadly - stored
    assert set(result.duplicates) == stored
    assert {index for index, _ in result.failed} == deadly
    assert {item.digest for item in store.letters} == {b"given"} | {f"failed-{n}".encode() for n in deadly}
    assert sorted(store.events) == sorted(str(number) for number in set(range(count)) - deadly)


def test_a_dead_letter_that_breaks_recording_goes_without_its_headers() -> None:
    store = Store(headers_break=True)
    record_by_halves(store, [], [letter("odd")], lambda *_: letter("unused"))  # type: ignore[arg-type]
    assert [item.headers for item in store.letters] == [{}]
    assert "its headers are left out: KeyError" in store.letters[0].error


def test_a_store_that_goes_away_is_no_fault_of_an_event() -> None:
    class Away(Store):
        def record_events(self, *_: object) -> RecordResult:
            raise StorageUnavailable("gone")

    with pytest.raises(StorageUnavailable):
        record_by_halves(Away(), [event(1), event(2)], [], lambda *_: letter("unused"))  # type: ignore[arg-type]
