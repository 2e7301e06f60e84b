"""What is MySQL's and MariaDB's own: sessions, errors, limits, settings that keep what is committed."""

import contextlib
import math
import re
import socket
import ssl
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import URL

from panko_ingest.errors import DatabaseUrlError
from panko_ingest.findings import OK, WARNING, Finding
from panko_ingest.storage.database import base, galera, mysql_driver, mysql_sessions, pooling
from panko_ingest.storage.database.base import Code
from panko_ingest.storage.errors import ErrorClass
from panko_ingest.storage.models import LockWait
from panko_ingest.storage.settings import StorageSettings
from panko_ingest.storage.tables import Base

_PACKET_OVERHEAD = 64 * 1024
_CHARSETS = ("ascii", "cp1252", "utf8mb3", "utf8mb4")
# A trait's primary key is more than a number.
_CLASH_OF_IDS = re.compile(r"'\d+'[^']*'(?:[^']*\.)?PRIMARY'")

_MEANINGS = {
    ErrorClass.TRANSIENT: (
        1020,  # record has changed since last read (MariaDB's innodb_snapshot_isolation)
        1205,  # lock wait timeout
        1213,  # deadlock; on Galera also a conflict with another node, at COMMIT too
        1412,  # table definition has changed
        1615,  # prepared statement needs to be prepared again
        1637,  # too many active transactions
        1684,  # the definition is being changed just now
        3101,  # conflict with another member of the group
    ),
    ErrorClass.AWAY: (
        0,  # PyMySQL: the connection is closed
        3, 1021, 1114, 1030,  # no room
        1037, 1038, 1041, 1135,  # no memory
        1040, 1203, 1226,  # too many connections
        1047,  # Galera: this node is not ready
        1053, 1077, 1078, 1079,  # shutting down
        1152, 1154, 1155, 1156, 1157, 1158, 1159, 1160, 1161, 1184, 1317, 1927,  # connection lost
        1180,  # error during COMMIT
        1290, 1792, 1836, 1874,  # read-only: a demoted server
        1969, 3024,  # statement timeout
        2002, 2003, 2004, 2005, 2006, 2013, 2014, 2026, 2045, 2055, 4031,  # no connection
    ),
    ErrorClass.OPERATOR: (
        1044, 1045, 1130, 1129, 1142, 1143, 1227, 1251, 1370, 1524, 1698, 2049, 2054, 2058, 2059, 2061,
        3118, 3159,  # not allowed in
        1046, 1049, 1051, 1054, 1064, 1072, 1091, 1109, 1136, 1146, 1176, 1305, 1356, 1364, 1449, 1665,
        # ^ the schema or the server is not as we need it
        1194, 1195, 1034, 1033, 1016, 1017,  # damaged table
    ),
    ErrorClass.PERMANENT: (
        167, 1467,  # ids used up, which older releases of PyMySQL give no class of their own
        1048, 1062, 1118, 1153, 1169, 1216, 1217, 1263, 1264, 1265, 1267, 1292, 1301, 1366, 1367, 1406,
        1411, 1439, 1451, 1452, 1526, 1557, 1586, 1690, 1761, 1762, 3819, 4025,
        1644,  # SIGNAL of an operator's trigger
    ),
}  # fmt: skip

_OF_TRIGGERS = 20_000
"""Beyond the numbers that servers and proxies have: a trigger's own."""

_OURS = "user = SUBSTRING_INDEX(CURRENT_USER(), '@', 1) AND db = DATABASE() AND id <> CONNECTION_ID()"
_TABLE_LOCK_WAIT = (
    f"SELECT MAX(time) FROM information_schema.processlist WHERE {_OURS} "  # noqa: S608 - ours
    "AND state LIKE 'Waiting for table%%lock'"
)
_LONG_INSERT = (
    f"SELECT MAX(time) FROM information_schema.processlist WHERE {_OURS} "  # noqa: S608 - ours
    "AND command = 'Query' AND time >= 2 AND info LIKE 'INSERT%%' "
    "AND state NOT LIKE 'Waiting for table%%lock'"
)
_ROW_LOCK_WAITS = f"""
SELECT DISTINCT holder.trx_mysql_thread_id, session.user, session.host,
    TIMESTAMPDIFF(SECOND, holder.trx_started, NOW())
FROM information_schema.innodb_lock_waits waits
JOIN information_schema.innodb_trx waiter ON waiter.trx_id = waits.requesting_trx_id
JOIN information_schema.innodb_trx holder ON holder.trx_id = waits.blocking_trx_id
LEFT JOIN information_schema.processlist session ON session.id = holder.trx_mysql_thread_id
WHERE waiter.trx_mysql_thread_id IN (SELECT id FROM information_schema.processlist WHERE {_OURS})
"""  # noqa: S608 - ours

