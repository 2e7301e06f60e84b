"""What an error of a database means: one table by SQLSTATE and error number, not by exception class.

Drivers disagree on classes: the same 1366 is a DataError with PyMySQL and an OperationalError with
mysqlclient. What the server says is the same everywhere.
"""

import enum
import sqlite3
from collections.abc import Iterator
from typing import Any

from sqlalchemy import exc

from panko_ingest.storage.errors import StorageError, StorageUnavailable


class Fault(enum.Enum):
    """What to do about an error."""

    TRANSIENT = "the same transaction may succeed when it is run again"
    AWAY = "the server or the connection to it is gone, or it has no room: keep the data"
    OPERATOR = "no retry helps before somebody acts: keep the data and say so"
    PERMANENT = "this data will never be accepted"


# SQLSTATE, the longest prefix decides. PostgreSQL's are documented in its appendix A.
_SQLSTATE = {
    Fault.TRANSIENT: ("40", "55P03", "55006"),
    Fault.AWAY: (
        "08", "25006", "25P03", "53", "57", "58", "XX",
    ),
    Fault.OPERATOR: ("0A", "28", "3D", "3F", "42", "55", "57P04", "F0"),
    Fault.PERMANENT: ("21", "22", "23", "44", "54", "P0"),
}  # fmt: skip
_BY_SQLSTATE = {prefix: fault for fault, prefixes in _SQLSTATE.items() for prefix in prefixes}

