"""A store that refuses everything is not a thousand bad events: nothing of it becomes a dead letter."""

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa

from panko_ingest.storage import StorageUnavailable
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import Event, Trait
from panko_ingest.storage.recording import event_types
from panko_ingest.storage.tables import EventType
from tests import legacy
from tests.integration.storage.samples import (
    connect,
    count,
    counts,
    execute,
    is_partitioned,
    letter_for,
    make_event,
    make_events,
    make_letter,
    rows,
    stored_ids,
)
from tests.waiting import wait_until

LENGTHS = pytest.mark.parametrize("length", [1, 30], ids=["one event", "a batch"])


def refusal(store: Connection, length: int) -> StorageUnavailable:
    """Return why new events are refused; none of them may be stored or become a dead letter."""
    before = counts(store)
    with pytest.raises(StorageUnavailable) as caught:
        store.record_events(make_events(length, first=1000), [make_letter("a")][: length - 1], letter_for)
    assert counts(store) == before
    return caught.value


def assert_all_is_well(store: Connection, length: int) -> None:
    assert store.record_events(make_events(length, first=1000), (), letter_for).recorded == tuple(
        range(length)
    )
    assert count(store, "dead_letter") == 0
    store.prove_rows()


@pytest.fixture(params=["postgresql", "partitioned"])
def postgresql_store(request: pytest.FixtureRequest) -> Iterator[Connection]:
    store = Connection(request.getfixturevalue(f"{request.param}_url"))
    store.upgrade()
    store.record_events(make_events(50))
    yield store
    store.close()


@LENGTHS
@pytest.mark.postgresql
def test_a_sequence_behind_its_table_is_the_operators_to_mend(
    postgresql_store: Connection, length: int
) -> None:
    execute(postgresql_store, "SELECT setval('event_id_seq', 1, false)")

    error = refusal(postgresql_store, length)

    assert error.operator
    assert "set the sequence beyond the largest id" in str(error)
    if not is_partitioned(postgresql_store):  # else today's ids are others
        with pytest.raises(StorageUnavailable, match="sequence"):
            postgresql_store.prove_rows()
    execute(postgresql_store, "SELECT setval('event_id_seq', 5000)")
    assert_all_is_well(postgresql_store, length)


@LENGTHS
@pytest.mark.postgresql
def test_a_sequence_that_is_used_up_is_the_operators_to_mend(
    postgresql_store: Connection, length: int
) -> None:
    if is_partitioned(postgresql_store):
        pytest.skip("its sequence begins again")
    (last,) = rows(postgresql_store, "SELECT last_value FROM event_id_seq")[0]
    execute(postgresql_store, f"ALTER SEQUENCE event_id_seq MAXVALUE {last + length // 2}")
    assert "reached maximum value" in str(refusal(postgresql_store, length))
    execute(postgresql_store, "ALTER SEQUENCE event_id_seq NO MAXVALUE")
    assert_all_is_well(postgresql_store, length)


@LENGTHS
@pytest.mark.postgresql
@pytest.mark.parametrize("table", ["event_type", "dead_letter"])
def test_a_sequence_of_another_table_that_is_behind_is_the_operators_to_mend(
    postgresql_url: str, table: str, length: int
) -> None:
    store = Connection(postgresql_url)
    store.upgrade()
    known = [make_event(number, event_type=f"type {number}") for number in range(20)]
    store.record_events(known, [make_letter(f"letter {number}") for number in range(20)])
    execute(store, f"SELECT setval('{table}_id_seq', 1, false)")
    before = counts(store)
    new = [make_event(number, event_type="another") for number in range(1000, 1000 + length)]
    with pytest.raises(StorageUnavailable, match="set the sequence") as caught:
        store.record_events(new, [make_letter("second")], letter_for)
    assert caught.value.operator
    assert counts(store) == before
    store.close()


