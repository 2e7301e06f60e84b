"""What PostgreSQL's errors mean: by SQLSTATE, and by who in the server says so."""

import re
from collections.abc import Mapping
from typing import ClassVar

from panko_ingest.storage.database import base
from panko_ingest.storage.database.base import Code
from panko_ingest.storage.errors import ErrorClass

_OURS = "PI"
"""Class of what our own trigger says to who still takes the tables for plain ones; the next try does not."""

# SQLSTATEs and their classes, which appendix A of PostgreSQL's manual lists.
_MEANINGS = {
    ErrorClass.TRANSIENT: ("40", "55P03", "55006"),
    ErrorClass.AWAY: (
        *("08", "24", "25", "26", "2D", "34", "3B", "53", "57", "58", "72", "HV", "XX"),
        # What ought not to be: unknown, and to keep the data is always right.
        *("00", "01", "02", "03", "0B", "0F", "0L", "0P", "0Z", "10"),
        _OURS,
    ),
    ErrorClass.OPERATOR: ("0A", "28", "2B", "3D", "3F", "42", "55", "57P04", "F0"),
    ErrorClass.PERMANENT: ("09", "20", "21", "22", "23", "27", "2F", "38", "39", "44", "54", "P0"),
}

_SAID_OF_ROWS = {"exec_stmt_raise", "ExecWithCheckOptions"}
"""Functions of the server that refuse a row for an operator's trigger or policy, by whatever code."""

_UNPUBLISHABLE = "CheckCmdReplicaIdentity"
"""The function of the server that refuses to delete what a publication could not tell."""

_NAME = re.compile(r"""["'»«„]\s?(\w+)\s?["'»«“]""")  # as languages quote it

_REFUSALS = ("authentication", "does not exist", "pg_hba.conf", "permission", "not permitted")


class Database(base.Database):
    """PostgreSQL as far as its errors go."""

    codes: ClassVar[Mapping[Code, ErrorClass]] = {
        code: what for what, codes in _MEANINGS.items() for code in codes
    }
    cannot_write_again = frozenset({"25006", "57P01", "57P02", "57P03", "57P05"})
    broken_reference = frozenset({"23503"})
    clash = frozenset({"23505"})
    lock_wait = frozenset({"55P03"})
    not_allowed = frozenset({"42501"})

    def code_of(self, error: BaseException) -> Code | None:
        """Return the SQLSTATE."""
        sqlstate = getattr(error, "sqlstate", None)
        return sqlstate if isinstance(sqlstate, str) else None

    def meaning_of(self, error: BaseException) -> ErrorClass | None:
        """Judge by the SQLSTATE or its class; one that PostgreSQL does not have is a trigger's own."""
        code = self.code_of(error)
        if code is not None:
            meaning = self.codes.get(code) or self.codes.get(str(code)[:2], ErrorClass.PERMANENT)
            if meaning is ErrorClass.TRANSIENT or str(code).startswith(_OURS):
                return meaning
            return ErrorClass.PERMANENT if _told_by(error) in _SAID_OF_ROWS else meaning
        # libpq gives no code when a connection is refused; a server's own refusal needs an operator.
        text = str(error)
        refused = "FATAL" in text and any(word in text for word in _REFUSALS)
        return ErrorClass.OPERATOR if refused else None

    def refuses_login(self, error: BaseException) -> bool:
        """Tell so by the SQLSTATE, or by libpq's text, which comes without one."""
        code = self.code_of(error)
        if code is not None:
            return str(code).startswith(("28", "3D"))
        return self.meaning_of(error) is ErrorClass.OPERATOR

    def words_of(self, error: BaseException) -> str | None:
        """Return the SQLSTATE and the primary message."""
        code = self.code_of(error)
        primary = getattr(getattr(error, "diag", None), "message_primary", None) or str(error)
        return None if code is None else f"{code}: {primary}"

    def remedy(self, error: BaseException) -> str:
        """Tell what lets a table without a key be published, and who needs one that is to be dropped."""
        if self.code_of(error) == "2BP01":
            return _detail(error)
        found = _NAME.search(str(error)) if _told_by(error) == _UNPUBLISHABLE else None
        return f"a publication takes it in: ALTER TABLE {found[1]} REPLICA IDENTITY FULL" if found else ""

    def is_about_event_type(self, error: BaseException) -> bool:
        """Look at the column that the server names."""
        return "(event_type_id)=(" in _detail(error)

    def is_fault_of_ids(self, error: BaseException, statement: str) -> bool:
        """Look at the column that the server names; of an event's only the ids can be out of range."""
        code = self.code_of(error)
        return (
            code == "2200H"
            or (code == "23505" and "(id)=(" in _detail(error))
            or (code == "22003" and "INSERT INTO event" in statement)
        )


def _detail(error: BaseException) -> str:
    return getattr(getattr(error, "diag", None), "message_detail", None) or ""


def _told_by(error: BaseException) -> str:
    return getattr(getattr(error, "diag", None), "source_function", None) or ""
