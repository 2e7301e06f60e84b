"""One queue of a session, beside a link that shows at each moment which consumers the queue has."""

import itertools
import tracemalloc
from collections.abc import Callable

import pytest
from amqp.exceptions import AccessRefused, ChannelError, ConsumerCancelled, NotFound, PreconditionFailed

from panko_ingest.amqp.consumer_need import ConsumerNeed
from panko_ingest.amqp.costly_queues import CostlyQueues
from panko_ingest.amqp.queue_channel import QueueChannel
from panko_ingest.amqp.refusals import Refusals
from panko_ingest.amqp.topology import Topology, TopologyKeeper
from panko_ingest.backoff import Backoff
from panko_ingest.delivery import Delivery
from tests.unit.clock import Clock

QUEUE = "notifications.info"


class Channel:
    def __init__(self, link: "Link") -> None:
        self.refusal: Exception | None = None
        self.cancel_fails = False
        self.consumers: dict[str, Callable[[Delivery], None]] = {}
        self.number = 0
        self.tags = itertools.count(1)
        self.acknowledged: list[int] = []
        self._link = link

    def queue_declare(self, queue: str, **_: object) -> None:
        if not self._link.has_queue:
            self.close()
            raise NotFound(f"NOT_FOUND - no queue '{queue}' in vhost '/'")

    def basic_qos(self, prefetch_size: int, prefetch_count: int, a_global: bool) -> None:
        pass

    def basic_cancel(self, consumer_tag: str) -> None:
        if self.cancel_fails:
            self.close()
            self.refusal = PreconditionFailed("delivery acknowledgement on channel 1 timed out")
            raise self.refusal
        del self.consumers[consumer_tag]
        self._link.count()

    def basic_ack(self, delivery_tag: int, multiple: bool = False) -> None:
        self.acknowledged += range(1, delivery_tag + 1) if multiple else [delivery_tag]

    def close(self) -> None:
        self.consumers.clear()
        self._link.channels = [channel for channel in self._link.channels if channel is not self]
        self._link.count()

    def deliver(self, *, returns: int = 0, body: bytes = b"{}", header: str = "x-delivery-count") -> Delivery:
        """Send a message to the consumer that came last."""
        headers = {header: returns} if returns else {}
        delivery = Delivery(
            body,
            headers=headers,
            queue=QUEUE,
            redelivered=bool(returns),
            tag=next(self.tags),
            channel=self.number,
        )
        list(self.consumers.values())[-1](delivery)
        return delivery


class Link:
    """A link whose broker tells nobody whether the queue deletes itself."""

    is_virtual = False

    def __init__(self) -> None:
        self.channels: list[Channel] = []
        self.fewest = 0
        self.most_channels = 99
        self.lets_ask_for_time = True
        self.has_queue = True
        self.may_read = True
        self.asked_for: float | None = None

    def channel(self, *, spare: bool = False) -> Channel:
        del spare
        if len(self.channels) >= self.most_channels:
            raise ChannelError("the broker allows no more channels")
        self.channels.append(Channel(self))
        return self.channels[-1]

    def consume(
        self,
        channel: Channel,
        queue: str,
        tag: str,
        number: int,
        receive: Callable[[Delivery], None],
        timeout: float | None = None,
    ) -> None:
        if not self.may_read:
            channel.close()
            raise AccessRefused(f"ACCESS_REFUSED - read access to queue '{queue}' refused")
        if timeout is not None and not self.lets_ask_for_time:
            channel.close()
            raise PreconditionFailed(f"invalid arg 'x-consumer-timeout' for queue '{queue}'")
        channel.number = number
        channel.consumers[tag] = receive
        self.asked_for = timeout

    def count(self) -> None:
        self.fewest = min(self.fewest, self.consumers)

    @property
    def consumers(self) -> int:
        return sum(len(channel.consumers) for channel in self.channels)


