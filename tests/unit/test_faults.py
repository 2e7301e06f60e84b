"""What an error of a database means, by its code and not by its class."""

import sqlite3

import psycopg
import pymysql
import pytest
import sqlalchemy as sa

from panko_ingest.storage.faults import Fault, classify, describe, refused, unavailable


def sqlite_error(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("text that nobody reads")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("sqlstate", "fault"),
    [
        ("40001", Fault.TRANSIENT),
        ("40P01", Fault.TRANSIENT),
        ("55P03", Fault.TRANSIENT),
        ("08006", Fault.AWAY),
        ("25006", Fault.AWAY),
        ("53100", Fault.AWAY),
        ("53300", Fault.AWAY),
        ("57014", Fault.AWAY),
        ("57P01", Fault.AWAY),
        ("57P03", Fault.AWAY),
        ("XX000", Fault.AWAY),
        ("28P01", Fault.OPERATOR),
        ("3D000", Fault.OPERATOR),
        ("42501", Fault.OPERATOR),
        ("42P01", Fault.OPERATOR),
        ("42703", Fault.OPERATOR),
        ("22001", Fault.PERMANENT),
        ("22021", Fault.PERMANENT),
        ("23505", Fault.PERMANENT),
        ("23503", Fault.PERMANENT),
        ("54000", Fault.PERMANENT),
    ],
)
def test_sqlstates_of_postgresql(sqlstate: str, fault: Fault) -> None:
    assert classify(psycopg.errors.lookup(sqlstate)("text")) is fault


@pytest.mark.parametrize(
    "kind", [pymysql.err.OperationalError, pymysql.err.DataError, pymysql.err.InternalError]
)
@pytest.mark.parametrize(
    ("number", "fault"),
    [
        *((number, Fault.TRANSIENT) for number in (1205, 1213, 1020)),
        *(
            (number, Fault.AWAY)
            for number in (1040, 1047, 1053, 1290, 1792, 1836, 1927, 2003, 2006, 2013, 1969)
        ),
        *((number, Fault.OPERATOR) for number in (1045, 1049, 1142, 1146, 1054)),
        *((number, Fault.PERMANENT) for number in (1062, 1264, 1366, 1406, 1452, 4025)),
    ],
)
def test_numbers_of_mysql_whatever_the_class(kind: type[Exception], number: int, fault: Fault) -> None:
    assert classify(kind(number, "text")) is fault


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        (sqlite3.SQLITE_BUSY, Fault.TRANSIENT),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, Fault.TRANSIENT),
        (sqlite3.SQLITE_LOCKED, Fault.TRANSIENT),
        (sqlite3.SQLITE_FULL, Fault.AWAY),
        (sqlite3.SQLITE_IOERR_WRITE, Fault.AWAY),
        (sqlite3.SQLITE_READONLY, Fault.OPERATOR),
        (sqlite3.SQLITE_ERROR, Fault.OPERATOR),
        (sqlite3.SQLITE_CONSTRAINT_UNIQUE, Fault.PERMANENT),
        (sqlite3.SQLITE_TOOBIG, Fault.PERMANENT),
    ],
)
def test_codes_of_sqlite_extended_ones_too(code: int, fault: Fault) -> None:
    assert classify(sqlite_error(code)) is fault


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"), Fault.PERMANENT),
        (OverflowError("Python int too large to convert to SQLite INTEGER"), Fault.PERMANENT),
        (pymysql.err.ProgrammingError("nan can not be used with MySQL"), Fault.PERMANENT),
        (psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes"), Fault.PERMANENT),
        (psycopg.OperationalError("connection failed: Connection refused"), Fault.AWAY),
        (psycopg.OperationalError('FATAL:  password authentication failed for user "x"'), Fault.OPERATOR),
        (psycopg.OperationalError('FATAL:  database "x" does not exist'), Fault.OPERATOR),
        (psycopg.OperationalError("FATAL:  the database system is starting up"), Fault.AWAY),
        (pymysql.err.InterfaceError(0, ""), Fault.AWAY),
        (pymysql.err.OperationalError(9999, "what nobody has classed"), Fault.AWAY),
        (sa.exc.TimeoutError("QueuePool limit"), Fault.AWAY),
        (ConnectionResetError(), Fault.AWAY),
        (ZeroDivisionError(), Fault.PERMANENT),
        (KeyError("a bug of ours"), None),
        (sa.exc.InvalidRequestError("a bug of ours"), None),
    ],
)
def test_errors_without_a_code(error: Exception, fault: Fault | None) -> None:
    assert classify(error) is fault


def test_an_error_is_judged_beneath_the_wrapping_of_sqlalchemy() -> None:
    deadlock = pymysql.err.OperationalError(1213, "Deadlock found")
    assert classify(sa.exc.OperationalError("INSERT", {}, deadlock)) is Fault.TRANSIENT


def test_what_the_caller_sees_is_one_line_with_the_code_and_no_parameters() -> None:
    error = pymysql.err.OperationalError(1045, "Access denied for\n user 'x'@'y' (using password: YES)")
    wrapped = sa.exc.OperationalError("INSERT INTO event ...", {"password": "s3cret"}, error)
    seen = unavailable(wrapped)
    assert seen.operator
    assert str(seen).startswith("1045: Access denied for user 'x'@'y' (using password: YES)")
    assert "s3cret" not in str(seen)
    assert str(refused(pymysql.err.DataError(1406, "Data too long"))) == "1406: Data too long"
    assert describe(ValueError()) == "ValueError"
