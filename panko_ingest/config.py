"""Every option of the project, and what is read of several of them at once.

Names, groups and meaning are Ceilometer's and Panko's where they have the option.
"""

import copy
import itertools
import math
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from oslo_config import cfg, types
from oslo_log import _options as log_options, log
from oslo_reports import opts as reports

from panko_ingest import processors, resources
from panko_ingest.errors import ConfigError

PROJECT = "panko-ingest"

FOLDER = Path("/etc") / PROJECT
"""Where the daemon's configuration is."""

CREDENTIALS_FOLDER = ".credentials.d"
"""Ends the name of the folder for options that only root may read; the unit gives the daemon a copy."""

CONTROL_EXCHANGES = [
    # Ceilometer's own list
    "nova", "glance", "neutron", "cinder", "heat", "keystone", "trove", "zaqar", "swift",
    "ceilometer", "magnum", "dns", "ironic", "aodh",
    # and where the services that it leaves out publish
    "openstack", "octavia", "designate", "manila", "watcher", "masakari",
]  # fmt: skip

_QUIET_LIBRARIES = ["alembic=WARN", "cotyledon=WARN"]

_MOST_DEFAULT_WORKERS = 16

SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
"""Of a unit of time."""

MAX_TIMEOUT = 86400
"""Seconds: what MariaDB, PostgreSQL and the system can all count, and more than anybody waits for."""


class Duration(types.ConfigType):
    """Seconds, or a number with a unit: ``90d``, ``36h``, ``15m``, ``30s``, ``2w``."""

    tells_no_value = True

    def __init__(self, minimum: float | None = None, maximum: float | None = None) -> None:
        super().__init__(type_name="duration")
        self.minimum = minimum
        self.maximum = maximum

    def __call__(self, value: Any) -> float:
        """Return seconds.

        :raises ValueError: not a duration, shorter than the minimum, or longer than the maximum.
        """
        match = re.fullmatch(r"\s*(-?\d+(?:\.\d+)?)\s*([smhdw]?)\s*", str(value))
        if match is None:
            raise ValueError("is no duration: write seconds, or a number and s, m, h, d or w")
        seconds = float(match[1]) * SECONDS[match[2]]
        if self.minimum is not None and seconds < self.minimum:
            raise ValueError(f"is shorter than {self.minimum:g} s")
        if self.maximum is not None and seconds > self.maximum:
            raise ValueError(f"is longer than {self.maximum:.0f} s")
        return seconds

    def __repr__(self) -> str:
        return "Duration"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Duration) and (self.minimum, self.maximum) == (other.minimum, other.maximum)

    __hash__ = None  # type: ignore[assignment]

    def _formatter(self, value: Any) -> str:
        return str(value)


class Number(types.Float):
    """A number in a range, in which NaN never is."""

    def __call__(self, value: Any) -> float:
        """Return the number.

        :raises ValueError: it is none, or out of range.
        """
        super().__call__(value)
        number = float(value)
        if math.isnan(number):
            raise ValueError("is no number")
        return number


class Names(types.List):
    """Names with commas between them, each in quotes or not, as lists in YAML have them."""

    tells_no_value = True

    def __call__(self, value: Any) -> list[str]:
        """Return the names.

        :raises ValueError: what stands between two commas can't be a name.
        """
        names = [str(name).strip("\"' ") for name in super().__call__(value)]
        if not all(map(is_name, names)):
            raise ValueError("is no list of names: write them with commas between them, and nothing else")
        return names


_NO_NAME = re.compile(r"[\"';\s]")


def is_name(text: str) -> bool:
    """Tell whether a text can be a name, or a glob, of a list of them."""
    # A glob may hold brackets. Around all of a name, or in a part of one, they are those of a list in YAML.
    is_of_a_list = text.count("[") != text.count("]") or (text[:1] == "[" and text.find("]") == len(text) - 1)
    return bool(text) and not is_of_a_list and not _NO_NAME.search(text)


def split_at_commas(values: Iterable[str]) -> list[str]:
    """Return the names that are given one a line, or several with commas between them."""
    return [name for value in values for part in value.split(",") if (name := part.strip("\"' "))]