class Reading:
    """The queue, read with a prefetch of 16."""

    def __init__(self, declare: str = "never", *, keeps: bool = False) -> None:
        self.link = Link()
        self.clock = Clock()
        self.consumer_need = ConsumerNeed()
        self.costly = CostlyQueues((QUEUE,), self.clock)
        self.refusals: list[str | None] = []
        keeper = TopologyKeeper(Topology((QUEUE,), declare=declare), self.link)  # type: ignore[arg-type]
        self.queue = QueueChannel(
            QUEUE,
            self.link,  # type: ignore[arg-type]
            keeper,
            Backoff(1, 10, self.clock),
            Backoff(1, 30, self.clock),
            self.costly,
            self.consumer_need,
            keeps=keeps,
            numbers=itertools.count(1),
            receive=lambda _delivery: None,
            beat=lambda: None,
            tell_absence=lambda _queue, _absent: None,
            tell=Refusals(lambda _queue, reason: self.refusals.append(reason)).note,
            clock=self.clock,
            where="bus",
            timeout=1800.0,
        )
        self.queue.open()
        self.queue.follow(16)
        self.link.fewest = self.link.consumers

    def try_for(self, seconds: int) -> None:
        for _ in range(seconds):
            self.queue.open()
            self.queue.follow(16)
            self.clock.advance(1)

    def delete(self) -> None:
        self.link.has_queue = False
        self.cancel()

    def cancel(self) -> None:
        for channel in self.link.channels:
            if channel.consumers:
                channel.refusal = ConsumerCancelled("the broker ended the consumer", (60, 30))

    def renew(self) -> None:
        self.clock.advance(100)
        self.queue.renew()

    def renew_and_open(self) -> None:
        self.renew()
        self.queue.open()
        self.queue.follow(0)


@pytest.fixture
def reading() -> Reading:
    return Reading()


@pytest.mark.parametrize("prepare", [Reading.renew, Reading.renew_and_open])
def test_it_is_not_without_a_consumer_when_its_messages_are_given_back_right_after_a_renewal(
    reading: Reading, prepare: Callable[[Reading], None]
) -> None:
    prepare(reading)
    assert reading.queue.clings
    reading.queue.give_back()
    reading.queue.open()
    reading.queue.follow(16)
    assert reading.link.fewest == 1
    assert (reading.link.consumers, len(reading.link.channels)) == (1, 1)


def test_it_is_read_on_where_there_is_no_channel_to_renew_it_over(reading: Reading) -> None:
    reading.link.most_channels = 1
    reading.renew_and_open()
    reading.queue.follow(16)
    assert reading.link.fewest == 1
    assert not any(reading.refusals)
    reading.link.most_channels = 2
    (before,) = reading.link.channels
    reading.renew_and_open()
    assert reading.link.fewest == 1
    assert before not in reading.link.channels


def test_messages_are_given_back_where_the_broker_takes_no_consumer_that_asks_for_time(
    reading: Reading,
) -> None:
    reading.link.lets_ask_for_time = False
    reading.queue.give_back()
    reading.queue.follow(16)
    assert reading.link.fewest == 1
    assert (reading.link.consumers, len(reading.link.channels)) == (1, 1)


def test_a_channel_that_the_broker_closes_during_a_renewal_leaves_none_that_nobody_owns(
    reading: Reading,
) -> None:
    reading.link.channels[0].cancel_fails = True
    reading.renew_and_open()
    reading.queue.follow(16)
    assert reading.queue.is_open
    assert (reading.link.consumers, len(reading.link.channels)) == (1, 1)


def test_a_channel_that_the_broker_closes_as_it_is_given_up_costs_no_other(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TopologyKeeper, "deletes_itself", lambda *_: False)
    reading.link.channels[0].cancel_fails = True
    reading.renew()
    reading.queue.follow(0)
    assert reading.refusals[-1]
    reading.clock.advance(2)
    assert reading.queue.open()


@pytest.mark.parametrize("counts", [(1, 1, 1), (2, 1)])
def test_a_count_that_a_publisher_wrote_makes_it_no_quorum_queue(
    reading: Reading, counts: tuple[int, ...]
) -> None:
    for count in counts:
        reading.queue.give_back()
        reading.link.channels[0].deliver(returns=count)
        assert reading.queue.clings