_REFUSED_LOGINS = {
    1044, 1045, 1049, 1129, 1130, 1251, 1524, 1698, 2049, 2054, 2058, 2059, 2061,
}  # fmt: skip


class Database(base.Database):
    """MySQL and MariaDB, by PyMySQL or another driver."""

    driver = "pymysql"
    extra = "panko-ingest[mysql]"
    sorts_before_it_limits = True
    # Whose hour does not come twice in autumn, whatever zone the server is in.
    now = "(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) / 1000000)"
    codes: ClassVar[Mapping[Code, ErrorClass]] = {
        code: what for what, codes in _MEANINGS.items() for code in codes
    }
    # 1047, and 1180 at COMMIT: a node that left its Galera cluster answers pings, and is in it again or not.
    cannot_write_again = frozenset({1047, 1053, 1180, 1290, 1792, 1836, 1874, 1927})
    broken_reference = frozenset({1216, 1452})
    clash = frozenset({1062})
    lock_wait = frozenset({1205})
    not_allowed = frozenset({1044, 1142, 1143, 1227, 1370})

    def create_engine(self, url: URL, settings: StorageSettings) -> Engine:
        """Return an engine whose sessions are strict and have time limits."""
        elsewhere = {"database", "db", "read_default_file", "read_default_group"}
        if not url.database and url.query.keys().isdisjoint(elsewhere):
            raise DatabaseUrlError("names no database: write mysql://...@host/panko")
        # Names and values may hold any character, whatever an old URL says.
        url = url.update_query_dict({"charset": "utf8mb4"})
        arguments: dict[str, Any] = {"connect_timeout": pooling.CONNECT_TIMEOUT}
        pymysql = url.get_driver_name() == "pymysql"
        tls = mysql_driver.Tls.of(url.query) if pymysql else None
        if pymysql and settings.statement_timeout:
            patience = math.ceil(settings.statement_timeout) + pooling.CONNECT_TIMEOUT
            arguments |= {"read_timeout": patience, "write_timeout": patience}
        arguments = {name: value for name, value in arguments.items() if name not in url.query}
        engine = create_engine(
            url,
            isolation_level="READ COMMITTED",
            connect_args=arguments,
            **base.pool_arguments(settings),
            **({"pool_reset_on_return": None} if pymysql else {}),
        )
        dialect: Any = engine.dialect
        if pymysql:
            mysql_driver.refuse_unknown_options(dialect.create_connect_args(url)[1])
        dialect._get_server_version_info = lambda connection: dialect._parse_server_version(
            connection.exec_driver_sql(f"SELECT {mysql_sessions.OWN_VERSION}").scalar_one()
        )

        if tls:
            encrypted = tls.asked
            event.listen(engine, "do_connect", partial(mysql_driver.connect, tls))
        else:
            encrypted = any(name.startswith("ssl_") and name != "ssl_disabled" for name in url.query)

        def set_up(connection: Any, record: Any) -> None:
            with connection.cursor() as cursor:
                if encrypted and not _cipher(cursor):
                    raise DatabaseUrlError(mysql_driver.NO_TLS)
                if mysql_sessions.set_up(connection, cursor, settings):
                    record.info[pooling.ANY_SERVER] = True
            # SQLAlchemy does so next, and would not close what a node that left its Galera cluster refuses.
            connection.commit()

        # Before SQLAlchemy looks at sql_mode, by which it decides how to quote.
        pooling.set_up_each(engine, set_up, first=True)

        if pymysql:
            mysql_driver.roll_back_only_open_transactions(engine)
        return engine

    def refuses_login(self, error: BaseException) -> bool:
        """Tell so by the number."""
        return self.code_of(error) in _REFUSED_LOGINS

    def encryption(self, connection: Connection) -> str:
        """Ask the server for the cipher, and PyMySQL for what it verified."""
        driver: Any = connection.connection.driver_connection
        context = getattr(driver, "ctx", None)
        with driver.cursor() as cursor:
            return base.describe_encryption(
                encrypted=bool(_cipher(cursor)),
                verified=context is not None and context.verify_mode == ssl.CERT_REQUIRED,
                name_verified=context is not None and context.check_hostname,
            )

    def code_of(self, error: BaseException) -> Code | None:
        """Return the error number: SQLSTATEs are too coarse, HY000 is a lock timeout and a full disk."""
        if not type(error).__module__.startswith(("pymysql", "MySQLdb", "mysql", "mariadb")):
            return None
        number = getattr(error, "errno", None) or (error.args[0] if error.args else None)
        return number if isinstance(number, int) else None

    def meaning_of(self, error: BaseException) -> ErrorClass | None:
        """Judge by the number."""
        code = self.code_of(error)
        if isinstance(code, int) and code >= _OF_TRIGGERS:
            return ErrorClass.PERMANENT
        return super().meaning_of(error)

    def words_of(self, error: BaseException) -> str | None:
        """Return the number and the server's words beside it."""
        code = self.code_of(error)
        return None if code is None else f"{code}: {error.args[-1]}"

    def is_about_event_type(self, error: BaseException) -> bool:
        """Look at the column that the server names."""
        return "(`event_type_id`)" in str(error)

    def is_fault_of_ids(self, error: BaseException, statement: str) -> bool:
        """Look at the number, and at the key or the column that the server names."""
        code, words = self.code_of(error), str(error)
        return (
            code in {167, 1467}
            or (code == 1062 and _CLASH_OF_IDS.search(words) is not None)  # noqa: PLR2004
            or (code == 1264 and "'id'" in words)  # noqa: PLR2004
        )

    def limits(self, connection: Connection) -> dict[str, Any]:
        """Return what packets, character sets and collations allow."""
        packet = connection.exec_driver_sql("SELECT @@max_allowed_packet").scalar_one()
        found = connection.exec_driver_sql(
            "SELECT table_name, column_name, character_octet_length, character_set_name, collation_name "
            "FROM information_schema.columns WHERE table_schema = DATABASE() AND (table_name, column_name) "
            "IN (('event', 'raw'), ('trait_text', 'key'), ('trait_text', 'value'), ('event', 'message_id'), "
            "('event_type', 'desc'))"
        )
        columns = {(row[0], row[1]): row for row in found}
        # Quoting at worst doubles a value.
        sendable = (packet - _PACKET_OVERHEAD) // 2
        return {
            "raw_bytes": min(columns["event", "raw"][2], sendable),
            "packet_bytes": packet - _PACKET_OVERHEAD,
            "fold": _folding(columns["trait_text", "key"][4]),
            "charset": _narrowest(columns["trait_text", "key"][3], columns["trait_text", "value"][3]),
            "raw_charset": _narrowest(columns["event", "raw"][3]),
            "id_charset": _narrowest(columns["event", "message_id"][3]),
            "type_charset": _narrowest(columns["event_type", "desc"][3]),
            "fraction_before_1970": False,
        }

    def table_users(self, connection: Connection, seconds: float) -> Iterator[str]:
        """Yield who has been in a transaction for so many seconds: which tables it uses the server does not
        tell. It takes the right PROCESS.
        """
        with contextlib.suppress(sa.exc.OperationalError):
            yield from connection.exec_driver_sql(
                "SELECT CONCAT('session ', trx_mysql_thread_id, ' (in a transaction for ', "
                "TIMESTAMPDIFF(SECOND, trx_started, NOW()), ' s)') FROM information_schema.innodb_trx "
                "WHERE trx_mysql_thread_id <> CONNECTION_ID() "
                "AND trx_started < NOW() - INTERVAL %s SECOND ORDER BY trx_started LIMIT 5",
                (seconds,),
            ).scalars()

    def lock_waits(self, connection: Connection) -> Iterator[LockWait]:
        """Yield who keeps our sessions waiting; without the right PROCESS, that this can't be seen."""
        # A node that has left its Galera cluster answers this, too: such a session would rest in the pool.
        connection.detach()
        if (seconds := connection.exec_driver_sql(_TABLE_LOCK_WAIT).scalar()) is not None:
            text = f"somebody holds a lock on a whole table, for which we have waited {int(seconds)} s"
            yield LockWait(text, None)
        if not connection.dialect.is_mariadb:  # type: ignore[attr-defined]
            return
        try:
            rows = connection.exec_driver_sql(_ROW_LOCK_WAITS).all()
        except sa.exc.OperationalError:  # it takes the right PROCESS
            if (seconds := connection.exec_driver_sql(_LONG_INSERT).scalar()) is not None:
                text = (
                    f"an insert has run for {int(seconds)} s; whether a session holds it up, and which, "
                    "shows with GRANT PROCESS ON *.*"
                )
                yield LockWait(text, None)
            return
        for number, user, host, seconds in rows:
            holder = (
                f"session {number} of {user or 'somebody'} from {host or 'somewhere'} holds a lock on rows"
            )
            yield LockWait(holder, float(seconds))

    def is_cluster(self, connection: Connection) -> bool:
        """Ask for Galera."""
        return galera.is_cluster(connection)

    def check(self, connection: Connection) -> Iterator[Finding]:
        """Tell whether the server keeps what it has committed, and tells names apart."""
        settings = {row[0]: row[1] for row in connection.exec_driver_sql("SHOW GLOBAL VARIABLES")}
        wanted: dict[str, tuple[str, ...]] = {"innodb_doublewrite": ("ON", "1")}
        if galera.durable_by_nodes(connection):
            flush = settings["innodb_flush_log_at_trx_commit"]
            yield Finding(OK, "innodb_flush_log_at_trx_commit", f"{flush}: the nodes keep what is committed")
        else:
            wanted["innodb_flush_log_at_trx_commit"] = ("1",)
            if settings.get("log_bin") == "ON":
                wanted["sync_binlog"] = ("1",)
        for name in ("rpl_semi_sync_master", "rpl_semi_sync_source"):
            if settings.get(f"{name}_enabled") == "ON":  # else others see what no replica has yet
                wanted[f"{name}_wait_point"] = ("AFTER_SYNC",)
        yield from base.judge_settings(settings, wanted, base.LOSES_WHAT_WAS_ACKNOWLEDGED)
        yield from galera.check(connection, settings)
        yield from _proxy(connection, settings)
        yield from _collations(connection)

    @contextlib.contextmanager
    def waiting_briefly(self, connection: Connection) -> Iterator[bool]:
        """Set the shortest time that the server knows, in whole seconds; in the end what was set before."""
        settings = "SELECT @@SESSION.innodb_lock_wait_timeout, @@innodb_rollback_on_timeout"
        before, undoes_all = connection.exec_driver_sql(settings).one()
        if undoes_all:
            yield False
            return
        shortest = 0 if getattr(connection.dialect, "is_mariadb", False) else 1
        connection.exec_driver_sql(f"SET SESSION innodb_lock_wait_timeout = {shortest}")

        def restore() -> None:
            if not connection.invalidated:
                connection.exec_driver_sql(f"SET SESSION innodb_lock_wait_timeout = {before}")

        try:
            yield True
        except Exception:  # who is interrupted in the middle of a statement gives the session up
            restore()
            raise
        restore()

    def insert_if_absent(self, table: Any, key: str) -> sa.Insert:
        """Return an INSERT IGNORE; only for values that are known to fit, and to be looked for afterwards."""
        return sa.insert(table).prefix_with("IGNORE")

    def insert_or_update(
        self,
        connection: Connection,
        table: Any,
        row: Mapping[str, Any],
        key: str,
        change: Mapping[str, Any],
    ) -> None:
        """Insert a row, or change the one in its way, by whichever unique key."""
        connection.execute(mysql.insert(table).values(row).on_duplicate_key_update(change))