def _old(name: str, group: str = "DEFAULT") -> cfg.DeprecatedOpt:
    return cfg.DeprecatedOpt(name, group=group)


def _old_sql(name: str) -> list[cfg.DeprecatedOpt]:
    return [_old(name), _old(name, "database")]


MAX_PREFETCH = 65535
"""Messages that AMQP has numbers for to let a consumer have unacknowledged; twice a batch must fit."""
MAX_HEARTBEAT = 65535
"""Seconds that AMQP has numbers for."""
MAX_CONSUMER_TIMEOUT = (2**32 - 1) // 1000
"""Seconds that RabbitMQ's timers have milliseconds for."""
MAX_NAME = 255
"""Bytes of a queue's, an exchange's or a virtual host's name in AMQP."""

DEFAULT_OPTS = [
    cfg.StrOpt(
        "transport_url",
        secret=True,
        help="The message bus to read from, where [oslo_messaging_notifications] transport_url and "
        "[notification] messaging_urls are not set: rabbit://user:password@host:5672/vhost with "
        "any number of hosts, or a kombu URL.",
    ),
    cfg.IntOpt(
        "graceful_shutdown_timeout",
        default=60,
        min=0,
        max=MAX_TIMEOUT,
        help="Seconds that a worker may take to commit and acknowledge what it holds when it is "
        "told to stop; 0 for any. systemd's TimeoutStopSec must be longer.",
    ),
]

OSLO_MESSAGING_NOTIFICATIONS_OPTS = [
    cfg.StrOpt(
        "transport_url",
        secret=True,
        deprecated_group="DEFAULT",
        deprecated_name="notification_transport_url",
        help="The message bus to read from; read before [DEFAULT] transport_url.",
    ),
    cfg.Opt(
        "topics",
        type=Names(),
        default=["notifications"],
        deprecated_opts=[_old("notification_topics"), _old("topics", "rpc_notifier2")],
        help="Topics of the notifications: the first part of a queue's or routing key's name, "
        "before the priority. Nova's versioned notifications are on versioned_notifications, "
        "Ironic's on ironic_versioned_notifications.",
    ),
]