@pytest.mark.postgresql
@pytest.mark.parametrize(
    "changes",
    [
        ["event_type ALTER id DROP DEFAULT"],
        ["dead_letter ALTER id DROP DEFAULT"],
        ["event_type ADD owner text NOT NULL DEFAULT ''", "event_type ALTER owner DROP DEFAULT"],
        ["trait_datetime ADD zone text NOT NULL DEFAULT ''", "trait_datetime ALTER zone DROP DEFAULT"],
    ],
    ids=["types' ids", "dead letters' ids", "types' owner", "traits' zone"],
)
def test_a_column_that_no_row_of_ours_fills_is_the_operators_to_mend(
    postgresql_url: str, changes: list[str]
) -> None:
    """As after a copy of tables without their sequences, though others of the batch could be stored."""
    store = Connection(postgresql_url)
    store.upgrade()
    store.record_events([make_event(1, event_type="known")], [make_letter("first")])
    execute(store, *(f"ALTER TABLE {change}" for change in changes))
    before = counts(store)
    batch = [Event("bare", "known", make_event(2).generated), make_event(3, event_type="new")]
    for words in ("must have a value|numbers the rows|null value", "must have a value|numbers the rows"):
        with pytest.raises(StorageUnavailable, match=words) as caught:
            store.record_events(batch, [make_letter("second")], letter_for)
        assert caught.value.operator
    assert counts(store) == before
    mend = str(caught.value).partition(": ")[2]
    execute(store, *mend.partition(", or ")[0].split("; "))
    assert store.record_events(batch, [make_letter("second")], letter_for).recorded == (0, 1)
    assert count(store, "dead_letter") == 2
    store.close()


@pytest.mark.postgresql
@pytest.mark.parametrize(
    "changes",
    [
        [
            "CREATE TABLE audit (project text NOT NULL)",
            (
                "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN "
                "INSERT INTO audit VALUES (NEW.raw::json->>'project'); RETURN NEW; END$$"
            ),
            "CREATE TRIGGER note AFTER INSERT ON event FOR EACH ROW EXECUTE FUNCTION note()",
        ],
        ["ALTER TABLE event ADD project text GENERATED ALWAYS AS (raw::json->>'project') STORED NOT NULL"],
        [
            "ALTER TABLE event ADD project text",
            (
                "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN "
                "NEW.project = NEW.raw::json->>'project'; RETURN NEW; END$$"
            ),
            "CREATE TRIGGER note BEFORE INSERT ON event FOR EACH ROW EXECUTE FUNCTION note()",
            "ALTER TABLE event ALTER project SET NOT NULL",
        ],
        ["CREATE DOMAIN stated AS varchar(255) NOT NULL", "ALTER TABLE trait_text ALTER value TYPE stated"],
    ],
    ids=["a table of an audit", "a generated column", "a column of a trigger", "a domain"],
)
def test_what_an_operator_wants_of_each_event_costs_the_event_that_has_it_not(
    postgresql_url: str, changes: list[str]
) -> None:
    store = Connection(postgresql_url)
    store.upgrade()
    execute(store, *changes)
    events = [
        Event(
            name, "t", make_event(1).generated, [Trait("a", Trait.TEXT_TYPE, project)], {"project": project}
        )
        for name, project in (("a", "p"), ("b", None), ("c", "p"))
    ]
    result = store.record_events(events, on_failure=letter_for)
    assert (result.recorded, [index for index, _ in result.failed]) == ((0, 2), [1])
    assert count(store, "dead_letter") == 1
    store.close()


@pytest.fixture(params=[pytest.param("postgresql", marks=pytest.mark.postgresql),
                        pytest.param("mariadb", marks=pytest.mark.mariadb)])  # fmt: skip
def adopted_store(request: pytest.FixtureRequest) -> Iterator[Connection]:
    """A store whose tables are Panko's, with ids of 32 bits."""
    store = Connection(request.getfixturevalue(f"{request.param}_url"))
    with store.engine.begin() as connection:
        legacy.make(connection, "panko")
    store.upgrade(postpone_rewrites=True)
    store.record_events(make_events(2))
    yield store
    store.close()