# Error numbers of MySQL and MariaDB.
_MYSQL = {
    Fault.TRANSIENT: (
        1020,  # record has changed since last read (MariaDB's innodb_snapshot_isolation)
        1205,  # lock wait timeout
        1213,  # deadlock; on Galera also a conflict with another node, at COMMIT too
        1412,  # table definition has changed
        1615,  # prepared statement needs to be prepared again
        1637,  # too many active transactions
        1684,  # the definition is being changed just now
        3101,  # conflict with another member of the group
    ),
    Fault.AWAY: (
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
    Fault.OPERATOR: (
        1044, 1045, 1130, 1129, 1142, 1143, 1227, 1251, 1370, 1524, 1698, 2049, 2054, 2058, 2059, 2061,
        3118, 3159,  # not allowed in
        1046, 1049, 1051, 1054, 1064, 1072, 1091, 1109, 1136, 1146, 1176, 1305, 1356, 1364, 1449, 1665,
        # ^ the schema or the server is not as we need it
        1194, 1195, 1034, 1033, 1016, 1017,  # damaged table
    ),
    Fault.PERMANENT: (
        1048, 1062, 1118, 1153, 1169, 1216, 1217, 1263, 1264, 1265, 1267, 1292, 1301, 1366, 1367, 1406,
        1411, 1439, 1451, 1452, 1526, 1557, 1586, 1690, 1761, 1762, 3819, 4025,
    ),
}  # fmt: skip
_BY_MYSQL_ERRNO = {number: fault for fault, numbers in _MYSQL.items() for number in numbers}

_SQLITE = {
    Fault.TRANSIENT: (
        sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_SCHEMA, sqlite3.SQLITE_PROTOCOL,
    ),
    Fault.AWAY: (sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL),
    Fault.OPERATOR: (
        sqlite3.SQLITE_ERROR, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_AUTH, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_NOLFS,
    ),
    Fault.PERMANENT: (
        sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_RANGE,
    ),
}  # fmt: skip
_BY_SQLITE_CODE = {code: fault for fault, codes in _SQLITE.items() for code in codes}

_NEEDS_NEW_CONNECTION = {"25006", "57P01", "57P02", "57P03", "57P05"}, {1053, 1290, 1792, 1836, 1874, 1927}

_REFUSED_BY_POSTGRESQL = ("authentication", "does not exist", "pg_hba.conf", "permission", "not permitted")

_BAD_VALUE = (ValueError, TypeError, OverflowError, ArithmeticError)


def classify(error: BaseException) -> Fault | None:
    """Return what an error from a database call means; None for one that is no database's."""
    cause = original(error)
    if isinstance(cause, _BAD_VALUE):
        return Fault.PERMANENT  # the driver could not even send it
    sqlstate, number, code = _sqlstate(cause), _mysql_errno(cause), getattr(cause, "sqlite_errorcode", None)
    if number is not None:
        return _BY_MYSQL_ERRNO.get(number) or _by_class(cause)
    if sqlstate is not None:
        return _by_sqlstate(sqlstate)
    if code is not None:
        return _BY_SQLITE_CODE.get(code & 0xFF) or _by_class(cause)
    return _by_class(cause)


def original(error: BaseException) -> BaseException:
    """Return the driver's own error beneath SQLAlchemy's."""
    return error.orig if isinstance(error, exc.StatementError) and error.orig is not None else error


def needs_new_connection(error: BaseException | None) -> bool:
    """Tell whether the session behind a driver's error will never write again, though it may still answer."""
    sqlstates, numbers = _NEEDS_NEW_CONNECTION
    return error is not None and (_sqlstate(error) in sqlstates or _mysql_errno(error) in numbers)


def is_broken_reference(error: BaseException) -> bool:
    """Tell whether a row was refused because what it refers to is not there."""
    cause = original(error)
    return (
        _sqlstate(cause) == "23503"
        or _mysql_errno(cause) in {1216, 1452}
        or getattr(cause, "sqlite_errorcode", None) == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY
    )


def unavailable(error: BaseException) -> StorageUnavailable:
    """Return what the caller gets to see when the store can't be used."""
    operator = classify(error) is Fault.OPERATOR
    text = describe(error)
    if operator:
        text += " (is the schema there and the role allowed to use it? `panko-ingest db sync` makes it)"
    return StorageUnavailable(text, operator=operator)


def refused(error: BaseException) -> StorageError:
    """Return what the caller gets to see for an event that the database will never accept."""
    return StorageError(describe(error))


def describe(error: BaseException) -> str:
    """Return the server's own words and code in one line, without statement or parameters."""
    cause = original(error)
    primary = getattr(getattr(cause, "diag", None), "message_primary", None)
    number = _mysql_errno(cause)
    words = primary or (str(cause.args[-1]) if number is not None else str(cause))
    code = number or _sqlstate(cause)
    line = " ".join(words.split()) or type(cause).__name__
    return f"{code}: {line}" if code else line


def _sqlstate(error: BaseException) -> str | None:
    # MySQL's are too coarse: HY000 is a lock timeout and a full disk.
    sqlstate = None if _is_mysql(error) else getattr(error, "sqlstate", None)
    return sqlstate if isinstance(sqlstate, str) else None


def _mysql_errno(error: BaseException) -> int | None:
    if not _is_mysql(error):
        return None
    number = getattr(error, "errno", None) or (error.args[0] if error.args else None)
    return number if isinstance(number, int) else None


def _is_mysql(error: BaseException) -> bool:
    return type(error).__module__.startswith(("pymysql", "MySQLdb", "mysql", "mariadb"))


def _by_sqlstate(sqlstate: str) -> Fault:
    for length in (5, 2):
        if fault := _BY_SQLSTATE.get(sqlstate[:length]):
            return fault
    return Fault.AWAY


def _by_class(error: BaseException) -> Fault | None:
    """Judge an error that carries no code: mostly of drivers themselves."""
    if isinstance(error, exc.NoSuchTableError):
        return Fault.OPERATOR
    if isinstance(error, exc.TimeoutError | exc.DisconnectionError):
        return Fault.AWAY
    names = {base.__name__ for base in _dbapi_bases(error)}
    if names & {"DataError", "IntegrityError", "NotSupportedError", "ProgrammingError"}:
        return Fault.PERMANENT
    if names & {"OperationalError", "InterfaceError", "InternalError", "DatabaseError"}:
        # libpq gives no code when a connection is refused; a server's own refusal needs an operator.
        text = str(error)
        return (
            Fault.OPERATOR
            if "FATAL" in text and any(word in text for word in _REFUSED_BY_POSTGRESQL)
            # Unknown: keeping the data is always right.
            else Fault.AWAY
        )
    return Fault.AWAY if isinstance(error, OSError) else None


def _dbapi_bases(error: BaseException) -> Iterator[type[Any]]:
    return (base for base in type(error).__mro__ if not base.__module__.startswith("builtins"))
