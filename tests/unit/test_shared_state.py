import os

import pytest

from panko_ingest.errors import ConfigError
from panko_ingest.shared_state import CRASHES_BEFORE_DEAD_LETTER, SharedState, State

DIGEST = b"d" * 32


def test_slots_of_workers_and_buses_do_not_overlap() -> None:
    shared = SharedState(workers=2, buses=2)
    for number, slot in enumerate(shared.slots()):
        slot.occupy(100 + number)
        slot.hold(bytes([number]) * 32)
    assert [slot.pid for slot in shared.slots()] == [100, 101, 102, 103]
    assert [slot.held for slot in shared.slots(1)] == [b"\x02" * 32, b"\x03" * 32]


def test_the_parent_reads_what_a_child_writes_into_shared_state() -> None:
    shared = SharedState(workers=1, buses=1)
    slot = shared.slots()[0]
    child = os.fork()
    if child == 0:
        slot.occupy(os.getpid())
        slot.beat(True)
        os._exit(0)
    os.waitpid(child, 0)
    assert slot.pid == child
    assert slot.state is State.CONSUMING
    assert 0 <= slot.seconds_since_heartbeat < 30


def test_a_slot_without_a_worker_is_never_silent() -> None:
    slot = SharedState(workers=1, buses=1).slots()[0]
    slot.occupy(1)
    slot.clear()
    assert slot.seconds_since_heartbeat == 0
    assert slot.state is State.OFF


def test_a_message_is_poison_when_enough_workers_died_of_it() -> None:
    shared = SharedState(workers=1, buses=1)
    slot = shared.slots()[0]
    for _ in range(CRASHES_BEFORE_DEAD_LETTER):
        assert not shared.is_poison(DIGEST)
        slot.occupy(1)
        slot.hold(DIGEST)
        shared.record_death(0)
    assert shared.is_poison(DIGEST)
    assert not shared.is_poison(b"e" * 32)


def test_returns_that_a_broker_counted_stand_for_a_death_that_nobody_noted() -> None:
    shared = SharedState(workers=1, buses=1)
    slot = shared.slots()[0]
    assert not shared.is_poison(DIGEST, returns=20), "it came back, but nobody died of it"
    for returns in (2, 3):
        assert not shared.is_poison(DIGEST, returns)
        slot.hold(DIGEST)
        shared.record_death(0)
    assert not shared.is_poison(DIGEST, returns=2)
    assert shared.is_poison(DIGEST, returns=3)


def test_deaths_of_workers_are_counted_whatever_else_changes() -> None:
    shared = SharedState(workers=1, buses=1)
    shared.count_death()
    shared.count_death()
    shared.resize(workers=2, buses=1)
    assert (shared.deaths, len(shared.slots())) == (2, 2)


def test_a_message_that_was_converted_is_not_held_against_when_its_worker_dies() -> None:
    shared = SharedState(workers=1, buses=1)
    slot = shared.slots()[0]
    for _ in range(10):
        slot.occupy(1)
        slot.hold(DIGEST)
        slot.release()
        shared.record_death(0)
    assert not shared.is_poison(DIGEST)


def test_nobody_is_blamed_for_a_death_where_several_messages_were_held_but_all_are_suspects() -> None:
    shared = SharedState(workers=1, buses=2)
    slots = [*shared.slots(0), shared.recording_slot(0)]
    digests = [bytes([number]) * 32 for number in range(3)]
    for _ in range(10):
        for slot, digest in zip(slots, digests, strict=True):
            slot.hold(digest)
        shared.record_death(0)
    assert [shared.is_suspect(digest) for digest in digests] == [True] * 3
    assert not any(shared.is_poison(digest, returns=20) for digest in digests)
    slots[1].hold(digests[1])  # alone, from now on
    shared.record_death(0)
    assert [shared.is_poison(digest) for digest in digests] == [False, True, False]


def test_a_worker_killed_since_a_thread_hung_died_of_what_that_thread_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr("panko_ingest.shared_state.time.monotonic", lambda: now)
    shared = SharedState(workers=1, buses=3)
    for _ in range(CRASHES_BEFORE_DEAD_LETTER):
        idle, hangs, works = slots = shared.slots(0)
        for slot in slots:
            slot.occupy(7)
        hangs.hold(DIGEST)
        now += 31
        works.hold(b"e" * 32)
        works.beat()
        idle.beat()
        shared.note_hang(7, silence=15)
        shared.record_death(0)
    assert shared.is_poison(DIGEST)
    assert not shared.is_suspect(b"e" * 32)


