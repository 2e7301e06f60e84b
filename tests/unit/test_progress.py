import os

import pytest

from panko_ingest.errors import ConfigError
from panko_ingest.progress import CRASHES_BEFORE_DEAD_LETTER, Board, State

DIGEST = b"d" * 32


def test_slots_of_workers_and_buses_do_not_overlap() -> None:
    board = Board(workers=2, buses=2)
    for number, slot in enumerate(board.slots()):
        slot.occupy(100 + number)
        slot.hold(bytes([number]) * 32)
    assert [slot.pid for slot in board.slots()] == [100, 101, 102, 103]
    assert [slot.held for slot in board.slots(1)] == [b"\x02" * 32, b"\x03" * 32]


def test_what_a_child_writes_the_parent_reads() -> None:
    board = Board(workers=1, buses=1)
    slot = board.slots()[0]
    child = os.fork()
    if child == 0:
        slot.occupy(os.getpid())
        slot.beat(True)
        os._exit(0)
    os.waitpid(child, 0)
    assert slot.pid == child
    assert slot.state is State.CONSUMING
    assert 0 <= slot.silence < 30


def test_a_free_slot_is_never_silent() -> None:
    slot = Board(workers=1, buses=1).slots()[0]
    slot.occupy(1)
    slot.clear()
    assert slot.silence == 0
    assert slot.state is State.OFF


def test_a_message_is_deadly_when_enough_workers_died_of_it() -> None:
    board = Board(workers=1, buses=1)
    slot = board.slots()[0]
    for _ in range(CRASHES_BEFORE_DEAD_LETTER):
        assert not board.deadly(DIGEST)
        slot.occupy(1)
        slot.hold(DIGEST)
        board.bury(0)
    assert board.deadly(DIGEST)
    assert not board.deadly(b"e" * 32)


def test_what_a_broker_counted_stands_for_the_death_that_nobody_noted() -> None:
    board = Board(workers=1, buses=1)
    slot = board.slots()[0]
    assert not board.deadly(DIGEST, returns=20), "it came back, but nobody died of it"
    for returns in (2, 3):
        assert not board.deadly(DIGEST, returns)
        slot.hold(DIGEST)
        board.bury(0)
    assert not board.deadly(DIGEST, returns=2)
    assert board.deadly(DIGEST, returns=3)


def test_deaths_are_counted_whatever_else_changes() -> None:
    board = Board(workers=1, buses=1)
    board.count_death()
    board.count_death()
    board.resize(workers=2, buses=1)
    board.generation = 5
    assert (board.deaths, board.generation, len(board.slots())) == (2, 5, 2)


def test_a_message_that_was_converted_is_not_held_against() -> None:
    board = Board(workers=1, buses=1)
    slot = board.slots()[0]
    for _ in range(10):
        slot.occupy(1)
        slot.hold(DIGEST)
        slot.release()
        board.bury(0)
    assert not board.deadly(DIGEST)


def test_many_suspects_do_not_push_out_the_deadliest() -> None:
    board = Board(workers=1, buses=1)
    slot = board.slots()[0]
    for digest in [DIGEST] * 3 + [number.to_bytes(32, "big") for number in range(1000)]:
        slot.hold(digest)
        board.bury(0)
    assert board.deadly(DIGEST)


def test_a_board_that_grows_and_shrinks_keeps_what_its_slots_hold() -> None:
    board = Board(workers=2, buses=1)
    board.generation = 5
    board.slots(1)[0].occupy(77)
    board.slots(1)[0].hold(DIGEST)
    board.resize(workers=3, buses=2)
    assert [slot.pid for slot in board.slots()] == [0, 0, 77, 0, 0, 0]
    board.resize(workers=1, buses=1)
    assert len(board.slots()) == 1
    board.bury(1)
    assert board.generation == 5


def test_more_workers_than_there_is_room_for_are_refused() -> None:
    with pytest.raises(ConfigError, match="workers: 513 are more than 512"):
        Board(workers=513, buses=1)
