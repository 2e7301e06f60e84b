"""Exchanges over which connections are lost, from one session to the next."""

import contextlib
from collections.abc import Callable, Collection

import pytest
from amqp.exceptions import AccessRefused, AMQPError, InternalError, NotAllowed

from panko_ingest.amqp.bindings import Bindings, CostlyExchanges
from panko_ingest.amqp.refusals import Refusals
from panko_ingest.amqp.topology import Topology, TopologyKeeper
from tests.unit.clock import Clock

HANGS = 15.0
EXCHANGES = tuple("abcdefghijklmnopqrst")


class Keeper(TopologyKeeper):
    """One whose connection is lost over some exchanges."""

    def __init__(
        self,
        clock: Clock,
        broken: Collection[str],
        error: Callable[[], Exception],
        absent: Collection[str],
        asked: list[str],
    ) -> None:
        self._clock = clock
        self._broken = broken
        self._error = error
        self._absent = absent
        self._asked = asked
        self.bound: list[str] = []

    def open(self) -> None:  # type: ignore[override]
        if "channel" in self._broken:
            raise NotAllowed("user's limit")

    def bind(self, exchange: str) -> bool:
        self._asked.append(exchange)
        if exchange in self._absent:
            return False
        if exchange in self._broken:
            error = self._error()
            if isinstance(error, TimeoutError):
                self._clock.advance(HANGS)
            raise error
        self.bound.append(exchange)
        return True


class Bus:
    """A consumer as its bindings see it: one session after the other."""

    def __init__(
        self,
        broken: Collection[str],
        error: Callable[[], Exception] = TimeoutError,
        *,
        absent: Collection[str] = (),
        again: bool = False,
    ) -> None:
        self.clock = Clock()
        self.told: dict[str, str | None] = {}
        self.told_unbound: list[str | None] = []
        self.asked: list[str] = []
        self.absent = set(absent)
        self.again = again
        self.bound: list[str] = []
        self._costly = CostlyExchanges(self.clock)
        self._refusals = Refusals(self.told.__setitem__)
        self._unbound = Refusals(lambda _queue, reason: self.told_unbound.append(reason))
        self.broken = broken
        self.error = error

    def session(self, longest: float = 300.0) -> float:
        """Read over one connection until it is lost; return the seconds before the question that cost it."""
        keeper = Keeper(self.clock, self.broken, self.error, self.absent, self.asked)
        topology = Topology(("notifications.info",), exchanges=EXCHANGES, pool="ours")
        self.bindings = Bindings(
            topology,
            keeper,
            self._costly,
            again=self.again,
            tell=self._refusals.note,
            tell_unbound=self._unbound.note,
            clock=self.clock,
            where="bus",
        )
        begun = self.clock()
        self._stepped_at = begun
        with contextlib.suppress(AMQPError, TimeoutError):
            self.run(longest)
        self.bound = keeper.bound
        return self._stepped_at - begun

    def run(self, seconds: float) -> None:
        """Read on over the same connection."""
        end = self.clock() + seconds
        while self.clock() < end:
            self._stepped_at = self.clock()
            self.bindings.step()
            self.clock.advance(0.5)


@pytest.mark.parametrize("broken", [EXCHANGES, EXCHANGES[:2]])
def test_where_exchanges_cost_one_connection_after_the_other_the_queue_is_read_in_between(
    broken: Collection[str],
) -> None:
    bus = Bus(broken)
    read = [bus.session() for _ in range(30)]
    assert min(read[2:]) >= HANGS
    assert sum(read[20:]) / 10 >= 2 * HANGS, "they are not asked about more rarely"


def test_one_costly_exchange_holds_up_no_other() -> None:
    bus = Bus("a")
    assert bus.session() == 0
    bus.session()
    assert bus.bound == list(EXCHANGES[1:])


@pytest.mark.parametrize("broken", [1, 5, 19])
def test_an_exchange_that_cost_a_connection_once_is_bound_whatever_the_others_cost(broken: int) -> None:
    bus = Bus(EXCHANGES)
    for _ in EXCHANGES:
        bus.session()
    bus.broken = EXCHANGES[:broken]
    bound: set[str] = set()
    for _ in range(broken + 1):
        bus.session()
        bound.update(bus.bound)
    assert bound == set(EXCHANGES[broken:])


