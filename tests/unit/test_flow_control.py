"""How many messages a queue may send: few at first, more with commits, one where they came back often."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from panko_ingest.pipeline.flow_control import FIRST_PREFETCH, Budget, FlowControl
from tests.unit.clock import Clock

FULL = 2000
SIZE = 64_000
QUEUE = "notifications.info"


class Reader:
    """A broker that sends all that it may, of one queue."""

    def __init__(self, budget: Budget, clock: Clock | None = None, queue: str = QUEUE) -> None:
        self.deaths = 0
        self.flow = FlowControl(budget, clock or Clock(), lambda: self.deaths)
        self.queue = queue
        self.open()

    def open(self) -> None:
        self.flow.opened(self.queue)
        self.in_hand = 0
        self.follow()

    def follow(self) -> int:
        prefetch = self.flow.prefetch(self.queue)
        self.flow.following(self.queue, prefetch)
        return prefetch

    def receive(self, count: int = 1, *, size: int = 1, returns: int = 0) -> None:
        for _ in range(count):
            self.flow.received(self.queue, size, returns)
        self.in_hand += count

    def settle(self, count: int, *, size: int = 1) -> None:
        self.flow.settled({self.queue: count}, count * size)
        self.in_hand -= count

    def turn(self, *, returns: int = 0, size: int = 1) -> int:
        """Receive a whole prefetch and settle it; return how many that were."""
        count = self.follow()
        self.receive(count, returns=returns, size=size)
        self.settle(self.in_hand, size=size)
        return count


def test_a_queue_begins_with_a_small_prefetch_that_grows_with_commits_to_the_full_one() -> None:
    reader = Reader(Budget(FULL, SIZE))
    assert reader.follow() == FIRST_PREFETCH
    assert reader.follow() == FIRST_PREFETCH, "looking is no commit"
    prefetches = [reader.turn() for _ in range(6)]
    assert prefetches == sorted(prefetches)
    assert prefetches[-1] == FULL


def test_time_without_commits_grows_nothing() -> None:
    clock = Clock()
    reader = Reader(Budget(FULL, SIZE), clock)
    reader.receive(FIRST_PREFETCH)
    clock.advance(3600)
    assert reader.follow() == FIRST_PREFETCH


def test_a_queue_that_is_read_over_a_new_channel_begins_anew_and_others_go_on() -> None:
    reader = Reader(Budget(FULL, SIZE))
    reader.flow.opened("notifications.error")
    for _ in range(6):
        reader.turn()
    reader.flow.opened("notifications.error")
    assert reader.flow.prefetch("notifications.error") == FIRST_PREFETCH
    assert reader.follow() == FULL


def test_a_message_that_came_back_often_is_read_alone_until_ten_in_a_row_did_not() -> None:
    reader = Reader(Budget(FULL, SIZE))
    for _ in range(6):
        reader.turn()
    reader.receive(5, returns=3)
    assert reader.follow() == 0, "what is in hand comes first"
    reader.settle(5)
    for returns in (4, 0, 0, 3, *[0] * 10):
        assert reader.follow() == 1
        reader.receive(returns=returns)
        reader.settle(1)
    assert reader.follow() == FULL


def test_a_message_that_came_back_once_slows_nothing_down() -> None:
    reader = Reader(Budget(FULL, SIZE))
    assert [reader.turn(returns=1) for _ in range(6)][-1] == FULL


def test_after_a_death_what_comes_back_is_read_one_by_one() -> None:
    reader = Reader(Budget(FULL, SIZE))
    for _ in range(6):
        reader.turn()
    reader.receive(6)
    reader.deaths = 1
    assert reader.follow() == 0, "what is in hand comes first"
    reader.settle(6)
    prefetches = []
    for returns in (*[1] * 30, 0, 0, 1, *[0] * 10):
        prefetches.append(reader.follow())
        reader.receive(returns=returns)
        reader.settle(1)
    assert set(prefetches) == {1}
    assert reader.follow() == FULL


def test_too_many_bytes_are_settled_before_less_is_read_and_the_prefetch_grows_back() -> None:
    reader = Reader(Budget(FULL, SIZE))
    for _ in range(6):
        reader.turn()
    reader.receive(6, size=SIZE // 5)
    assert reader.follow() == 0
    reader.settle(6, size=SIZE // 5)
    assert 0 < reader.follow() <= 3
    for _ in range(200):
        reader.turn()
    assert reader.follow() == FULL


def test_a_bus_that_holds_little_is_not_stopped_by_one_that_holds_too_much() -> None:
    budget = Budget(FULL, SIZE)
    large, small = Reader(budget), Reader(budget)
    small.receive(3)
    large.receive(8, size=SIZE // 5)
    small.receive(3)
    assert large.follow() == 0
    assert small.follow() == FIRST_PREFETCH


@pytest.mark.parametrize("buses", [1, 2, 3, 5, 12, 32])
def test_buses_with_a_backlog_share_one_prefetch_and_a_lone_one_has_it_all(buses: int) -> None:
    clock = Clock()
    budget = Budget(FULL, 10**9)
    readers = [Reader(budget, clock) for _ in range(buses)]
    for _ in range(6):
        for reader in readers:
            reader.turn()
    assert 0.6 * FULL <= sum(reader.follow() for reader in readers) <= FULL
    clock.advance(60)
    assert [readers[0].turn() for _ in range(6)][-1] == FULL


def test_backlogs_that_waited_for_a_store_that_was_away_share_one_prefetch_at_once() -> None:
    clock = Clock()
    budget = Budget(FULL, 10**9)
    readers = [Reader(budget, clock) for _ in range(5)]
    for reader in readers:
        reader.turn()
        reader.receive(reader.follow())
    clock.advance(60)
    for reader in readers:
        reader.settle(reader.in_hand)
    for _ in range(6):
        for reader in readers:
            reader.turn()
            clock.advance(0.001)
            assert sum(reader.follow() for reader in readers) <= FULL


class AnyOrder(RuleBasedStateMachine):
    """Two buses of one budget, to which anything happens in any order."""

    @initialize()
    def start(self) -> None:
        self.clock = Clock()
        self.readers = [Reader(Budget(FULL, SIZE), self.clock) for _ in range(2)]
        self.sizes: list[list[int]] = [[], []]

    @rule(bus=st.integers(0, 1), share=st.floats(0, 1), size=st.integers(1, SIZE), returns=st.integers(0, 5))
    def receive(self, bus: int, share: float, size: int, returns: int) -> None:
        reader = self.readers[bus]
        prefetch = reader.flow.prefetches[QUEUE]
        count = min(int(share * max(0, prefetch - reader.in_hand) + 0.5), 50)
        for _ in range(count):
            reader.receive(size=size, returns=returns)
            self.sizes[bus].append(size)

    @rule(bus=st.integers(0, 1), share=st.floats(0, 1))
    def settle(self, bus: int, share: float) -> None:
        sizes = self.sizes[bus]
        done, self.sizes[bus] = sizes[: int(share * len(sizes) + 0.5)], sizes[int(share * len(sizes) + 0.5) :]
        self.readers[bus].flow.settled({QUEUE: len(done)}, sum(done))
        self.readers[bus].in_hand -= len(done)

    @rule(bus=st.integers(0, 1))
    def follow(self, bus: int) -> None:
        self.readers[bus].follow()

    @rule(bus=st.integers(0, 1))
    def die(self, bus: int) -> None:
        self.readers[bus].deaths += 1
        assert self.readers[bus].follow() <= 1

    @rule(bus=st.integers(0, 1))
    def reconnect(self, bus: int) -> None:
        self.sizes[bus] = []
        self.readers[bus].flow.reset()
        self.readers[bus].open()
        assert self.readers[bus].follow() <= FIRST_PREFETCH

    @rule(seconds=st.floats(0, 10))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @precondition(lambda self: not any(self.sizes))
    @rule()
    def recover(self) -> None:
        for reader in self.readers:
            for _ in range(1000):
                if reader.turn() == FULL:
                    break
            assert reader.follow() in {FULL, FULL // 2}, "with commits the full rate comes back"

    @invariant()
    def what_is_counted_is_what_is_in_hand(self) -> None:
        for reader, sizes in zip(self.readers, self.sizes, strict=True):
            assert (reader.flow.messages, reader.flow.bytes) == (len(sizes), sum(sizes))
            assert 0 <= reader.flow.prefetch(QUEUE) <= FULL


TestAnyOrder = AnyOrder.TestCase