def test_counts_of_several_messages_make_it_no_quorum_queue(reading: Reading) -> None:
    for count in (1, 2, 3):
        reading.queue.give_back()
        reading.link.channels[0].deliver(returns=count, body=b"%d" % count)
        assert reading.queue.clings


@pytest.mark.parametrize("several", [2, 20])
def test_counts_of_several_messages_that_are_held_in_turn_are_those_of_a_quorum_queue(
    reading: Reading, several: int
) -> None:
    held = [(count, b"%d" % number) for count in (1, 2) for number in range(several)]
    for count, message in held[: several + 1]:
        assert reading.queue.clings
        reading.queue.give_back()
        reading.link.channels[0].deliver(returns=count, body=message)
    assert not reading.queue.clings


def test_counts_that_a_publisher_wrote_to_messages_that_are_held_in_turn_make_it_no_quorum_queue(
    reading: Reading,
) -> None:
    for count in [1, 2, 1, 2, 1, 2]:
        reading.queue.give_back()
        reading.link.channels[0].deliver(returns=count, body=b"%d" % count)
        assert reading.queue.clings


def test_what_is_known_of_messages_that_were_held_is_bounded(reading: Reading) -> None:
    tracemalloc.start()
    try:
        for number in range(20_000):
            held = Delivery(b"%d" % number, headers={"x-delivery-count": 1}, redelivered=True)
            reading.consumer_need.note(held)
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_count_that_grows_with_each_return_is_that_of_a_quorum_queue(reading: Reading) -> None:
    for count in (1, 2):
        assert reading.queue.clings
        reading.queue.give_back()
        reading.link.channels[0].deliver(returns=count)
    assert not reading.queue.clings


def test_what_is_in_hand_of_a_queue_that_is_only_held_is_acknowledged_at_a_stop(reading: Reading) -> None:
    reading.queue.follow(0)
    (channel,) = reading.link.channels
    reading.queue.owe([channel.deliver()])
    assert reading.queue.follow(0) == 0  # another message would come
    reading.queue.stop()
    assert reading.queue.follow(0) == 1
    assert channel.acknowledged == [1]
    assert reading.link.consumers == 0


def test_what_is_in_hand_right_after_a_renewal_is_acknowledged_at_a_stop(reading: Reading) -> None:
    reading.renew()
    (channel,) = reading.link.channels
    delivery = channel.deliver()
    reading.queue.stop()
    reading.queue.owe([delivery])
    assert reading.queue.follow(0) == 1


def test_a_queue_that_is_refused_after_it_was_absent_is_told_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    reading = Reading("passive")
    reading.delete()
    reading.try_for(30)
    caplog.clear()
    reading.link.has_queue, reading.link.may_read = True, False
    reading.try_for(60)
    assert caplog.text.count("is not read: AccessRefused") == 1
    assert "ACCESS_REFUSED" in str(reading.refusals[-1])
    reading.link.may_read = True
    reading.try_for(30)
    assert reading.refusals[-1] is None


def test_a_queue_that_was_deleted_is_told_no_longer_than_until_it_is_known_to_be_absent() -> None:
    reading = Reading("passive")
    reading.delete()
    reading.queue.follow(16)
    assert reading.refusals[-1]
    reading.try_for(5)
    assert reading.queue.absent
    assert reading.refusals[-1] is None


@pytest.fixture
def keeping(monkeypatch: pytest.MonkeyPatch) -> Reading:
    """A queue that does not delete itself, and may expire by a policy, which no broker tells."""
    monkeypatch.setattr(TopologyKeeper, "deletes_itself", lambda *_: False)
    return Reading(keeps=True)


def test_it_has_a_consumer_while_the_store_is_away_also_where_nothing_may_be_read(keeping: Reading) -> None:
    keeping.queue.follow(0, hold=True)
    assert keeping.link.consumers == 1
    keeping.queue.follow(0, hold=False)
    assert keeping.link.consumers == 0
    keeping.queue.follow(0, hold=True)
    assert keeping.link.consumers == 1
    keeping.queue.follow(16)
    assert (keeping.link.consumers, len(keeping.link.channels)) == (1, 1)