NOTIFICATION_OPTS = [
    cfg.MultiStrOpt(
        "messaging_urls",
        default=[],
        secret=True,
        help="Message buses to read from, one URL a line; each worker reads all of them. Not set: "
        "the bus of transport_url.",
    ),
    cfg.MultiStrOpt(
        "management_urls",
        default=[],
        secret=True,
        help="RabbitMQ's management interface, one URL for each bus in the order of messaging_urls: "
        "http://user:password@host:15672 or https://. Without user and password, those of the bus. "
        "Only `check` and `status` ask it; the account needs the tag monitoring.",
    ),
    cfg.MultiStrOpt(
        "notification_control_exchanges",
        default=CONTROL_EXCHANGES,
        deprecated_group="DEFAULT",
        deprecated_name="http_control_exchanges",
        help="Exchanges to bind the queue of [notification] pool to, one a line or with commas between "
        "them. Without a pool "
        "nothing is bound: the publishers themselves bind the shared queues.",
    ),
    cfg.Opt(
        "priorities",
        type=Names(),
        default=["info", "error"],
        help="Priorities to read: the last part of a queue's or routing key's name.",
    ),
    cfg.IntOpt(
        "workers",
        default=min(processors.usable(), _MOST_DEFAULT_WORKERS),
        sample_default="<number of processors that may be used, 16 at most>",
        min=1,
        deprecated_group="DEFAULT",
        deprecated_name="notification_workers",
        help="Processes that read from the bus and write to the database. By default as many as the "
        "processors that this process may use, by its affinity and by the quota of its control group, but "
        "no more than 16.",
    ),
    cfg.IntOpt(
        "batch_size",
        default=1000,
        min=1,
        max=MAX_PREFETCH // 2,
        help="Events that are committed together at most.",
    ),
    cfg.Opt(
        "batch_timeout",
        type=Number(min=0.001, max=MAX_TIMEOUT),
        default=1.0,
        help="Seconds after which an incomplete batch is committed at the latest. An idle worker "
        "commits a lone event at once.",
    ),
    cfg.StrOpt(
        "pool",
        help="Name of a queue of our own, bound to every control exchange, so that this daemon "
        "gets its own copy of each notification. Set it as long as anything else, such as "
        "Ceilometer's agent, reads the shared notifications.* queues.",
    ),
    cfg.IntOpt(
        "prefetch_count",
        default=0,
        min=0,
        max=MAX_PREFETCH,
        help="Messages that the broker may hand to one consumer before the first of them is "
        "acknowledged; at least batch_size. 0: twice batch_size.",
    ),
    cfg.IntOpt(
        "max_bytes_in_flight",
        default=64 * 1024 * 1024,
        min=1024,
        help="Bytes of unacknowledged messages, decompressed, above which a worker stops reading until they "
        "are committed. What the broker has sent by then comes on top: prefetch_count messages of each queue "
        "at most.",
    ),
    cfg.IntOpt(
        "max_message_size",
        default=16 * 1024 * 1024,
        min=1024,
        help="Bytes of a message's body, decompressed, above which it becomes a dead letter.",
    ),
    cfg.IntOpt(
        "max_depth",
        default=100,
        min=10,
        max=400,
        help="Levels of nested lists and objects above which a message becomes a dead letter.",
    ),
    cfg.StrOpt(
        "declare",
        default="auto",
        choices=[
            ("auto", "create the queue of pool where it is absent; use one that exists as it is"),
            ("passive", "create nothing; wait for what is absent"),
            ("never", "neither create nor bind nor look; only consume"),
        ],
        help="What to do about queues before consuming from them. The shared queues are never "
        "created here: that is for the publishers.",
    ),
    cfg.StrOpt(
        "queue_type",
        default="classic",
        choices=[("classic", "one broker keeps it"), ("quorum", "a majority of the brokers keeps it")],
        help="Kind of the queue of [notification] pool where we create it.",
    ),
    cfg.BoolOpt(
        "require_durable",
        default=False,
        help="Refuse to read from queues that lose messages when the broker restarts, and from "
        "transports that can't keep them.",
    ),
    cfg.Opt(
        "consumer_timeout",
        type=Duration(minimum=10, maximum=MAX_CONSUMER_TIMEOUT),
        default="1800",
        help="How long messages may be unacknowledged; while the database is away, they are given back "
        "before that. RabbitMQ from 4.3 on is asked for this time. To earlier releases it must be no more "
        "than the consumer_timeout that they are set to.",
    ),
    cfg.Opt(
        "dead_letter_limit",
        type=Number(min=0, max=1),
        default=0.9,
        help="Share of the last 1000 messages of a bus, and of those of each publisher and event type among "
        "them, that may be dead letters before a worker stops taking more than one probing batch a minute; "
        "those of one publisher do not count where others had good messages within an hour. 0: no limit.",
    ),
    cfg.IntOpt(
        "dead_letter_hourly_bytes",
        default=1024 * 1024 * 1024,
        min=0,
        help="Bytes that a worker stores of a bus's dead letters in an hour before it stops taking more "
        "than one probing batch a minute; the log warns at a quarter of it. 0: no limit.",
    ),
]

