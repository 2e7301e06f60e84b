"""Event storage: Panko's interface, and how to get a connection to a store.

A program that only wants the storage needs ``get_connection(url)`` and nothing else of this project.
"""

from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from panko_ingest.errors import DatabaseUrlError
from panko_ingest.findings import Finding
from panko_ingest.storage.base import (
    Connection,
    RecordResult,
    SchemaState,
    Statistics,
)
from panko_ingest.storage.errors import (
    ClockDoubted,
    InvalidMarker,
    InvalidRequest,
    MessageIdTaken,
    StorageError,
    StorageUnavailable,
)
from panko_ingest.storage.expiry_results import ExpiryForecast, ExpiryReport
from panko_ingest.storage.filters import DeadLetterFilter, EventFilter

if TYPE_CHECKING:
    from oslo_config.cfg import ConfigOpts

__all__ = [
    "ClockDoubted",
    "Connection",
    "DeadLetterFilter",
    "EventFilter",
    "ExpiryForecast",
    "ExpiryReport",
    "Finding",
    "InvalidMarker",
    "InvalidRequest",
    "MessageIdTaken",
    "RecordResult",
    "SchemaState",
    "Statistics",
    "StorageError",
    "StorageUnavailable",
    "get_connection",
    "get_connection_from_config",
]

_DRIVERS = "panko_ingest.storage"


def get_connection(url: str, conf: "ConfigOpts | None" = None) -> Connection:
    """Return a connection to the store at a SQLAlchemy URL, by the driver that serves its scheme.

    :raises ConfigError: no driver serves the scheme, or its database driver is not installed.
    """
    if "://" not in url:
        # It may be anything, also a password in the wrong place: it is not repeated.
        raise DatabaseUrlError("is no URL: write postgresql://user:password@host/panko")
    scheme = url.partition(":")[0].partition("+")[0]
    driver = _driver(scheme)
    if driver is None:
        known = sorted({entry_point.name for entry_point in entry_points(group=_DRIVERS)})
        raise DatabaseUrlError(f"no storage driver for {scheme!r}; installed: {', '.join(known)}")
    return driver(url, conf)


@cache  # processes that are forked later need not look at the disk again
def _driver(scheme: str) -> type[Connection] | None:
    for entry_point in entry_points(group=_DRIVERS, name=scheme):
        driver: type[Connection] = entry_point.load()
        return driver
    return None


def get_connection_from_config(conf: Any, *, expires: bool = False) -> Connection:
    """Return a connection to the store that ``[database] connection`` (or event_connection) names.

    :param expires: by the expirer's own account, where ``[expirer] connection`` names one.
    :raises ConfigError: no option is set, or the URL can't be used.
    """
    from panko_ingest import config  # noqa: PLC0415 - a library user needs no options of ours

    option, url = (config.expirer_database_url if expires else config.database_url)(conf)
    try:
        return get_connection(url, conf)
    except DatabaseUrlError as error:
        raise DatabaseUrlError(error.fault, option) from error
