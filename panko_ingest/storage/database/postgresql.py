"""What is PostgreSQL's own: sessions, errors, rights, settings that keep what is committed."""

import logging
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import URL

from panko_ingest.findings import FAILURE, OK, WARNING, Finding
from panko_ingest.storage.database import base, blockers, pooling, postgresql_driver, postgresql_errors
from panko_ingest.storage.errors import ErrorClass
from panko_ingest.storage.models import LockWait
from panko_ingest.storage.settings import StorageSettings
from panko_ingest.storage.tables import EVENT_TABLES, EventType

LOG = logging.getLogger(__name__)

_LOCK_WAITS = """
SELECT DISTINCT holder.pid, holder.usename, holder.application_name, holder.client_addr::text, holder.state,
    extract(epoch FROM clock_timestamp() - holder.xact_start)
FROM pg_stat_activity waiter
CROSS JOIN LATERAL unnest(pg_blocking_pids(waiter.pid)) AS blocking (pid)
JOIN pg_stat_activity holder ON holder.pid = blocking.pid
WHERE waiter.wait_event_type = 'Lock' AND waiter.datname = current_database()
    AND waiter.usename = current_user AND holder.pid <> waiter.pid
"""

# No time limit of the server ends a COPY that waits for its client, and what changes the schema has none.
_END_STUCK = """
SELECT pid, extract(epoch FROM clock_timestamp() - state_change), pg_terminate_backend(pid)
FROM pg_stat_activity WHERE datname = current_database() AND usename = session_user
    AND application_name = current_setting('application_name') AND state <> 'idle'
    AND wait_event = 'ClientRead' AND state_change < clock_timestamp() - make_interval(secs => %(patience)s)
    AND pid IN ({in_the_way})
"""
_END_WHO_BLOCKS = _END_STUCK.format(
    in_the_way="""SELECT unnest(pg_blocking_pids(waiter.pid)) FROM pg_stat_activity waiter
                  WHERE waiter.wait_event_type = 'Lock' AND waiter.datname = current_database()"""
)
_END_WHO_HOLDS = _END_STUCK.format(
    in_the_way="""SELECT pid FROM pg_locks WHERE granted
                  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
                  AND relation IN (SELECT to_regclass(name) FROM unnest(%(tables)s::text[]) AS name)"""
)
_POLICIES = """
SELECT name FROM unnest(%s::text[]) AS name
WHERE to_regclass(name) IS NOT NULL AND row_security_active(to_regclass(name))
"""
_NO_POLICY = """
SELECT row_security_active(to_regclass(%(table)s)) AND NOT EXISTS (
    SELECT FROM pg_policy WHERE polrelid = to_regclass(%(table)s) AND polpermissive AND polcmd IN ('a', '*')
    AND EXISTS (SELECT FROM unnest(polroles) AS role WHERE role = 0 OR pg_has_role(role, 'USAGE')))
"""
_OWN_LIMIT = "SELECT setting::int FROM pg_settings WHERE name = 'statement_timeout'"  # in milliseconds
STUCK = 60.0
"""Seconds for which a session may wait for its client where statements have no time limit."""