# Ceilometer's transport is oslo.messaging: what its rabbit driver reads of these, we read too.
OSLO_MESSAGING_RABBIT_OPTS = [
    cfg.BoolOpt(
        "ssl", default=False, deprecated_name="rabbit_use_ssl", help="Connect to the brokers with TLS."
    ),
    cfg.BoolOpt(
        "ssl_enforce_hostname_verification",
        default=True,
        help="Refuse a broker whose certificate is not for the host, or the IP address, that the URL names.",
    ),
    cfg.BoolOpt(
        "ssl_strict_certificates",
        default=sys.version_info >= (3, 13),
        sample_default="<true from Python 3.13 on>",
        help="Refuse certificates that lack what RFC 5280 wants of them, such as an authority's that has no "
        "key identifier or is not marked critical, as Python does from 3.13 on. Off: as before.",
    ),
    cfg.StrOpt(
        "ssl_ca_file",
        default="",
        deprecated_name="kombu_ssl_ca_certs",
        help="Certificate authorities to verify the brokers by, a PEM file. Not set: the system's.",
    ),
    cfg.StrOpt(
        "ssl_cert_file",
        default="",
        deprecated_name="kombu_ssl_certfile",
        help="Our own certificate for the brokers, a PEM file.",
    ),
    cfg.StrOpt(
        "ssl_key_file",
        default="",
        deprecated_name="kombu_ssl_keyfile",
        help="The key of ssl_cert_file, a PEM file without a passphrase.",
    ),
    cfg.StrOpt(
        "rabbit_login_method",
        default="PLAIN",
        deprecated_group="DEFAULT",
        choices=[
            ("PLAIN", "with user and password"),
            ("AMQPLAIN", "with user and password, RabbitMQ's older way"),
            ("EXTERNAL", "with the certificate of ssl_cert_file"),
        ],
        help="How to log in to the brokers.",
    ),
    cfg.IntOpt(
        "heartbeat_timeout_threshold",
        default=60,
        min=0,
        max=MAX_HEARTBEAT,
        help="Seconds without a sign of life after which a broker counts as dead. 0: no heartbeat. "
        "Less than 12 counts as 12, as nothing is sent while a message is converted.",
    ),
]

EVENT_OPTS = [
    cfg.StrOpt(
        "definitions_cfg_file",
        default="event_definitions.yaml",
        help="File of event definitions, looked for beside the configuration files, then among "
        "those that ship with the project.",
    ),
    cfg.BoolOpt(
        "drop_unmatched_notifications",
        default=False,
        help="Drop notifications that no event definition matches, instead of storing them with "
        "the default traits.",
    ),
    cfg.MultiStrOpt(
        "store_raw",
        default=[],
        help="Priorities whose events keep the whole notification, credentials removed; one a line or "
        "with commas between them.",
    ),
    cfg.Opt(
        "types",
        type=Names(),
        default=["*"],
        help="Event types to store: globs, and after a ! those to leave out. All others are "
        "acknowledged and dropped.",
    ),
]

