"""Every metric of the project, declared once with its help text.

``docs/metrics.md`` is made from this list. Counters and histograms add up over the processes of the
daemon; gauges are those of living processes.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_LAG_SECONDS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0, 1800.0, 3600.0, 21600.0, 86400.0)
_BATCH_SIZES = (1, 10, 50, 100, 250, 500, 1000, 2000, 5000)


class Metrics:
    """The metrics of one process.

    :param registry: where they are collected; a new one by default, as tests want it.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry = registry or CollectorRegistry()
        self.received = Counter(
            "panko_ingest_messages_received",
            "Messages taken from the broker, redelivered ones included.",
            registry=registry,
        )
        self.redelivered = Counter(
            "panko_ingest_messages_redelivered",
            "Messages that the broker had delivered before.",
            registry=registry,
        )
        self.recorded = Counter(
            "panko_ingest_events_recorded", "Events committed to the database.", registry=registry
        )
        self.duplicates = Counter(
            "panko_ingest_events_duplicate",
            "Events that were stored already, by their message_id.",
            registry=registry,
        )
        self.dead_letters = Counter(
            "panko_ingest_dead_letters",
            "Messages that can never become an event, by the stage that found out.",
            ["stage"],
            registry=registry,
        )
        self.dropped = Counter(
            "panko_ingest_messages_dropped",
            "Messages that the configuration says not to store.",
            registry=registry,
        )
        self.salvaged = Counter(
            "panko_ingest_traits_salvaged",
            "Traits trimmed, changed or dropped so that their event could be stored.",
            ["event_type", "trait"],
            registry=registry,
        )
        self.batch_events = Histogram(
            "panko_ingest_batch_messages",
            "Messages settled by one commit.",
            buckets=_BATCH_SIZES,
            registry=registry,
        )
        self.record_seconds = Histogram(
            "panko_ingest_record_seconds",
            "Time from handing a batch to the database to its commit, retries included.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.lag_seconds = Histogram(
            "panko_ingest_lag_seconds",
            "Age of the oldest event of a batch when it is committed, by its generated time.",
            buckets=_LAG_SECONDS,
            registry=registry,
        )
        self.lost_connections = Counter(
            "panko_ingest_broker_connections_lost",
            "Connections to a broker that ended without our wish.",
            ["bus"],
            registry=registry,
        )
        self.store_retries = Counter(
            "panko_ingest_store_retries",
            "Tries to record a batch that found the store unavailable.",
            registry=registry,
        )
        self.bytes_in_flight = Gauge(
            "panko_ingest_bytes_in_flight",
            "Bytes of message bodies that are not committed yet.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.breaker_open = Gauge(
            "panko_ingest_breaker_open",
            "Workers whose flood breaker is open.",
            registry=registry,
            multiprocess_mode="livesum",
        )
