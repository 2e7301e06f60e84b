"""Connecting once, to whichever broker of a bus lets us in: what commands and probes do, and no consumer."""

from collections.abc import Callable
from typing import TypeVar

from panko_ingest.amqp.link import LINK_ERRORS, words
from panko_ingest.amqp.urls import Broker, Bus
from panko_ingest.errors import BrokerError

T = TypeVar("T")


def reach_one(broker: Broker, visit: Callable[[Broker], T]) -> T:
    """Return what ``visit`` returns, which connects to a broker.

    :raises BrokerError: the broker does not let us in, or the connection is lost; the text names it and says
        why.
    """
    try:
        return visit(broker)
    except LINK_ERRORS as error:
        why = broker.tls and broker.tls.explain(broker.host, broker.port, error)
        raise BrokerError(f"{broker}: {why or words(error)}") from error


def reach_any(bus: Bus, visit: Callable[[Broker], T]) -> T:
    """Return what ``visit`` returns for the first broker of a bus, in random order, that lets us in.

    :raises BrokerError: none does; the text says of each why.
    """
    reasons = []
    for broker in bus.shuffled():
        try:
            return reach_one(broker, visit)
        except BrokerError as error:
            reasons.append(str(error))
    raise BrokerError("; ".join(reasons))