@LENGTHS
def test_ids_of_32_bits_that_are_used_up_are_the_operators_to_mend(
    adopted_store: Connection, length: int
) -> None:
    last = 2**31 - 1 - length // 2
    if adopted_store.engine.dialect.name == "postgresql":
        # As old releases made it: the sequence knows of no limit, the column does.
        execute(
            adopted_store, "ALTER SEQUENCE event_id_seq AS bigint", f"SELECT setval('event_id_seq', {last})"
        )
    else:
        execute(adopted_store, f"ALTER TABLE event AUTO_INCREMENT = {last + 1}")

    error = refusal(adopted_store, length)

    assert error.operator
    assert "db sync" in str(error)
    if adopted_store.engine.dialect.name == "postgresql":
        execute(adopted_store, "SELECT setval('event_id_seq', 5000)")
        assert_all_is_well(adopted_store, length)


@LENGTHS
def test_ids_of_64_bits_that_are_used_up_are_the_operators_to_mend_on_mariadb(
    mariadb_url: str, length: int
) -> None:
    store = Connection(mariadb_url)
    store.upgrade()
    store.record_events(make_events(2))
    execute(store, "ALTER TABLE event AUTO_INCREMENT = 9223372036854775807")
    store.record_events([make_event(5000)])
    assert refusal(store, length).operator
    store.close()


@LENGTHS
def test_a_constraint_that_refuses_every_event_is_the_operators_to_mend(
    store: Connection, length: int
) -> None:
    store.record_events(make_events(2))
    if store.engine.dialect.name == "sqlite":
        make = ["CREATE TRIGGER never BEFORE INSERT ON trait_text BEGIN SELECT RAISE(ABORT, 'refused'); END"]
        drop = "DROP TRIGGER never"
    else:
        mariadb = store.engine.dialect.name == "mysql"
        later = "" if mariadb else " NOT VALID"
        make = ["SET SESSION check_constraint_checks = OFF"] if mariadb else []
        make += [f"ALTER TABLE trait_text ADD CONSTRAINT never CHECK (1 = 0){later}"]
        drop = "ALTER TABLE trait_text DROP CONSTRAINT never"
    execute(store, *make)
    store.close()

    error = refusal(store, length)

    assert error.operator
    assert "known to be good" in str(error)
    execute(store, drop)
    assert_all_is_well(store, length)


@LENGTHS
def test_a_constraint_that_refuses_all_of_a_batch_but_not_others_costs_the_batch(
    store: Connection, length: int
) -> None:
    word = Trait("word", Trait.TEXT_TYPE, "poison")
    statement = "ALTER TABLE trait_text ADD CONSTRAINT no_poison CHECK (value <> 'poison')"
    if store.engine.dialect.name == "sqlite":
        statement = (
            "CREATE TRIGGER no_poison BEFORE INSERT ON trait_text WHEN new.value = 'poison' "
            "BEGIN SELECT RAISE(ABORT, 'refused'); END"
        )
    execute(store, statement)
    result = store.record_events([make_event(number, word) for number in range(length)], (), letter_for)
    assert len(result.failed) == length
    assert counts(store)["dead_letter"] == length
    assert counts(store)["event"] == 0


@LENGTHS
@pytest.mark.parametrize("node", ["postgresql", pytest.param("mariadb", marks=pytest.mark.mariadb)])
def test_an_event_type_that_another_node_has_committed_first_is_waited_for(
    request: pytest.FixtureRequest, node: str, length: int
) -> None:
    """As on a Galera cluster, where a session may end at any node: here two servers are the nodes."""
    server = request.getfixturevalue(node)
    store, other = Connection(server.create_database()), Connection(server.create_database())
    for each in (store, other):
        each.upgrade()
        each.record_events(make_events(1))
    other.record_events([make_event(1, event_type="new")])
    # Names are looked up at the other node, events are written at this one.
    store._recorder._types = event_types.EventTypes(other.engine)
    new = [make_event(number, event_type="new") for number in range(100, 100 + length)]
    results: list[Any] = []
    worker = threading.Thread(target=lambda: results.append(store.record_events(new, (), letter_for)))
    worker.start()
    wait_until(lambda: store.statistics().conflicts > 1, what="the transaction to be run again")
    (number,) = rows(
        other,
        "SELECT id FROM event_type WHERE {} = 'new'".format(
            store.engine.dialect.identifier_preparer.quote("desc")
        ),
    )[0]
    with store.engine.begin() as connection:
        connection.execute(sa.insert(EventType).values(id=number, desc="new"))
    worker.join(30)

    assert results[0].recorded == tuple(range(length))
    assert counts(store)["dead_letter"] == 0
    store.close()
    other.close()