def test_it_has_a_consumer_again_after_its_messages_were_given_back(keeping: Reading) -> None:
    keeping.queue.give_back()
    assert keeping.queue.open(reads=False)
    keeping.queue.follow(0, hold=True)
    assert (keeping.link.consumers, len(keeping.link.channels)) == (1, 1)


def test_what_is_held_is_acknowledged_as_soon_as_the_queue_is_read_again(keeping: Reading) -> None:
    keeping.queue.follow(0, hold=True)
    (channel,) = keeping.link.channels
    keeping.queue.owe([channel.deliver()])
    assert keeping.queue.follow(0, hold=True) == 0  # another message would come
    keeping.queue.follow(16)
    keeping.queue.follow(16)
    assert channel.acknowledged == [1]


def be_made_anew(reading: Reading) -> None:
    """Have the queue deleted and at once made again, and read it."""
    reading.cancel()
    reading.queue.follow(0)
    reading.try_for(3)


def test_a_queue_that_is_made_anew_as_another_kind_is_asked_for_time(reading: Reading) -> None:
    reading.link.lets_ask_for_time = False
    be_made_anew(reading)
    assert reading.link.asked_for is None
    reading.link.lets_ask_for_time = True
    be_made_anew(reading)
    assert reading.link.asked_for == 1800.0


def test_a_queue_that_is_made_anew_has_a_consumer_though_the_one_before_counted_returns(
    keeping: Reading,
) -> None:
    hold_again(keeping, 3)
    assert not keeping.queue.keeps
    keeping.try_for(1)
    be_made_anew(keeping)
    keeping.queue.follow(0, hold=True)
    assert keeping.link.consumers == 1


def hold_again(reading: Reading, returns: int, header: str = "x-delivery-count") -> None:
    reading.queue.give_back()
    reading.queue.open(reads=False)
    (channel,) = (one for one in reading.link.channels if one.consumers)
    channel.deliver(returns=returns, header=header)
    reading.queue.follow(0, hold=True)


def test_a_consumer_that_is_ended_again_and_again_is_told_once_a_minute(
    reading: Reading, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(120):
        reading.cancel()
        reading.try_for(1)
    assert 2 <= caplog.text.count("is not read: ConsumerCancelled") <= 3
    assert [reason is None for reason in reading.refusals][:4] == [False, True, False, True]


@pytest.mark.parametrize("counts", [(1, 2), (3,)])
def test_a_queue_that_counts_returns_is_left_alone_before_it_wears_a_message_out(
    keeping: Reading, counts: tuple[int, ...]
) -> None:
    for count in counts:
        assert keeping.queue.keeps
        hold_again(keeping, count)
    assert not keeping.queue.keeps
    assert keeping.link.consumers == 0


def test_returns_that_count_towards_no_limit_cost_a_queue_nothing(keeping: Reading) -> None:
    for count in (1, 2, 3, 4):
        hold_again(keeping, count, "x-acquired-count")
        assert keeping.link.consumers == 1


def test_a_queue_that_is_known_to_expire_is_never_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TopologyKeeper, "_ask_for_difference", lambda *_: "x-expires")
    keeping = Reading("passive", keeps=True)
    for count in (1, 2, 3, 4):
        hold_again(keeping, count)
        assert keeping.link.consumers == 1


def test_other_workers_have_no_consumer_while_the_store_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TopologyKeeper, "deletes_itself", lambda *_: False)
    reading = Reading()
    reading.queue.follow(0, hold=True)
    assert reading.link.consumers == 0
    reading.queue.give_back()
    assert not reading.queue.open(reads=False)


def test_a_queue_that_hung_and_was_deleted_is_costly_no_more() -> None:
    reading = Reading("passive")
    reading.costly.lost_over(QUEUE).failed()
    reading.delete()
    reading.try_for(600)
    assert reading.queue.absent
    assert not reading.queue.is_costly