_KEEPALIVES = {
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
"""The server's side of what we set on ours; without it a peer that vanished is noticed after two hours."""

_BEGINNING = "panko_ingest.beginning"
"""Key of a pooled connection's ``info``: a statement that each of its transactions has to begin with."""

_TRANSACTION_TIMEOUT = 17_00_00  # the PostgreSQL that came with it

_TABLE_USERS = """
SELECT CASE WHEN l.pid IS NULL THEN 'a prepared transaction (see pg_prepared_xacts)' ELSE
    format('session %%s of %%s (%%s)', l.pid, coalesce(usename, backend_type),
           concat_ws(', ', nullif(application_name, ''), client_addr, state,
                     'for ' || extract(epoch FROM clock_timestamp() - xact_start)::int || ' s')) END
FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
WHERE relation IN (SELECT to_regclass(name) FROM unnest(%(tables)s::text[]) AS name)
AND granted AND l.pid IS DISTINCT FROM pg_backend_pid()
AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
AND (l.pid IS NULL OR xact_start < clock_timestamp() - make_interval(secs => %(seconds)s))
GROUP BY l.pid, usename, backend_type, application_name, client_addr, state, xact_start
ORDER BY xact_start LIMIT 5
"""

# Where ids lead to days, the number is what is below the day.
# That of partitioned tables belongs to none of them.
_SEQUENCE = "coalesce(pg_get_serial_sequence({0}, 'id')::regclass, to_regclass({0} || '_id_seq'))"

_BEHIND = f"""
SELECT sequence::text, mod(%(largest)s::bigint, 1::bigint << 40)
FROM (SELECT {_SEQUENCE.format("%(table)s")} AS sequence) AS one
WHERE has_sequence_privilege(sequence, 'USAGE, SELECT')
AND coalesce(pg_sequence_last_value(sequence), 0) < mod(%(largest)s::bigint, 1::bigint << 40)
"""  # noqa: S608 - ours

_MAY_USE_SEQUENCE = f"""
SELECT has_sequence_privilege(sequence, 'USAGE')
FROM (SELECT {_SEQUENCE.format("CAST(:table AS text)")} AS sequence) AS one WHERE sequence IS NOT NULL
"""  # noqa: S608 - ours

_RIGHTS_TO_EXPIRE = """
SELECT pg_has_role(relowner, %(how)s), has_sequence_privilege('event_id_seq', 'SELECT'),
       quote_ident(pg_get_userbyid(relowner))
FROM pg_class WHERE oid = to_regclass('event') AND relkind = 'p'
"""


class Database(postgresql_errors.Database):
    """PostgreSQL by psycopg."""

    driver = "psycopg"
    no_other_driver = True
    extra = "panko-ingest[postgresql]"
    has_partitions = True
    nulls_last = True
    now = "extract(epoch FROM clock_timestamp())"

    def create_engine(self, url: URL, settings: StorageSettings) -> Engine:
        """Return an engine whose sessions have time limits and notice a peer that vanished."""
        arguments: dict[str, Any] = {
            "connect_timeout": pooling.CONNECT_TIMEOUT,
            "client_encoding": "utf8",
            # A peer that vanished is noticed within a minute: while we wait for its answer, and when it
            # does not even confirm that it got our question, of which keepalives would not tell.
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            "tcp_user_timeout": 60_000,
            "application_name": "panko-ingest",
        }
        arguments = {name: value for name, value in arguments.items() if name not in url.query}
        if postgresql_driver.wants_whoever_can_be_written_to(url):
            # After a failover the first host may be a standby, which answers and takes nothing.
            arguments["target_session_attrs"] = "read-write"
        if told := "prepare_threshold" in url.query:
            threshold = str(url.query["prepare_threshold"])
            arguments["prepare_threshold"] = int(threshold) if threshold.isdigit() else None
            url = url.difference_update_query(["prepare_threshold"])
        if postgresql_driver.asks_for_tls(url):
            url = url.update_query_dict({"sslmode": "require"})
        engine = create_engine(
            url, isolation_level="READ COMMITTED", connect_args=arguments, **base.pool_arguments(settings)
        )
        postgresql_driver.refuse_unknown_options(url)
        event.listen(engine, "do_connect", postgresql_driver.connect)

        def begin(connection: Connection) -> None:
            if statement := connection.info.get(_BEGINNING):
                # A caller that wants the rows of a query bit by bit does not mean these.
                at_once = {"stream_results": False, "yield_per": None}
                connection.exec_driver_sql(statement, execution_options=at_once)

        def set_up(connection: Any, record: Any) -> None:
            postgresql_driver.read_far_times(connection)
            if postgresql_driver.is_pooler(connection):
                # What we set in a session of the server, and prepare there, others would meet.
                record.info[_BEGINNING] = _set_session(connection, settings, "true")
                record.info[pooling.ANY_SERVER] = True
                if not told:
                    connection.prepare_threshold = None
                # Only now, because every statement of an engine with listeners takes longer.
                event.listen(engine, "begin", begin)
            else:
                connection.execute(_set_session(connection, settings, "false"))
            connection.commit()

        pooling.set_up_each(engine, set_up)
        blockers.end_while_waiting(engine, settings.statement_timeout or STUCK, _end_stuck)
        if settings.statement_timeout:
            patience = 2 * settings.statement_timeout + pooling.CONNECT_TIMEOUT
            postgresql_driver.break_hung_connections(engine, patience)
        return engine

    def read_from_any_host(self, engine: Engine) -> None:
        """Take our own default back: a standby is as good to read from, and may be all that one is let at."""
        if "target_session_attrs" not in engine.url.query:
            event.remove(engine, "do_connect", postgresql_driver.connect)
            event.listen(engine, "do_connect", postgresql_driver.connect_to_any_host)

    def encryption(self, connection: Connection) -> str:
        """Ask libpq."""
        driver: Any = connection.connection.driver_connection
        options = driver.info.get_parameters()
        mode, root = options.get("sslmode"), options.get("sslrootcert")
        return base.describe_encryption(
            encrypted=driver.pgconn.ssl_in_use,
            verified=mode in {"verify-ca", "verify-full"} or (mode == "require" and root is not None),
            name_verified=mode == "verify-full",
        )

    def limits(self, connection: Connection) -> dict[str, Any]:
        """Return what text can't hold."""
        return {"nul": False}

    def check(self, connection: Connection) -> Iterator[Finding]:
        """Tell whether the server keeps what it has committed, and takes any text."""
        rows = connection.exec_driver_sql("SELECT name, setting FROM pg_settings")
        yield from base.judge_settings(
            {row[0]: row[1] for row in rows},
            {
                "synchronous_commit": ("on", "local", "remote_write", "remote_apply"),
                "fsync": ("on",),
                "full_page_writes": ("on",),
            },
            base.LOSES_WHAT_WAS_ACKNOWLEDGED,
        )
        yield from base.judge_settings(
            {
                "session_replication_role": connection.exec_driver_sql(
                    "SHOW session_replication_role"
                ).scalar_one()
            },
            {"session_replication_role": ("origin",)},
            "references are not checked, and an event whose type is gone is stored and never found",
        )
        encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
        if encoding == "UTF8":
            yield Finding(OK, "encoding", encoding)
        else:
            yield Finding(FAILURE, "encoding", f"{encoding}: the database must be made with ENCODING 'UTF8'")
        if tables := tables_with_policies(connection):
            role = connection.exec_driver_sql("SELECT current_user").scalar_one()
            text = (
                f"holds for {role} on {', '.join(tables)}: batches go by INSERT, not COPY, and take up to "
                f"half as long again; as superuser, ALTER ROLE {role} BYPASSRLS"
            )
            yield Finding(WARNING, "row-level security", text)

    def lock_waits(self, connection: Connection) -> Iterator[LockWait]:
        """Yield who keeps our sessions waiting; of another role's sessions little may be shown."""
        for pid, role, name, host, state, seconds in connection.exec_driver_sql(_LOCK_WAITS):
            where = f" from {host}" if host else ""
            what = f", {state}" if state else ""
            yield LockWait(
                f"process {pid} of {role or 'the server'} ({name or 'a client'}{where}{what}) holds a lock",
                None if seconds is None else float(seconds),
            )

    def table_users(self, connection: Connection, seconds: float) -> Iterator[str]:
        """Yield who has the tables of events in use, in a transaction that has lasted so many seconds."""
        given = {"tables": list(EVENT_TABLES), "seconds": seconds}
        yield from connection.exec_driver_sql(_TABLE_USERS, given).scalars()

    def end_stuck_users(self, connection: Connection) -> None:
        """End sessions like ours that use the tables of events while they wait for a client that is gone."""
        milliseconds = connection.exec_driver_sql(_OWN_LIMIT).scalar_one()
        given = {"tables": list(EVENT_TABLES), "patience": milliseconds / 1000 or STUCK}
        blockers.count(connection.engine, _ended(connection.exec_driver_sql(_END_WHO_HOLDS, given)))

    def sequences_behind(self, connection: Connection, largest: Mapping[str, int]) -> Iterator[str]:
        """Yield what sets right each sequence that would give an id which is used."""
        for table, number in largest.items():
            given = {"table": table, "largest": number}
            for sequence, last in connection.exec_driver_sql(_BEHIND, given):
                yield f"SELECT setval('{sequence}', {last})"

    def missing_rights(self, connection: Connection, tables: Sequence[str]) -> list[str]:
        """Return the sequences of ids that our role may not use."""
        statement = sa.text(_MAY_USE_SEQUENCE)
        return [
            f"USAGE on the sequence of {table}.id"
            for table in tables
            if connection.scalar(statement, {"table": table}) is False
        ]

    def missing_rights_to_expire(self, connection: Connection) -> list[str]:
        """Return what our role lacks for making and dropping partitions, where there are any."""
        how = "SET" if (connection.dialect.server_version_info or ())[:1] >= (16,) else "MEMBER"
        found = connection.exec_driver_sql(_RIGHTS_TO_EXPIRE, {"how": how}).first()
        if found is None:
            return []
        may_act_as_owner, may_read_sequence, owner = found
        missing = [] if may_act_as_owner else [f"membership in {owner}, which makes and drops partitions"]
        return missing if may_read_sequence else [*missing, "SELECT on event_id_seq"]

    def missing_policy(self, connection: Connection, table: str) -> str:
        """Look for a policy of row-level security that may admit a new row of ours."""
        if not connection.exec_driver_sql(_NO_POLICY, {"table": table}).scalar_one():
            return ""
        role = connection.exec_driver_sql("SELECT quote_ident(current_user)").scalar_one()
        return f"no policy admits any: CREATE POLICY panko_ingest ON {table} TO {role} USING (true)"

    def may_hide_events(self, connection: Connection) -> bool:
        """Tell whether row-level security holds for our role."""
        return bool(tables_with_policies(connection))

    def waiting_briefly(self, connection: Connection) -> AbstractContextManager[bool]:
        """Set the shortest time for the rest of the transaction: 0 would be for ever."""
        connection.exec_driver_sql("SET LOCAL lock_timeout = '1ms'")
        return nullcontext(True)

    def check_references_now(self, connection: Connection) -> None:
        """Check deferred constraints with each statement."""
        connection.exec_driver_sql("SET CONSTRAINTS ALL IMMEDIATE")

    def commit_after_what_was_found(self, connection: Connection) -> None:
        """Write something: a COMMIT that has nothing to write does not wait for a synchronous standby.

        After a crash the server has transactions for which it was still waiting, and shows them.
        """
        if not connection.exec_driver_sql("SHOW synchronous_standby_names").scalar_one():
            return
        # Needs no right that recording does not need, and is logged though it is rolled back. A number for
        # the transaction alone would not be waited for.
        savepoint = connection.begin_nested()
        name = secrets.token_hex(16)
        try:
            new = connection.scalar(sa.insert(EventType).values(desc=name).returning(EventType.id))
            refused = new is None  # a trigger leaves it out without a word
        except sa.exc.DBAPIError as error:
            refused = self.meaning_of(error.orig or error) in {ErrorClass.PERMANENT, ErrorClass.OPERATOR}
            if not refused:
                raise
        savepoint.rollback()
        if refused:  # an operator's rule admits known types only; this needs a right of its own
            connection.exec_driver_sql("SELECT pg_logical_emit_message(true, 'panko_ingest', '')")

    def insert_if_absent(self, table: Any, key: str) -> sa.Insert:
        """Return an INSERT that does nothing where the key is there."""
        return postgresql.insert(table).on_conflict_do_nothing(index_elements=[key])

    def insert_or_update(
        self, connection: Connection, table: Any, row: Mapping[str, Any], key: str, change: Mapping[str, Any]
    ) -> None:
        """Insert a row, or change the one that has the same key."""
        insert = postgresql.insert(table).values(row)
        connection.execute(insert.on_conflict_do_update(index_elements=[key], set_=change))

    def delete_by_id(self, connection: Connection, table: str, column: str, ids: Sequence[int]) -> int:
        """Delete rows by an indexed number, in their order; return how many were there."""
        # Without fresh statistics the planner may read whole tables to find a few rows.
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        statement = f"DELETE FROM {table} WHERE {column} = ANY(%s::bigint[])"  # noqa: S608 - ours
        numbers = ",".join(map(str, ids))
        return connection.exec_driver_sql(statement, (f"{{{numbers}}}",)).rowcount


def tables_with_policies(connection: Connection) -> list[str]:
    """Return the tables of events on which row-level security holds for our role, which forbids COPY."""
    return list(connection.exec_driver_sql(_POLICIES, (list(EVENT_TABLES),)).scalars())


def _end_stuck(connection: Connection, patience: float) -> int:
    """End sessions like ours that keep others waiting while they wait for a client that is gone."""
    return _ended(connection.exec_driver_sql(_END_WHO_BLOCKS, {"patience": patience}))


def _ended(found: Iterable[Any]) -> int:
    done = 0
    for pid, seconds, ended in found:
        LOG.warning(
            "Ended session %d of PostgreSQL, one of ours that had waited for its client in the middle of its "
            "work for %.0f s and kept others waiting",
            pid,
            seconds,
        )
        done += ended
    return done


def _set_session(connection: Any, settings: StorageSettings, of_transaction: str) -> str:
    """Return one statement that sets a session up, or a transaction where a pooler hands sessions round."""
    values = {
        "statement_timeout": f"{settings.statement_timeout * 1000:.0f}",
        # A session whose network went away in a transaction keeps its locks until the server ends it,
        # and who comes back with the same events waits for them.
        "idle_in_transaction_session_timeout": f"{settings.statement_timeout * 1000:.0f}",
        "lock_timeout": f"{settings.lock_timeout * 1000:.0f}",
        # A page is ready before the helpers of a parallel plan have started, which the planner prefers.
        "max_parallel_workers_per_gather": "0",
        # Where a server or a role shortens floats, others than were stored would be read.
        "extra_float_digits": "3",
        # The arrays of a few events hold NULL.
        "array_nulls": "on",
        # Partitions are known by the names of their tables, which come in quotes where a server wants it so.
        "quote_all_identifiers": "off",
        # Or nobody hears that a COMMIT was kept from waiting for a standby.
        "client_min_messages": "warning",
    }
    if of_transaction == "false":
        values |= _KEEPALIVES
    # Who has no limit may hold a lock, or change the schema, for longer than the server lets others.
    if not settings.statement_timeout and connection.info.server_version >= _TRANSACTION_TIMEOUT:
        values["transaction_timeout"] = "0"
    calls = (f"set_config('{name}', '{value}', {of_transaction})" for name, value in values.items())
    return f"SELECT {', '.join(calls)}"