def test_a_network_that_swallowed_packets_once_is_not_told_as_an_exchange_that_is_refused() -> None:
    bus = Bus("d")
    bus.session()
    assert not bus.told
    bus.session()
    assert list(bus.told) == ["d"]
    bus.broken = ()
    bus.session()
    assert bus.told == {"d": None}


def test_what_the_broker_ends_the_connection_over_is_told_at_once() -> None:
    bus = Bus("d", lambda: InternalError("bug"))
    bus.session()
    assert "the connection was lost over it" in str(bus.told["d"])


def test_what_the_broker_ends_the_connection_over_is_told_also_after_it_did_not_answer() -> None:
    errors = iter([TimeoutError(), InternalError("bug")])
    bus = Bus("d", lambda: next(errors))
    bus.session()
    bus.session()
    assert "the connection was lost over it" in str(bus.told["d"])


def test_a_connection_that_ends_over_the_channel_is_no_exchanges_fault() -> None:
    bus = Bus(["channel"])
    bus.session()
    assert not bus.told
    bus.broken = ()
    bus.session(0.5)
    assert bus.bound == list(EXCHANGES)


def refused() -> Exception:
    error: Exception = AccessRefused("ACCESS_REFUSED - read access to exchange refused")
    return error


@pytest.mark.parametrize("then", ["another session", "another queue"])
def test_an_exchange_that_was_refused_is_told_as_free_whenever_it_is_bound(then: str) -> None:
    broken = {"d"}
    bus = Bus(broken, refused)
    bus.session(5)
    assert "ACCESS_REFUSED" in str(bus.told["d"])
    broken.clear()
    if then == "another session":
        bus.session(5)
    else:
        bus.bindings.start_over()
        bus.bindings.step()
    assert bus.told == {"d": None}


def test_an_exchange_that_stays_refused_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    bus = Bus({"d"}, refused)
    for _ in range(3):
        bus.session(100)
        bus.bindings.start_over()
        bus.bindings.step()
    assert caplog.text.count("refuses to bind") == 1
    bus.error = lambda: AccessRefused("ACCESS_REFUSED - write access to queue refused")
    bus.session(100)
    assert caplog.text.count("refuses to bind") == 2
    assert "write access" in str(bus.told["d"])


def test_an_absent_exchange_is_looked_for_by_one_worker_ever_more_seldom() -> None:
    bus = Bus((), absent="d", again=True)
    bus.session(3600)
    assert 180 <= bus.asked.count("d") <= 420
    bus.absent.clear()
    bus.asked.clear()
    bus.run(21)
    assert "d" in bus.asked


def test_the_other_workers_look_too_and_bind_again_but_seldom_as_that_one_may_have_no_connection() -> None:
    bus = Bus((), absent="d")
    bus.session(3600)
    for exchange in "ad":
        assert 12 <= bus.asked.count(exchange) <= 25
    bus.absent.clear()
    bus.asked.clear()
    bus.run(301)
    assert set(bus.asked) == set(EXCHANGES)


def test_to_renew_the_queue_asks_for_no_absent_exchange_out_of_turn() -> None:
    bus = Bus((), absent="d", again=True)
    bus.session(600)
    asked = bus.asked.count("d")
    for _ in range(10):
        bus.bindings.start_over()
        bus.run(1)
    assert bus.asked.count("d") <= asked + 1
    assert bus.asked.count("a") >= 70, "what is there is bound again at once"


def test_an_exchange_that_was_there_is_soon_bound_again() -> None:
    bus = Bus((), again=True)
    bus.session(600)
    bus.absent.add("d")
    bus.run(120)
    bus.absent.clear()
    bus.asked.clear()
    bus.run(11)
    assert "d" in bus.asked


def test_that_nothing_gets_into_the_queue_is_told_until_something_does(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bus = Bus((), absent=EXCHANGES, again=True)
    bus.session(200)
    bus.session(200)
    (reason,) = bus.told_unbound
    assert "a, b, c" in str(reason)
    assert caplog.text.count("bound to nothing, and what is published is lost") == 1
    bus.absent.discard("d")
    bus.run(61)
    assert bus.told_unbound == [reason, None]


@pytest.mark.parametrize("absent", [EXCHANGES[1:], ()])
def test_a_queue_that_is_or_may_be_bound_is_not_told_as_one_that_nothing_gets_into(
    absent: Collection[str],
) -> None:
    bus = Bus("a", refused, absent=absent, again=True)
    bus.session(200)
    assert bus.told_unbound == []