def test_what_died_while_it_was_stored_may_be_read_unless_its_dead_letter_kills_too() -> None:
    shared = SharedState(workers=1, buses=1)
    for _ in range(CRASHES_BEFORE_DEAD_LETTER):
        shared.recording_slot(0).hold(DIGEST)
        shared.record_death(0)
    assert shared.is_poison(DIGEST)
    assert shared.may_be_read(DIGEST)
    shared.recording_slot(0).hold(DIGEST, as_letter=True)
    shared.record_death(0)
    assert not shared.may_be_read(DIGEST)


def test_a_dead_letter_that_was_stored_while_another_message_killed_keeps_its_body() -> None:
    shared = SharedState(workers=1, buses=1)
    for _ in range(CRASHES_BEFORE_DEAD_LETTER):
        shared.recording_slot(0).hold(DIGEST)
        shared.record_death(0)
    shared.recording_slot(0).hold(DIGEST, as_letter=True)
    shared.slots(0)[0].hold(b"e" * 32)
    shared.record_death(0)
    assert shared.may_be_read(DIGEST)


def test_what_died_while_it_was_stored_may_be_read_also_where_copies_of_it_died_at_once() -> None:
    shared = SharedState(workers=2, buses=1)
    for workers in ([0], [0], [0, 1]):
        for worker in workers:
            shared.recording_slot(worker).hold(DIGEST)
        for worker in workers:
            shared.record_death(worker)
    assert shared.is_poison(DIGEST)
    assert shared.may_be_read(DIGEST)


def test_copies_of_a_message_that_kills_are_expected_for_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("panko_ingest.shared_state.time.monotonic", lambda: now)
    shared = SharedState(workers=1, buses=1)
    for _ in range(CRASHES_BEFORE_DEAD_LETTER):
        assert not shared.is_poison(DIGEST)
        shared.slots()[0].hold(DIGEST)
        shared.record_death(0)
    assert shared.knows_poison
    now += 3601
    assert not shared.knows_poison


def test_many_suspects_do_not_push_out_the_message_that_killed_most() -> None:
    shared = SharedState(workers=1, buses=1)
    slot = shared.slots()[0]
    for digest in [DIGEST] * 3 + [number.to_bytes(32, "big") for number in range(1000)]:
        slot.hold(digest)
        shared.record_death(0)
    assert shared.is_poison(DIGEST)


def test_shared_state_that_grows_and_shrinks_keeps_what_its_slots_hold() -> None:
    shared = SharedState(workers=2, buses=1)
    shared.slots(1)[0].occupy(77)
    shared.slots(1)[0].hold(DIGEST)
    shared.resize(workers=3, buses=2)
    assert [slot.pid for slot in shared.slots()] == [0, 0, 77, 0, 0, 0]
    shared.resize(workers=1, buses=1)
    assert len(shared.slots()) == 1
    shared.record_death(1)
    assert len(shared.slots()) == 1


def test_more_workers_than_there_is_room_for_are_refused() -> None:
    with pytest.raises(ConfigError, match="workers: 513 are more than 512"):
        SharedState(workers=513, buses=1)


def test_every_thread_that_works_is_watched_by_its_name_also_in_a_worker_too_many() -> None:
    shared = SharedState(workers=2, buses=1)
    shared.service_slot("expirer").occupy(9, hang_limit=100)
    for worker in (0, 1):
        shared.recording_slot(worker).occupy(10 + worker)
        shared.bus_slot(worker, 0).occupy(10 + worker)
    shared.resize(workers=1, buses=1)
    watched = {name: slot.pid for name, slot in shared.occupied()}
    assert watched == {
        "expirer": 9,
        "recording thread 0": 10,
        "reader 0.0": 10,
        "recording thread 1": 11,
        "reader 1.0": 11,
    }
    assert shared.service_slot("expirer").hang_limit == 100
    shared.record_death(1)
    assert "recording thread 1" not in dict(shared.occupied())


def test_a_worker_that_still_works_by_an_older_configuration_leaves_no_vacancy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr("panko_ingest.shared_state.time.monotonic", lambda: now)
    shared = SharedState(workers=2, buses=1)
    for slot in (*shared.slots(0), shared.recording_slot(0)):
        slot.occupy(10)
    now += 5
    assert shared.vacancies() == [0, 5], "the second worker has not come"
    shared.resize(workers=2, buses=2)
    now += 60
    assert shared.vacancies() == [0, 0, 65, 60]
    shared.record_death(0)
    now += 2
    assert shared.vacancies() == [2, 2, 67, 62]
