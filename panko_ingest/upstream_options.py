"""Every option of a stock ceilometer.conf and panko.conf, and what became of it here. Plain data.

The names are those of Ceilometer 16 to 27 and Panko 10, which include what they get from the
libraries of OpenStack. docs/options-from-ceilometer.md is made from this, and `serve` tells by it
what it does not read.
"""

from dataclasses import dataclass
from enum import StrEnum


class Fate(StrEnum):
    """What became of an option."""

    SAME = "same"
    RENAMED = "renamed"
    IGNORED = "ignored"


@dataclass(frozen=True, slots=True)
class UpstreamOption:
    """One option, or with the name ``*`` every option of its group.

    ``note`` is for a renamed option where it is now, as ``[group] name`` and more; for an ignored
    one why, or what to use instead.
    """

    file: str
    group: str
    name: str
    fate: Fate
    note: str = ""


CEILOMETER, PANKO, BOTH = "ceilometer.conf", "panko.conf", "both"
EVENT_PIPELINE = "event_pipeline.yaml"


def _same(file: str, group: str, *names: str) -> list[UpstreamOption]:
    return [UpstreamOption(file, group, name, Fate.SAME) for name in names]


def _renamed(file: str, group: str, name: str, note: str) -> UpstreamOption:
    return UpstreamOption(file, group, name, Fate.RENAMED, note)


def _ignored(file: str, group: str, note: str, *names: str) -> list[UpstreamOption]:
    return [UpstreamOption(file, group, name, Fate.IGNORED, note) for name in names]


_POLLING = "for polling, which this daemon does not do"
_METERS = "for meters; only events are made here"
_NO_API = "for a REST API, which this project does not have"
_PUBLISHERS = "for those who publish"
_RPC = "for RPC; only notifications are read here"
_KOMBU = "the daemon keeps its connections up by itself"
_SQLALCHEMY = "the daemon sets it by itself where it matters"