def test_an_event_type_that_never_comes_is_no_dead_letter(store: Connection, postgresql_url: str) -> None:
    class Forgetful(event_types.EventTypes):
        """Knows of a type that is not there."""

        def resolve(self, names: Any) -> dict[str, int]:
            return super().resolve(names) | {"gone": 99_999}

    store.record_events(make_events(1))
    hasty = connect(store.engine.url.render_as_string(hide_password=False), max_retries=1)
    hasty._recorder._types = Forgetful(hasty.engine)
    for length in (1, 30):
        with pytest.raises(StorageUnavailable) as caught:
            hasty.record_events(
                [make_event(number, event_type="gone") for number in range(100, 100 + length)], (), letter_for
            )
        assert not caught.value.operator
    assert counts(store)["event"] == 1
    assert counts(store)["dead_letter"] == 0
    hasty.close()


def test_threads_share_a_connection_while_it_forgets_what_it_knew(store: Connection) -> None:
    errors: list[Exception] = []
    stop = threading.Event()

    def guarded(work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                work()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is wrong
                errors.append(error)

        return run

    def write(worker: int) -> None:
        for turn in range(8):
            first = worker * 1000 + turn * 25
            events = [make_event(first + step, event_type=f"type {step}") for step in range(25)]
            assert len(store.record_events(events).recorded) == 25

    def forget() -> None:
        while not stop.wait(0.005):
            store._recorder.forget()

    workers = [threading.Thread(target=guarded(partial(write, number))) for number in range(4)]
    forgetter = threading.Thread(target=guarded(forget))
    for thread in (*workers, forgetter):
        thread.start()
    for thread in workers:
        thread.join(60)
    stop.set()
    forgetter.join(10)

    assert errors == []
    assert counts(store)["event"] == 4 * 8 * 25
    assert counts(store)["trait_text"] == 4 * 8 * 25


def test_event_types_without_end_do_not_stay_in_memory(
    store: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_types, "MOST_KNOWN_TYPES", 20)
    for first in range(0, 100, 10):
        events = [make_event(number, event_type=f"type {number}") for number in range(first, first + 10)]
        assert len(store.record_events(events).recorded) == 10
        assert len(store._recorder._types) <= 20
    assert count(store, "event_type") == 100
    assert len(list(store.get_event_types())) == 100


@pytest.mark.parametrize("message_id", ["", " ", "  \t", "\u3000"])
def test_an_id_of_nothing_but_blanks_is_none(store: Connection, message_id: str) -> None:
    events = [Event(message_id, "t", make_event(1).generated), make_event(1)]
    result = store.record_events(events, (), letter_for)
    assert result.recorded == (1,)
    assert "blank" in str(result.failed[0][1])


@pytest.mark.mariadb
def test_ids_that_mariadb_takes_for_the_same_fail_with_their_reason(mariadb_url: str) -> None:
    store = Connection(mariadb_url)
    store.upgrade()
    events = [Event(name, "t", make_event(1).generated) for name in ("a", "a ", "b")]
    result = store.record_events(events, (), letter_for)
    assert result.recorded == (0, 2)
    assert "Duplicate entry" in str(result.failed[0][1])
    assert stored_ids(store) == ["a", "b"]
    store.close()


def test_the_proof_that_rows_are_taken_leaves_none_behind(store: Connection) -> None:
    store.prove_rows()
    store.prove_rows()
    assert set(counts(store).values()) == {0}
    assert count(store, "event_type") == 0