def _proxy(connection: Connection, settings: Mapping[str, str]) -> Iterator[Finding]:
    """Tell whether something stands between: then the server sees another address than ours."""
    client: Any = getattr(connection.connection.driver_connection, "_sock", None)
    if client is None or client.family == socket.AF_UNIX:
        return
    seen = "SELECT host FROM information_schema.processlist WHERE id = CONNECTION_ID()"
    port = str(connection.exec_driver_sql(seen).scalar()).rpartition(":")[2]
    if port != str(client.getsockname()[1]):
        yield Finding(
            OK,
            "proxy",
            f"a proxy or a translation of addresses stands between; a session that it cuts while idle (the "
            f"server itself does after {settings['wait_timeout']} s) is found by a ping before it is used",
        )


def _collations(connection: Connection) -> Iterator[Finding]:
    statement = sa.text(
        "SELECT DISTINCT table_collation FROM information_schema.tables "
        "WHERE table_schema = DATABASE() AND table_name IN :tables "
        "AND table_collation IS NOT NULL"  # a view has none
    ).bindparams(sa.bindparam("tables", list(Base.metadata.tables), expanding=True))
    collations = sorted(connection.scalars(statement))
    weak = [name for name in collations if not (name.startswith("utf8mb4") and name.endswith("_bin"))]
    if weak:
        yield Finding(
            WARNING,
            "collation",
            f"{', '.join(weak)}: names that differ by case alone count as one, and characters beyond the "
            "basic plane may be replaced: run `panko-ingest db sync` without --postpone-rewrites",
        )
    elif collations:
        yield Finding(OK, "collation", ", ".join(collations))


def _narrowest(*charsets: str) -> str:
    """Return the one of these character sets that has the fewest characters, as ``ColumnLimits`` calls it."""
    ours = {"ascii": "ascii", "latin1": "cp1252", "utf8": "utf8mb3", "utf8mb3": "utf8mb3"}
    return min((ours.get(name, "utf8mb4") for name in charsets), key=_CHARSETS.index)


def _folding(collation: str) -> Callable[[str], str]:
    """Return what maps the names that a collation takes for the same to one."""
    if collation.endswith("_bin"):
        return str if "nopad" in collation or "0900" in collation else _without_padding
    return _without_case


def _without_padding(name: str) -> str:
    return name.rstrip(" ")


def _without_case(name: str) -> str:
    decomposed = unicodedata.normalize("NFKD", name)
    return "".join(char for char in decomposed if not unicodedata.combining(char)).casefold().rstrip(" ")


def _cipher(cursor: Any) -> str:
    cursor.execute("SHOW SESSION STATUS LIKE 'Ssl_cipher'")
    return str(cursor.fetchone()[1])
