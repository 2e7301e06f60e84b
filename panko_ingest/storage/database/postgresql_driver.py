"""What is psycopg's and libpq's own: a COMMIT that says more than it seems, and where options come from."""

import re
from typing import Any

from sqlalchemy.engine import URL

from panko_ingest.errors import ConfigError
from panko_ingest.storage.errors import StorageConflict

_WAITS_FOR_STANDBY = "SyncRepWaitForLSN"
"""The function of the server that warns when its wait is cancelled; COMMIT succeeds all the same."""


def connect(_dialect: Any, _record: Any, arguments: list[Any], options: dict[str, Any]) -> Any:
    """Connect by psycopg, but take no COMMIT for one that did not wait for its synchronous standby."""
    import psycopg  # noqa: PLC0415 - not everybody has it

    cancelled: list[psycopg.errors.Diagnostic] = []

    class Doubting(psycopg.Connection[Any]):
        def commit(self) -> None:
            cancelled.clear()
            super().commit()
            if cancelled:
                raise StorageConflict("COMMIT was kept from waiting for a synchronous standby")

    def note(notice: psycopg.errors.Diagnostic) -> None:
        if notice.source_function == _WAITS_FOR_STANDBY:
            cancelled.append(notice)

    connection = Doubting.connect(*arguments, **options)
    connection.add_notice_handler(note)
    return connection


_NUMBER = re.compile(r"-?\d{1,9}")
_VALUES = {
    **dict.fromkeys(
        ("connect_timeout", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"),
        _NUMBER,
    ),
    "tcp_user_timeout": _NUMBER,
    "sslmode": re.compile("disable|allow|prefer|require|verify-ca|verify-full"),
    "target_session_attrs": re.compile("any|read-write|read-only|primary|standby|prefer-standby"),
}


def refuse_unknown_options(url: URL) -> None:
    """Refuse what libpq would.

    :raises ConfigError: it has no such option, or not with such a value.
    """
    from psycopg.pq import Conninfo  # noqa: PLC0415 - not everybody has it

    known = {option.keyword.decode() for option in Conninfo.get_defaults()}
    for name in url.query.keys() - known:
        raise ConfigError(f"[database] connection: PostgreSQL's library has no option {name!r}")
    for name, values in _VALUES.items():
        value = url.query.get(name)
        if value is not None and not (isinstance(value, str) and values.fullmatch(value)):
            raise ConfigError(f"[database] connection: the value of {name} can't be used")


def asks_for_tls(url: URL) -> bool:
    """Tell whether there are settings of TLS with a mode in which libpq might go on without.

    They come from the URL, from libpq's environment, or from its service file.
    """
    settings = _settings_elsewhere(url.query.get("service", "")) | dict(url.query)
    named = {name for name in settings if name.startswith("ssl")} - {"sslmode"}
    return bool(named) and settings.get("sslmode", "prefer") in {"prefer", "allow"}


def _settings_elsewhere(service: Any) -> dict[str, Any]:
    """Return what libpq takes from its environment and from a service, and is not its own default."""
    try:
        from psycopg.conninfo import make_conninfo  # noqa: PLC0415 - not everybody has it
        from psycopg.pq import PGconn  # noqa: PLC0415
    except ImportError:
        return {}  # SQLAlchemy tells
    # There is no socket in /: libpq finds out what it would use, and goes no further.
    nowhere = make_conninfo(host="/", **({"service": service} if service else {}))
    connection = PGconn.connect_start(nowhere.encode())
    options = connection.info
    connection.finish()
    return {
        option.keyword.decode(): option.val.decode("utf-8", "replace")
        for option in options
        if option.val is not None and option.val != option.compiled and option.keyword != b"sslcertmode"
    }