DATABASE_OPTS = [
    cfg.StrOpt(
        "connection",
        secret=True,
        deprecated_opts=[*_old_sql("sql_connection"), _old("connection", "sql")],
        help="SQLAlchemy URL of the event database: postgresql://, mysql:// or sqlite://.",
    ),
    cfg.StrOpt(
        "event_connection",
        secret=True,
        help="URL of the event database, used where connection is not set.",
    ),
    cfg.Opt(
        "event_time_to_live",
        type=Duration(),
        default="-1",
        help="Age at which events are deleted: seconds, or a number with a unit such as 90d. 0 or "
        "less: never.",
    ),
    cfg.IntOpt(
        "events_delete_batch_size",
        default=0,
        min=0,
        help="Expired events deleted in one transaction. 0: as many as are deleted quickly, "
        "starting at 1000.",
    ),
    cfg.StrOpt(
        "partition_by",
        default="none",
        choices=[
            ("none", "plain tables"),
            ("day", "a partition for each day"),
            ("week", "a partition for each week, from Monday"),
            ("month", "a partition for each month"),
        ],
        help="Layout of the tables that `db sync` makes in a new PostgreSQL database. With partitions, "
        "expiry drops whole ones, and needs event_time_to_live.",
    ),
    cfg.BoolOpt(
        "skip_reference_checks",
        default=True,
        help="On PostgreSQL 15 and later, where our role may set session_replication_role: don't look up for "
        "each trait that its event is there, which the same transaction has just written. Everybody else's "
        "statements are checked.",
    ),
    cfg.IntOpt(
        "max_pool_size",
        default=5,
        min=0,
        deprecated_opts=_old_sql("sql_max_pool_size"),
        help="Connections kept open by a process; 0 for any number.",
    ),
    cfg.IntOpt(
        "max_overflow",
        default=50,
        min=-1,
        deprecated_opts=[_old("sql_max_overflow"), _old("sqlalchemy_max_overflow", "database")],
        help="Connections of a process beyond max_pool_size; -1 for any number.",
    ),
    cfg.IntOpt(
        "pool_timeout",
        default=30,
        min=1,
        max=MAX_TIMEOUT,
        deprecated_opts=[_old("sqlalchemy_pool_timeout", "database")],
        help="Seconds to wait for a connection of the pool.",
    ),
    cfg.IntOpt(
        "connection_recycle_time",
        default=3600,
        min=-1,
        deprecated_opts=[
            _old("idle_timeout", "database"),
            *_old_sql("sql_idle_timeout"),
            _old("idle_timeout", "sql"),
        ],
        help="Seconds after which a pooled connection is replaced; below the idle limit of a "
        "proxy in between. -1: never.",
    ),
    cfg.IntOpt(
        "max_retries",
        default=10,
        min=-1,
        deprecated_opts=[_old("max_retries", "storage"), *_old_sql("sql_max_retries")],
        help="Times a transaction is tried again after a transient error before the store counts "
        "as away, which the daemon waits for without end. -1: as many as by default.",
    ),
    cfg.IntOpt(
        "retry_interval",
        default=10,
        min=1,
        max=MAX_TIMEOUT,
        deprecated_opts=[
            _old("retry_interval", "storage"),
            _old("sql_retry_interval"),
            _old("reconnect_interval", "database"),
        ],
        help="Longest pause between two tries, in seconds; pauses grow up to it and are jittered.",
    ),
    cfg.Opt(
        "statement_timeout",
        type=Number(min=0, max=MAX_TIMEOUT),
        default=60.0,
        help="Seconds after which the database cancels one of our statements. 0: never.",
    ),
    cfg.Opt(
        "lock_timeout",
        type=Number(min=0, max=MAX_TIMEOUT),
        default=20.0,
        help="Seconds to wait for a lock in the database. 0: for ever.",
    ),
    cfg.IntOpt(
        "mysql_wsrep_sync_wait",
        min=0,
        max=15,
        help="wsrep_sync_wait of our sessions on a Galera cluster: 1 lets readers wait until their node has "
        "what the others committed. Not set: as the server has it. Recording needs none.",
    ),
]

EXPIRER_OPTS = [
    cfg.Opt(
        "interval",
        type=Duration(minimum=1),
        default="3600",
        help="Time from the start of one round of expiry to the next.",
    ),
    cfg.Opt(
        "dead_letter_time_to_live",
        type=Duration(),
        default="30d",
        help="Age at which dead letters are deleted, counted from the last time they were seen. "
        "0 or less: never.",
    ),
    cfg.StrOpt(
        "connection",
        secret=True,
        help="URL of the event database for the expirer's own role, which may drop and create "
        "partitions. Not set: that of [database].",
    ),
]

MONITOR_OPTS = [
    cfg.HostAddressOpt(
        "host",
        default="127.0.0.1",
        help="Address to serve /, /metrics, /healthz and /readyz on. They tell no secrets, but nobody is "
        "asked who he is.",
    ),
    cfg.PortOpt(
        "port",
        default=8978,
        help="Port to serve /, /metrics, /healthz and /readyz on. 0: serve nothing.",
    ),
    cfg.Opt(
        "max_lag",
        type=Duration(),
        default="0",
        help="Age of the oldest message in hand, by the time it was generated, from which on /readyz "
        "says no. 0: however old.",
    ),
]

_GROUPS: dict[str | None, list[cfg.Opt]] = {
    None: DEFAULT_OPTS,
    "oslo_messaging_notifications": OSLO_MESSAGING_NOTIFICATIONS_OPTS,
    "oslo_messaging_rabbit": OSLO_MESSAGING_RABBIT_OPTS,
    "notification": NOTIFICATION_OPTS,
    "event": EVENT_OPTS,
    "database": DATABASE_OPTS,
    "expirer": EXPIRER_OPTS,
    "monitor": MONITOR_OPTS,
}


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """Return every option by group, for oslo-config-generator."""
    return [(group or "DEFAULT", copy.deepcopy(options)) for group, options in _GROUPS.items()]


