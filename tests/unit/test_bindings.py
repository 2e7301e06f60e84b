"""Exchanges over which connections are lost, from one session to the next."""

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

    def __init__(self, clock: Clock, broken: Collection[str], error: Callable[[], Exception]) -> None:
        self._clock = clock
        self._broken = broken
        self._error = error
        self.bound: list[str] = []

    def open(self) -> None:  # type: ignore[override]
        if "channel" in self._broken:
            raise NotAllowed("user's limit")

    def bind(self, exchange: str) -> bool:
        if exchange in self._broken:
            error = self._error()
            if isinstance(error, TimeoutError):
                self._clock.advance(HANGS)
            raise error
        self.bound.append(exchange)
        return True


class Bus:
    """A consumer as its bindings see it: one session after the other."""

    def __init__(self, broken: Collection[str], error: Callable[[], Exception] = TimeoutError) -> None:
        self.clock = Clock()
        self.told: dict[str, str | None] = {}
        self.bound: list[str] = []
        self._costly = CostlyExchanges(self.clock)
        self._refusals = Refusals(self.told.__setitem__)
        self.broken = broken
        self.error = error

    def session(self, longest: float = 300.0) -> float:
        """Read over one connection until it is lost; return the seconds before the question that cost it."""
        keeper = Keeper(self.clock, self.broken, self.error)
        topology = Topology(("notifications.info",), exchanges=EXCHANGES, pool="ours")
        self.bindings = bindings = Bindings(
            topology, keeper, self._costly, again=False, tell=self._refusals.note, clock=self.clock
        )
        begun = read = self.clock()
        try:
            while self.clock() < begun + longest:
                read = self.clock()
                bindings.step()
                self.clock.advance(0.5)
        except (AMQPError, TimeoutError):
            pass
        self.bound = keeper.bound
        return read - begun


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
