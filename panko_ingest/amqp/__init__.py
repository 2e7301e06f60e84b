"""The message bus: the only part that knows kombu."""

from panko_ingest.amqp.consumer import AmqpConsumer
from panko_ingest.amqp.inspection import (
    inspect,
    our_consumers,
    queue_answers,
    queue_states,
    reach,
    refused,
)
from panko_ingest.amqp.management import Management
from panko_ingest.amqp.queue_state import QueueState
from panko_ingest.amqp.tap import Tap
from panko_ingest.amqp.tls import TlsSettings
from panko_ingest.amqp.topology import Topology
from panko_ingest.amqp.urls import Bus, parse

__all__ = [
    "AmqpConsumer",
    "Bus",
    "Management",
    "QueueState",
    "Tap",
    "TlsSettings",
    "Topology",
    "inspect",
    "our_consumers",
    "parse",
    "queue_answers",
    "queue_states",
    "reach",
    "refused",
]
