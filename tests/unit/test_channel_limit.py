"""What connections find out about how many channels a broker lets them have."""

import pytest
from amqp.exceptions import ChannelError, NotAllowed

from panko_ingest.amqp.channel_limit import ChannelLimit
from tests.unit.clock import Clock

TOO_MANY = NotAllowed(
    "number of channels opened for user 'nova' has reached the maximum allowed user limit of (3)"
)


def until_it_is_tried(limit: ChannelLimit, clock: Clock) -> float:
    """Let time pass until there may be a fourth channel; return how much it was."""
    began = clock.now
    while True:
        try:
            limit.check(3)
        except ChannelError:
            clock.advance(0.5)
        else:
            return clock.now - began


def test_a_connection_has_no_more_channels_than_the_broker_closed_the_one_before_it_over() -> None:
    limit = ChannelLimit(Clock())
    limit.closed(3, TOO_MANY)
    limit.check(2)
    with pytest.raises(ChannelError, match="maximum allowed user limit"):
        limit.check(3)


def test_a_limit_is_tried_again_within_seconds_at_first_and_hardly_ever_where_it_stays() -> None:
    clock = Clock()
    began = clock.now
    limit = ChannelLimit(clock)
    tries = []
    while clock.now < began + 7200:
        limit.closed(3, TOO_MANY)
        until_it_is_tried(limit, clock)
        tries.append(clock.now - began)
    assert tries[0] <= 6
    assert len(tries) < 16


def test_a_limit_that_is_gone_is_forgotten_with_the_first_channel_beyond_it() -> None:
    limit = ChannelLimit(Clock())
    limit.closed(3, TOO_MANY)
    limit.opened(4)
    limit.check(4)


def test_room_that_other_workers_make_and_take_again_costs_ever_fewer_connections() -> None:
    clock = Clock()
    limit = ChannelLimit(clock)
    pauses = []
    for _ in range(10):
        limit.closed(3, TOO_MANY)
        pauses.append(until_it_is_tried(limit, clock))
        limit.opened(4)
    assert pauses[-1] > 600
    clock.advance(10_000)
    limit.closed(3, TOO_MANY)
    assert until_it_is_tried(limit, clock) <= 6


def test_what_else_closes_a_connection_is_no_limit() -> None:
    limit = ChannelLimit(Clock())
    limit.closed(3, NotAllowed("access to vhost refused"))
    limit.check(3)
