"""What is SQLite's own: pragmas, the write lock, errors, file systems on which it loses data."""

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from urllib.parse import unquote, urlsplit

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, create_engine, event, exc
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import URL
from sqlalchemy.util import asbool

from panko_ingest.errors import DatabaseUrlError
from panko_ingest.findings import FAILURE, OK, Finding
from panko_ingest.storage.database import base, pooling
from panko_ingest.storage.database.base import Code
from panko_ingest.storage.errors import ErrorClass, StorageUnavailable
from panko_ingest.storage.settings import StorageSettings

_NETWORK_FILE_SYSTEMS = {
    "9p", "afs", "ceph", "cifs", "fuse.ceph", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs",
    "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs",
}  # fmt: skip
_FOREVER = 2**31 - 1
_IDENTITY = "panko_ingest.files"
_LOCK_LOOKS, _LOCK_PAUSE = 1.0, 0.001
# A batch of a thousand events changes more than SQLite's 2 MB of cache, and fills its log of 4 MB. Each time
# the log is full (here: of 64 MB) one writer puts it into the file, and all wait.
_SIZES = ("cache_size = -16384", "wal_autocheckpoint = 16000")
# The last as on the other databases.
_RULES = ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "case_sensitive_like = ON")

_MEANINGS = {
    ErrorClass.TRANSIENT: (
        sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_SCHEMA, sqlite3.SQLITE_PROTOCOL,
    ),
    ErrorClass.AWAY: (
        sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL,
    ),
    ErrorClass.OPERATOR: (
        sqlite3.SQLITE_ERROR, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_AUTH, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_NOLFS,
    ),
    ErrorClass.PERMANENT: (
        sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_RANGE,
    ),
}  # fmt: skip
_NOT_OURS = frozenset({sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM})


class Database(base.Database):
    """SQLite, in a file or in memory."""

    one_writer_at_a_time = True
    integers_have_64_bits = True
    codes: ClassVar[Mapping[Code, ErrorClass]] = {
        code: what for what, codes in _MEANINGS.items() for code in codes
    }
    broken_reference = frozenset({sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY})
    clash = frozenset({sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY})

    def create_engine(self, url: URL, settings: StorageSettings) -> Engine:
        """Return an engine whose transactions begin as they say: to write, or only to read.

        :raises ConfigError: the file is on a network file system, or it is not clear which one it is.
        """
        arguments: dict[str, Any] = {"timeout": settings.lock_timeout or _FOREVER / 1000}
        path = _file(url)
        if path is None:
            arguments["check_same_thread"] = False
            pool = pooling.OneConnection
            engine = create_engine(url, poolclass=pool, connect_args=arguments, hide_parameters=True)
        else:
            refuse_network_file_system(path)
            engine = create_engine(url, connect_args=arguments, **base.pool_arguments(settings))

        def set_up(connection: sqlite3.Connection, _record: Any) -> None:
            # We begin transactions ourselves: the module would begin them too late.
            connection.isolation_level = None
            for pragma in (*_RULES, *_SIZES):
                connection.execute(f"PRAGMA {pragma}")

        pooling.set_up_each(engine, set_up)

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            writes = connection.get_execution_options().get("writes", False)
            driver: Any = connection.connection.driver_connection
            if not writes or not begin_writing(driver):
                connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

        if path is not None:
            event.listen(engine, "do_connect", partial(_refuse_to_make, path, _remedy_of_absence(url)))
            _follow_file(engine, path)
        return engine

    def bytes_of(self, column: Any) -> Any:
        """Look at the bytes, as a text's length is that before its first NUL."""
        return self._or_none(sa.func.length(sa.cast(column, sa.LargeBinary)))

    def make_file(self, engine: Engine) -> None:
        """Make it for its owner alone, where it is absent, unless its URL says that it has to be there."""
        path = _file(engine.url)
        if path is not None and _may_be_made(engine.url):
            _make_private_file(path)

    def missing_file(self, engine: Engine) -> str:
        """Look for the file.

        :raises StorageUnavailable: it is absent, and its URL lets nobody make it.
        """
        path = _file(engine.url)
        if path is None or not _is_absent(path):
            return ""
        if not _may_be_made(engine.url):
            why = f"{path} is not there: {_remedy_of_absence(engine.url)}"
            raise StorageUnavailable(why, operator=True)
        return str(path)

    def code_of(self, error: BaseException) -> Code | None:
        """Return the extended result code where it is one of ours, else its primary one."""
        code = getattr(error, "sqlite_errorcode", None)
        if not isinstance(code, int):
            return None
        return code if code in self.broken_reference | self.clash else code & 0xFF

    def meaning_of(self, error: BaseException) -> ErrorClass | None:
        """Judge by the primary code."""
        code = self.code_of(error)
        return self.codes.get(code & 0xFF) if isinstance(code, int) else None

    def words_of(self, error: BaseException) -> str | None:
        """Return the words, which say more than the number."""
        return None if self.code_of(error) is None else str(error)

    def remedy(self, error: BaseException) -> str:
        """Return what to do where files were mixed, or are not this user's."""
        if isinstance(error, _FilesAmiss):
            return error.remedy
        if self.code_of(error) in _NOT_OURS:
            return (
                f"may user {os.geteuid()} write the file that the URL of the database names, and its folder? "
                "`ls -l` tells whose they are"
            )
        if self.code_of(error) == sqlite3.SQLITE_NOTADB:
            return "let the URL of the database name another file, or put a backup in its place"
        return ""

    def is_about_event_type(self, error: BaseException) -> bool:
        """Take every broken reference for one."""
        return True

    def is_fault_of_ids(self, error: BaseException, statement: str) -> bool:
        """Look at the column that the error names."""
        return str(error) == "UNIQUE constraint failed: event.id"

    def check(self, connection: Connection) -> Iterator[Finding]:
        """Tell whether the file is damaged."""
        answer = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
        if answer == "ok":
            yield Finding(OK, "file", "no damage found")
        else:
            yield Finding(FAILURE, "file", f"{answer}: restore it from a backup")

    def insert_if_absent(self, table: Any, key: str) -> sa.Insert:
        """Return an INSERT that does nothing where the key is there."""
        return sqlite.insert(table).on_conflict_do_nothing(index_elements=[key])

    def insert_or_update(
        self, connection: Connection, table: Any, row: Mapping[str, Any], key: str, change: Mapping[str, Any]
    ) -> None:
        """Insert a row, or change the one that has the same key."""
        insert = sqlite.insert(table).values(row)
        connection.execute(insert.on_conflict_do_update(index_elements=[key], set_=change))


