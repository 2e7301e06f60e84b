"""One bus of a worker goes on alone with what the worker may die of."""

from dataclasses import dataclass

from panko_ingest.pipeline import Solitude
from tests.unit.clock import Clock


@dataclass(eq=False)
class Bus:
    idle: bool = True


def test_a_bus_is_alone_once_the_others_have_nothing_in_hand_which_read_nothing_until_it_leaves() -> None:
    solitude = Solitude(Clock())
    one, other = Bus(), Bus(idle=False)
    for bus in (one, other):
        solitude.join(bus)
    assert not solitude.ask(one)
    assert solitude.is_wanted, "by none is more to be read, by the one that is to be alone neither"
    assert not solitude.may_ask(one)
    assert solitude.had_by is None, "what the other has in hand it may finish"
    assert not solitude.ask(other), "one at a time"
    other.idle = True
    assert solitude.ask(one)
    assert solitude.had_by is one
    solitude.leave(other)
    assert solitude.had_by is one
    solitude.leave(one)
    assert not solitude.is_wanted
    assert solitude.may_ask(other)
    assert solitude.ask(other)


def test_a_bus_whose_batches_nobody_takes_does_not_keep_another_waiting_for_ever() -> None:
    clock = Clock()
    solitude = Solitude(clock)
    one, stuck = Bus(), Bus(idle=False)
    for bus in (one, stuck):
        solitude.join(bus)
    assert not solitude.ask(one)
    clock.advance(6)
    assert solitude.ask(one)