def set_defaults() -> None:
    """Change defaults of the libraries' options to ours, also for oslo-config-generator."""
    log.set_defaults(default_log_levels=[*log.get_default_log_levels(), *_QUIET_LIBRARIES])


def register_opts(conf: cfg.ConfigOpts) -> None:
    """Register our options on ``conf``; registering them again is harmless."""
    for group, options in _GROUPS.items():
        conf.register_opts(options, group=group)


def known_options() -> dict[str, list[cfg.Opt]]:
    """Return the options that are read from files, by group."""
    known: dict[str, list[cfg.Opt]] = {}
    for group, options in [*list_opts(), *log_options.list_opts(), *reports.list_opts()]:
        known.setdefault(group or "DEFAULT", []).extend(options)
    return known


class OptionUrl(NamedTuple):
    """The URL of a bus or a database, and the option that names it."""

    option: str
    url: str


def names_a_bus(conf: cfg.ConfigOpts) -> bool:
    """Tell whether any bus to read from is set; a host that only expires needs none."""
    return bool(
        any(conf.notification.messaging_urls)
        or conf.oslo_messaging_notifications.transport_url
        or conf.transport_url
    )


def bus_urls(conf: cfg.ConfigOpts) -> list[OptionUrl]:
    """Return the URLs of the buses to read from.

    :raises ConfigError: none is set, or one of several is blank.
    """
    option, urls = "[notification] messaging_urls", conf.notification.messaging_urls
    named = [
        OptionUrl(f"{option}, number {number} of {len(urls)}", url) for number, url in enumerate(urls, 1)
    ]
    if any(urls):
        if blank := [one.option for one in named if not one.url]:
            raise ConfigError(f"{blank[0]}: is blank")
        return named if len(urls) > 1 else [OptionUrl(option, urls[0])]
    for group in ("oslo_messaging_notifications", "DEFAULT"):
        options = conf if group == "DEFAULT" else conf[group]
        if options.transport_url:
            return [OptionUrl(f"[{group}] transport_url", options.transport_url)]
    raise ConfigError(
        "no bus to read from: set [DEFAULT] transport_url or [notification] messaging_urls, such as "
        "rabbit://user:password@host:5672/vhost"
    )


def find_definitions(conf: cfg.ConfigOpts) -> Path:
    """Return the path of the event definitions file.

    :raises ConfigError: it is neither beside the configuration nor among the files that ship with
        the project.
    """
    name = conf.event.definitions_cfg_file
    try:
        return Path(conf.find_file(name) or resources.path("etc", name))
    except ConfigError:
        raise ConfigError(
            f"[event] definitions_cfg_file: {name} is neither beside the configuration files nor "
            "among those that ship with the project"
        ) from None


def control_exchanges(conf: cfg.ConfigOpts) -> list[str]:
    """Return the exchanges that a pool is bound to."""
    return split_at_commas(conf.notification.notification_control_exchanges)


def raw_priorities(conf: cfg.ConfigOpts) -> list[str]:
    """Return the priorities whose events keep the notification."""
    return split_at_commas(conf.event.store_raw)


def database_url(conf: cfg.ConfigOpts) -> OptionUrl:
    """Return the URL of the event database.

    :raises ConfigError: none is set.
    """
    for name in ("connection", "event_connection"):
        if url := conf.database[name]:
            return OptionUrl(f"[database] {name}", str(url))
    raise ConfigError("[database] connection is not set: write postgresql://user:password@host/panko")


def expirer_database_url(conf: cfg.ConfigOpts) -> OptionUrl:
    """Return the URL of the event database for the expirer.

    :raises ConfigError: none is set.
    """
    url = conf.expirer.connection
    return OptionUrl("[expirer] connection", str(url)) if url else database_url(conf)


def queue_names(topics: Iterable[str], priorities: Iterable[str]) -> list[str]:
    """Return the names of the shared queues, which are the routing keys too: each ``topic.priority`` once."""
    pairs = itertools.product(topics, priorities)
    return list(dict.fromkeys(f"{topic}.{priority.lower()}" for topic, priority in pairs))
