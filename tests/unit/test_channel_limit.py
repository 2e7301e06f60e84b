"""What connections find out about how many channels a broker lets them have."""

import pytest
from amqp.exceptions import ChannelError, NotAllowed

from panko_ingest.amqp.channel_limit import ChannelLimit
from tests.unit.clock import Clock

TOO_MANY = NotAllowed(
    "number of channels opened for user 'nova' has reached the maximum allowed user limit of (3)"
)


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
        while True:
            clock.advance(0.5)
            try:
                limit.check(3)
            except ChannelError:
                continue
            break
        tries.append(clock.now - began)
    assert tries[0] <= 6
    assert len(tries) < 16


def test_a_limit_that_is_gone_is_forgotten_with_the_first_channel_beyond_it() -> None:
    limit = ChannelLimit(Clock())
    limit.closed(3, TOO_MANY)
    limit.opened(4)
    limit.check(4)


def test_what_else_closes_a_connection_is_no_limit() -> None:
    limit = ChannelLimit(Clock())
    limit.closed(3, NotAllowed("access to vhost refused"))
    limit.check(3)
