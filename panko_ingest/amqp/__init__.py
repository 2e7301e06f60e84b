"""The message bus: the only part that knows kombu."""

from panko_ingest.amqp.consumer import AmqpConsumer
from panko_ingest.amqp.inspection import QueueState, inspect, queue_states, reach
from panko_ingest.amqp.topology import Topology
from panko_ingest.amqp.urls import Bus, TlsSettings, parse

__all__ = [
    "AmqpConsumer",
    "Bus",
    "QueueState",
    "TlsSettings",
    "Topology",
    "inspect",
    "parse",
    "queue_states",
    "reach",
]
