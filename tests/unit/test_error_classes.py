"""What an error of a database means, by its code and not by its class."""

import sqlite3

import psycopg
import pymysql
import pytest
import sqlalchemy as sa

from panko_ingest.storage.database.error_classes import classify, describe, refused, unavailable
from panko_ingest.storage.errors import ErrorClass


def sqlite_error(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("text that nobody reads")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("sqlstate", "fault"),
    [
        ("40001", ErrorClass.TRANSIENT),
        ("40P01", ErrorClass.TRANSIENT),
        ("55P03", ErrorClass.TRANSIENT),
        ("08006", ErrorClass.AWAY),
        ("25006", ErrorClass.AWAY),
        ("53100", ErrorClass.AWAY),
        ("53300", ErrorClass.AWAY),
        ("57014", ErrorClass.AWAY),
        ("57P01", ErrorClass.AWAY),
        ("57P03", ErrorClass.AWAY),
        ("XX000", ErrorClass.AWAY),
        ("26000", ErrorClass.AWAY),
        ("28P01", ErrorClass.OPERATOR),
        ("3D000", ErrorClass.OPERATOR),
        ("42501", ErrorClass.OPERATOR),
        ("42P01", ErrorClass.OPERATOR),
        ("42703", ErrorClass.OPERATOR),
        ("22001", ErrorClass.PERMANENT),
        ("22021", ErrorClass.PERMANENT),
        ("23505", ErrorClass.PERMANENT),
        ("23503", ErrorClass.PERMANENT),
        ("54000", ErrorClass.PERMANENT),
        ("39P01", ErrorClass.PERMANENT),
    ],
)
def test_errors_of_postgresql_are_classed_by_sqlstate(sqlstate: str, fault: ErrorClass) -> None:
    assert classify(psycopg.errors.lookup(sqlstate)("text")) is fault


@pytest.mark.parametrize(
    "kind", [pymysql.err.OperationalError, pymysql.err.DataError, pymysql.err.InternalError]
)
@pytest.mark.parametrize(
    ("number", "fault"),
    [
        *((number, ErrorClass.TRANSIENT) for number in (1205, 1213, 1020)),
        *(
            (number, ErrorClass.AWAY)
            for number in (1040, 1047, 1053, 1290, 1792, 1836, 1927, 2003, 2006, 2013, 1969)
        ),
        *((number, ErrorClass.OPERATOR) for number in (1045, 1049, 1142, 1146, 1054)),
        *((number, ErrorClass.PERMANENT) for number in (1062, 1264, 1366, 1406, 1452, 1644, 4025, 30001)),
    ],
)
def test_errors_of_mysql_are_classed_by_their_number_whatever_the_class(
    kind: type[Exception], number: int, fault: ErrorClass
) -> None:
    assert classify(kind(number, "text")) is fault


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        (sqlite3.SQLITE_BUSY, ErrorClass.TRANSIENT),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, ErrorClass.TRANSIENT),
        (sqlite3.SQLITE_LOCKED, ErrorClass.TRANSIENT),
        (sqlite3.SQLITE_FULL, ErrorClass.AWAY),
        (sqlite3.SQLITE_IOERR_WRITE, ErrorClass.AWAY),
        (sqlite3.SQLITE_READONLY, ErrorClass.OPERATOR),
        (sqlite3.SQLITE_ERROR, ErrorClass.OPERATOR),
        (sqlite3.SQLITE_CONSTRAINT_UNIQUE, ErrorClass.PERMANENT),
        (sqlite3.SQLITE_TOOBIG, ErrorClass.PERMANENT),
    ],
)
def test_errors_of_sqlite_are_classed_by_their_code_extended_ones_too(code: int, fault: ErrorClass) -> None:
    assert classify(sqlite_error(code)) is fault


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"), ErrorClass.PERMANENT),
        (OverflowError("Python int too large to convert to SQLite INTEGER"), ErrorClass.PERMANENT),
        (pymysql.err.ProgrammingError("nan can not be used with MySQL"), ErrorClass.PERMANENT),
        (psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes"), ErrorClass.PERMANENT),
        (psycopg.OperationalError("connection failed: Connection refused"), ErrorClass.AWAY),
        (
            psycopg.OperationalError("FATAL: password authentication failed"),
            ErrorClass.OPERATOR,
        ),
        (psycopg.OperationalError('FATAL:  database "x" does not exist'), ErrorClass.OPERATOR),
        (psycopg.OperationalError("FATAL:  the database system is starting up"), ErrorClass.AWAY),
        (pymysql.err.InterfaceError(0, ""), ErrorClass.AWAY),
        (pymysql.err.OperationalError(9999, "what nobody has classed"), ErrorClass.AWAY),
        (sa.exc.TimeoutError("QueuePool limit"), ErrorClass.AWAY),
        (ConnectionResetError(), ErrorClass.AWAY),
        (ZeroDivisionError(), ErrorClass.PERMANENT),
        (KeyError("a bug of ours"), None),
        (sa.exc.InvalidRequestError("a bug of ours"), None),
    ],
)
def test_errors_without_a_code_are_classed_by_what_they_are(
    error: Exception, fault: ErrorClass | None
) -> None:
    assert classify(error) is fault


def test_an_error_is_judged_beneath_the_wrapping_of_sqlalchemy() -> None:
    deadlock = pymysql.err.OperationalError(1213, "Deadlock found")
    assert classify(sa.exc.OperationalError("INSERT", {}, deadlock)) is ErrorClass.TRANSIENT


def test_the_caller_sees_an_error_of_one_line_with_the_code_and_no_parameters() -> None:
    error = pymysql.err.OperationalError(1045, "Access denied for\n user 'x'@'y' (using password: YES)")
    wrapped = sa.exc.OperationalError("INSERT INTO event ...", {"password": "s3cret"}, error)
    seen = unavailable(wrapped)
    assert seen.operator
    assert str(seen).startswith("1045: Access denied for user 'x'@'y' (using password: YES)")
    assert "s3cret" not in str(seen)
    assert str(refused(pymysql.err.DataError(1406, "Data too long"))) == "1406: Data too long"
    assert describe(ValueError()) == "ValueError"


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (pymysql.err.OperationalError(1045, "Access denied for user"), "check user, password"),
        (pymysql.err.OperationalError(1049, "Unknown database"), "check user, password"),
        (
            psycopg.OperationalError("FATAL: password authentication failed"),
            "check user, password",
        ),
        (psycopg.errors.InvalidPassword("password authentication failed"), "check user, password"),
        (psycopg.errors.UndefinedTable("relation does not exist"), "db sync` makes it"),
        (pymysql.err.ProgrammingError(1146, "Table doesn't exist"), "db sync` makes it"),
    ],
)
def test_a_login_that_is_refused_is_not_told_as_a_schema_that_is_missing(
    error: Exception, advice: str
) -> None:
    text = str(unavailable(error))
    assert advice in text
    assert text.count("(") == 1
