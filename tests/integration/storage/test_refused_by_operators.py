"""What an operator's trigger refuses of one event costs no other, by whatever code it is told."""

from contextlib import closing

import pytest
import sqlalchemy as sa

from panko_ingest.storage.impl_sqlalchemy import Connection
from tests.integration.storage.samples import counts, letter_for, make_event, make_events, stored_ids

LENGTHS = pytest.mark.parametrize("others", [0, 2, 30], ids=["alone", "among few", "in a batch"])
GUILTY = "m0500"

_FUNCTION = """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
IF NEW.message_id = 'm0500' THEN
RAISE EXCEPTION 'not this one' USING ERRCODE = '{}'; END IF; RETURN NEW; END $$"""
_TRIGGER = "CREATE TRIGGER refuse BEFORE INSERT ON event FOR EACH ROW EXECUTE FUNCTION refuse()"
_SIGNAL = (
    "CREATE TRIGGER refuse BEFORE INSERT ON event FOR EACH ROW IF NEW.message_id = 'm0500' THEN "
    "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not this one'{}; END IF"
)


def assert_one_is_refused(store: Connection, others: int, words: str) -> None:
    events = make_events(others)
    events.insert(others // 2, make_event(int(GUILTY[1:])))
    result = store.record_events(events, (), letter_for)
    ((index, error),) = result.failed
    assert index == others // 2
    assert words in str(error)
    assert len(result.recorded) == others
    assert GUILTY not in stored_ids(store)
    assert counts(store)["dead_letter"] == 1


@LENGTHS
@pytest.mark.postgresql
@pytest.mark.parametrize("code", ["U0001", "45000", "42501", "57014", "P0001"])
def test_an_event_that_a_trigger_refuses_fails_alone_on_postgresql(
    postgresql_url: str, code: str, others: int
) -> None:
    with closing(Connection(postgresql_url)) as store:
        store.upgrade()
        with store.engine.begin() as connection:
            connection.execute(sa.text(_FUNCTION.format(code)))
            connection.execute(sa.text(_TRIGGER))
        assert_one_is_refused(store, others, f"{code}: not this one")


@LENGTHS
@pytest.mark.mariadb
@pytest.mark.parametrize("number", [1644, 30001])
def test_an_event_that_a_trigger_refuses_fails_alone_on_mariadb(
    mariadb_url: str, number: int, others: int
) -> None:
    with closing(Connection(mariadb_url)) as store:
        store.upgrade()
        with store.engine.begin() as connection:
            connection.execute(sa.text(_SIGNAL.format(f", MYSQL_ERRNO = {number}")))
        assert_one_is_refused(store, others, f"{number}: not this one")