UPSTREAM_OPTIONS: tuple[UpstreamOption, ...] = (
    # Ceilometer's own: events
    *_same(CEILOMETER, "event", "definitions_cfg_file", "drop_unmatched_notifications", "store_raw"),
    *_same(
        CEILOMETER,
        "notification",
        "messaging_urls",
        "workers",
        "batch_size",
        "batch_timeout",
        "notification_control_exchanges",
    ),
    *_ignored(
        CEILOMETER,
        "notification",
        "a message is never acknowledged before its event is committed",
        "ack_on_event_error",
    ),
    *_ignored(CEILOMETER, "notification", "events are the only pipeline", "pipelines"),
    _renamed(
        CEILOMETER, "DEFAULT", "notification_workers", "[notification] workers; the old name is still read"
    ),
    _renamed(
        CEILOMETER,
        "DEFAULT",
        "http_control_exchanges",
        "[notification] notification_control_exchanges; the old name is still read",
    ),
    _renamed(
        CEILOMETER,
        "DEFAULT",
        "event_pipeline_cfg_file",
        "[event] types (which events) and [database] connection (where to); the file is not read",
    ),
    # Ceilometer's own: all the rest
    *_ignored(
        CEILOMETER, "DEFAULT", _METERS, "pipeline_cfg_file", "sample_source", "reserved_metadata_namespace",
        "reserved_metadata_length", "reserved_metadata_keys",
    ),
    *_ignored(
        CEILOMETER, "DEFAULT", _POLLING, "polling_namespaces", "hypervisor_inspector", "libvirt_type",
        "libvirt_uri", "reseller_prefix", "rootwrap_config", "http_timeout", "cfg_file",
        "heartbeat_socket_dir", "partitioning_group_prefix", "batch_polled_samples",
        "pollsters_definitions_dirs", "tenant_name_discovery", "identity_name_discovery",
        "enable_notifications", "enable_prometheus_exporter", "prometheus_listen_addresses",
        "ignore_disabled_projects", "prometheus_tls_enable", "prometheus_tls_certfile",
        "prometheus_tls_keyfile", "threads_to_process_pollsters",
    ),
    *_ignored(CEILOMETER, "DEFAULT", "the host's name is not configured", "host"),
    *_ignored(
        CEILOMETER,
        "DEFAULT",
        "one thread of each worker writes whole batches: see [notification] workers and batch_size",
        "max_parallel_requests",
    ),
    *(
        option
        for group in (
            "compute", "coordination", "hardware", "ipmi", "polling", "rgw_admin_credentials", "rgw_client",
            "service_credentials", "service_types", "vmware", "xenapi",
        )
        for option in _ignored(CEILOMETER, group, _POLLING, "*")
    ),
    *(
        option
        for group in ("meter", "monasca", "publisher", "publisher_notifier")
        for option in _ignored(CEILOMETER, group, _METERS, "*")
    ),
    # Panko's own
    *_same(PANKO, "database", "event_connection", "event_time_to_live", "events_delete_batch_size"),
    *_ignored(
        PANKO, "database", "there is no driver for Elasticsearch", "es_ssl_enabled", "es_index_name"
    ),
    _renamed(PANKO, "storage", "max_retries", "[database] max_retries; the old group is still read"),
    _renamed(PANKO, "storage", "retry_interval", "[database] retry_interval; the old group is still read"),
    *_ignored(PANKO, "DEFAULT", _NO_API, "api_paste_config"),
    *_ignored(PANKO, "api", _NO_API, "*"),
    # oslo.db
    *_same(
        PANKO,
        "database",
        "connection",
        "connection_recycle_time",
        "max_pool_size",
        "max_overflow",
        "pool_timeout",
        "max_retries",
        "retry_interval",
    ),
    _renamed(
        PANKO, "database", "idle_timeout", "[database] connection_recycle_time; the old name is still read"
    ),
    _renamed(
        PANKO,
        "database",
        "connection_parameters",
        "[database] connection: append them to the URL, after a ?",
    ),
    *_ignored(
        PANKO, "database", "writing needs the one database of [database] connection", "slave_connection",
        "asyncio_connection", "asyncio_slave_connection", "synchronous_reader",
    ),
    *_ignored(
        PANKO, "database", "sessions are always strict: what does not fit is refused, never changed",
        "mysql_sql_mode",
    ),
    *_ignored(PANKO, "database", "SQLite always waits for the disk", "sqlite_synchronous"),
    *_ignored(
        PANKO, "database", _SQLALCHEMY, "backend", "mysql_enable_ndb", "mysql_wsrep_sync_wait",
        "min_pool_size", "connection_debug", "connection_trace", "use_tpool",
    ),
    *_ignored(
        PANKO, "database", "there is one way of trying again: see [database] max_retries and retry_interval",
        "use_db_reconnect", "db_retry_interval", "db_inc_retry_interval", "db_max_retry_interval",
        "db_max_retries",
    ),
    # oslo.messaging
    *_same(CEILOMETER, "DEFAULT", "transport_url"),
    *_same(CEILOMETER, "oslo_messaging_notifications", "transport_url", "topics"),
    *_ignored(CEILOMETER, "oslo_messaging_notifications", _PUBLISHERS, "driver", "retry"),
    *_ignored(
        CEILOMETER, "DEFAULT", _RPC, "executor_thread_pool_size", "rpc_response_timeout", "control_exchange",
        "rpc_ping_enabled", "rpc_conn_pool_size", "conn_pool_min_size", "conn_pool_ttl", "rpc_backend",
    ),
    *_same(
        CEILOMETER,
        "oslo_messaging_rabbit",
        "ssl",
        "ssl_ca_file",
        "ssl_cert_file",
        "ssl_key_file",
        "rabbit_login_method",
        "heartbeat_timeout_threshold",
    ),
    _renamed(
        CEILOMETER, "oslo_messaging_rabbit", "rabbit_qos_prefetch_count", "[notification] prefetch_count"
    ),
    _renamed(
        CEILOMETER,
        "oslo_messaging_rabbit",
        "rabbit_quorum_queue",
        "[notification] queue_type = quorum, for the queue of [notification] pool",
    ),
    *_ignored(
        CEILOMETER, "oslo_messaging_rabbit",
        "the queue of [notification] pool is always durable; the shared queues are what the publishers "
        "make them",
        "amqp_durable_queues", "amqp_auto_delete", "rabbit_ha_queues", "rabbit_transient_quorum_queue",
        "rabbit_transient_queues_ttl",
    ),
    *_ignored(
        CEILOMETER, "oslo_messaging_rabbit", "set a policy for the queue at the broker",
        "rabbit_quorum_delivery_limit", "rabbit_quorum_max_memory_length", "rabbit_quorum_max_memory_bytes",
    ),
    *_ignored(
        CEILOMETER, "oslo_messaging_rabbit", "TLS is negotiated and the broker's certificate is verified, "
        "always", "ssl_version", "ssl_enforce_fips_mode", "ssl_enforce_hostname_verification",
    ),
    *_ignored(
        CEILOMETER, "oslo_messaging_rabbit", _KOMBU, "kombu_reconnect_delay", "kombu_reconnect_splay",
        "kombu_missing_consumer_retry_timeout", "kombu_failover_strategy", "rabbit_retry_interval",
        "rabbit_retry_backoff", "rabbit_interval_max", "heartbeat_rate", "heartbeat_in_pthread",
        "enable_cancel_on_failover",
    ),
    *_ignored(CEILOMETER, "oslo_messaging_rabbit", _PUBLISHERS, "kombu_compression"),
    *_ignored(
        CEILOMETER, "oslo_messaging_rabbit", _RPC, "rpc_conn_pool_size", "conn_pool_min_size",
        "conn_pool_ttl", "direct_mandatory_flag", "use_queue_manager", "hostname", "processname",
        "rabbit_stream_fanout",
    ),
    *(
        option
        for group in ("oslo_messaging_kafka", "oslo_messaging_amqp")
        for option in _ignored(CEILOMETER, group, "only RabbitMQ and kombu's transports are read", "*")
    ),
    # oslo.log, and cotyledon and oslo.service, which share a name
    *_same(
        BOTH, "DEFAULT", "debug", "log_config_append", "log_date_format", "log_file", "log_dir",
        "use_syslog", "use_journal", "syslog_log_facility", "use_json", "use_stderr", "log_color",
        "log_rotate_interval", "log_rotate_interval_type", "max_logfile_count", "max_logfile_size_mb",
        "log_rotation_type", "logging_context_format_string", "logging_default_format_string",
        "logging_debug_format_suffix", "logging_exception_prefix", "logging_user_identity_format",
        "default_log_levels", "publish_errors", "instance_format", "instance_uuid_format",
        "rate_limit_interval", "rate_limit_burst", "rate_limit_except_level",
    ),
    *_ignored(BOTH, "DEFAULT", "for developers", "fatal_deprecations"),
    *_same(CEILOMETER, "DEFAULT", "graceful_shutdown_timeout"),
    *_ignored(
        CEILOMETER, "DEFAULT", "the daemon has no such thing", "log_options", "backdoor_port",
        "backdoor_socket",
    ),
    *_ignored(CEILOMETER, "oslo_concurrency", "no lock files are used", "*"),
    *_ignored(CEILOMETER, "cache", "nothing is cached outside of the process", "*"),
    *_same(BOTH, "oslo_reports", "log_dir", "file_event_handler", "file_event_handler_interval"),
    # Panko's API
    *(
        option
        for group in (
            "keystone_authtoken", "cors", "oslo_middleware", "oslo_policy", "healthcheck", "profiler",
        )
        for option in _ignored(PANKO, group, _NO_API, "*")
    ),
    # event_pipeline.yaml
    _renamed(EVENT_PIPELINE, "sources", "events", "[event] types: the same globs and !, on one line"),
    *_ignored(EVENT_PIPELINE, "sources", "there is one pipeline: bus to database", "name", "sinks"),
    *_ignored(EVENT_PIPELINE, "sinks", "there is one pipeline: bus to database", "name"),
    _renamed(EVENT_PIPELINE, "sinks", "publishers", "[database] connection, for panko://; no other is there"),
)  # fmt: skip