def begin_writing(driver: sqlite3.Connection) -> bool:
    """Begin a transaction that holds SQLite's write lock, if it is free within a second; tell whether it was.

    SQLite itself, when it has to wait, looks again after pauses of up to 100 ms, in which nobody writes.
    """
    (patience,) = driver.execute("PRAGMA busy_timeout").fetchone()
    deadline = time.monotonic() + min(_LOCK_LOOKS, patience / 1000)
    driver.execute("PRAGMA busy_timeout = 0")
    try:
        while True:
            try:
                driver.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    return False
            else:
                return True
            time.sleep(_LOCK_PAUSE)
    finally:
        driver.execute(f"PRAGMA busy_timeout = {patience}")


def refuse_network_file_system(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> None:
    """Refuse a SQLite file where its locks don't hold between hosts.

    :raises ConfigError: the file is, or would be, on a network file system.
    """
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return  # no such list on this system
    folder = Path(os.path.realpath(path.absolute().parent))
    best, kind = Path(), ""
    for line in lines:
        before, _, after = line.partition(" - ")
        mount = Path(before.split()[4].replace("\\040", " "))
        if folder.is_relative_to(mount) and len(mount.parts) >= len(best.parts):
            best, kind = mount, after.split()[0]
    if kind in _NETWORK_FILE_SYSTEMS:
        raise DatabaseUrlError(
            f"{path} is on a network file system ({kind} at {best}), where "
            "SQLite loses data: use a local file, or PostgreSQL or MariaDB"
        )


def _is_absent(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # of which SQLite tells
        return False
    return False


def _may_be_made(url: URL) -> bool:
    return not _is_uri(url) or url.query.get("mode", "rwc") == "rwc"


def _remedy_of_absence(url: URL) -> str:
    if _may_be_made(url):
        return "correct its name in the configuration, or run `panko-ingest db sync`, which makes it"
    return f"correct its name, or leave mode={url.query['mode']} out of its URL, which lets nobody make it"


def _refuse_to_make(path: Path, remedy: str, *_: object) -> None:
    # SQLite would make it, under a mistyped name as well, and where a backup is to be put.
    if _is_absent(path):
        raise _FilesAmiss(f"{path} is not there", remedy)


def _make_private_file(path: Path) -> None:
    """Make a file that is absent for its owner alone: events tell who did what.

    Its owner is its folder's where root makes it, or the daemon could not open what root's command made.

    :raises StorageUnavailable: it can't be made.
    """
    # Not by names later on, under which that owner may have put a link to any file or folder by then.
    parent, name = os.path.split(os.path.realpath(path))
    with contextlib.ExitStack() as opened:
        try:
            folder = os.open(parent, os.O_PATH | os.O_DIRECTORY)
            opened.callback(os.close, folder)
            file = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600, dir_fd=folder)
            opened.callback(os.close, file)
        except FileExistsError:
            return
        except OSError as error:
            why = f"{path} can't be made: {error.strerror}"
            if isinstance(error, PermissionError):
                why += f": may user {os.geteuid()} write its folder? `ls -ld` tells whose it is"
            raise StorageUnavailable(why, operator=True) from error
        if os.geteuid() == 0:
            owner = os.fstat(folder)
            # In a container root may not, and some file systems know no owners.
            with contextlib.suppress(OSError):
                os.fchown(file, owner.st_uid, owner.st_gid)


class _FilesAmiss(sqlite3.OperationalError):
    """A file that is absent, or one and a write-ahead log that don't belong together."""

    sqlite_errorcode = sqlite3.SQLITE_CANTOPEN

    def __init__(self, text: str, remedy: str) -> None:
        super().__init__(text)
        self.remedy = remedy


_Identity = tuple[int, int] | None


class _Files(NamedTuple):
    """Which files a connection has open, or finds in their places: the main one, and its write-ahead log."""

    main: _Identity
    log: _Identity


def _follow_file(engine: Engine, path: Path) -> None:
    """Connect anew where somebody has put another file, or none, in the place of the one that is open.

    The log of the file that was open stays where it is then, and SQLite would write what is in it over the
    other file. And what is committed to a log that somebody has removed is seen by nobody after us.
    """
    last = _Files(None, None)
    log_was_removed = False

    @event.listens_for(engine, "do_connect")
    def _refuse(*_: object) -> None:
        if log_was_removed:
            # Beside a connection that is still open, another would read a new log by the old one's index.
            raise _FilesAmiss(
                f"{path}-wal was removed or replaced while it was in use",
                "stop the daemon, put the backup in place again if it was a restore, run `db check`",
            )
        main, log = _files(path)
        if main and last.main and main != last.main and log and log == last.log:
            raise _FilesAmiss(
                f"{path} was replaced, and {path}-wal beside it belongs to the file that was there before",
                f"stop the daemon, remove {path}-wal and {path}-shm, start it again",
            )

    @event.listens_for(engine, "connect")
    def _note(_connection: Any, record: Any) -> None:
        nonlocal last
        record.info[_IDENTITY] = last = _files(path)

    @event.listens_for(engine, "checkout")
    def _check(_connection: Any, record: Any, _proxy: Any) -> None:
        nonlocal last, log_was_removed
        found, ours = _files(path), record.info[_IDENTITY]
        if found.main == ours.main and ours.log is None:  # its first transaction makes it
            record.info[_IDENTITY] = last = found
        elif found != ours:
            log_was_removed |= found.main == ours.main
            raise exc.DisconnectionError(f"{path} is another file by now")


def _files(path: Path) -> _Files:
    real = os.path.realpath(path)  # which goes on where links lead in a circle: SQLite tells of them
    return _Files(_identity(Path(real)), _identity(Path(f"{real}-wal")))


def _identity(path: Path) -> _Identity:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _file(url: URL) -> Path | None:
    """Return the file that a URL names; None for a database in memory."""
    text = url.database or ""
    if _is_uri(url):
        text = unquote(urlsplit(text).path)
    in_memory = text in {"", ":memory:"} or url.query.get("mode") == "memory"
    return None if in_memory else Path(text)


def _is_uri(url: URL) -> bool:
    """Tell whether SQLite is given a ``file:`` URI.

    :raises ConfigError: it is told so and gets none, or the reverse: the file would have another name.
    """
    told = asbool(url.query.get("uri", "false"))
    if told != str(url.database).startswith("file:") or ("mode" in url.query and not told):
        raise DatabaseUrlError(
            "a file: URI, and mode, take uri=true, which takes a file: URI: write "
            "sqlite:///file:/path?uri=true"
        )
    return told
