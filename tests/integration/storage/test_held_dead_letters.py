"""Dead letters that an operator's trigger or reference keeps, which costs no other and no event."""

from pathlib import Path

import pytest

from panko_ingest.cli.main import main
from panko_ingest.storage import DeadLetterFilter
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import DeadLetter
from tests.integration.storage.samples import (
    WHERE_TRIGGERS_CAN_KEEP_ROWS,
    count,
    keep,
    legal_hold,
    make_event,
    rows,
    stored_ids,
)

LETTERS = 150
DEFERRED = "DEFERRABLE INITIALLY DEFERRED"


def letter(number: int) -> DeadLetter:
    digest = str(number).encode().ljust(32, b".")
    return DeadLetter(digest, b"body", "convert", "ConvertError", "wrong", message_id=f"m{number:04}")


@pytest.fixture
def ids(store: Connection) -> list[int]:
    """The ids of the stored letters, in the order of their numbers."""
    store.record_events([], [letter(number) for number in range(LETTERS)])
    return letters_left(store)


def replay(store: Connection, ids: list[int]) -> dict[int, str]:
    """Replay all letters, and return why some stay."""
    refused = store.replay_dead_letters({one: make_event(number) for number, one in enumerate(ids)})
    return {letter: str(error) for letter, error in refused.items()}


def letters_left(store: Connection) -> list[int]:
    return [one for (one,) in rows(store, "SELECT id FROM dead_letter ORDER BY message_id")]


def assert_only_those_stay(store: Connection, ids: list[int], *numbers: int) -> None:
    """See that these letters are there, and the events of all others."""
    assert letters_left(store) == [ids[number] for number in numbers]
    others = sorted(set(range(LETTERS)) - set(numbers))
    assert stored_ids(store) == [f"m{number:04}" for number in others]


def test_of_dead_letters_replayed_at_once_one_that_another_table_refers_to_stays_without_its_event(
    store: Connection, ids: list[int]
) -> None:
    with legal_hold(store, "message_id IN ('m0007', 'm0149')", "dead_letter"):
        refused = replay(store, ids)
        assert list(refused) == [ids[7], ids[149]]
        # SQLite names no table.
        assert "legal_hold" in refused[ids[7]] or store.engine.dialect.name == "sqlite"
        assert_only_those_stay(store, ids, 7, 149)
    assert replay(store, [ids[7]]) == {}
    assert count(store, "dead_letter") == 1


@WHERE_TRIGGERS_CAN_KEEP_ROWS
def test_a_reference_that_is_looked_at_when_all_is_done_keeps_no_other_dead_letter(
    store: Connection, ids: list[int]
) -> None:
    with legal_hold(store, "message_id = 'm0007'", "dead_letter", DEFERRED):
        assert list(replay(store, ids)) == [ids[7]]
        assert_only_those_stay(store, ids, 7)


@WHERE_TRIGGERS_CAN_KEEP_ROWS
@pytest.mark.parametrize(
    ("on_sqlite", "on_postgresql", "words"),
    [
        ("RAISE(ABORT, 'held')", "RAISE EXCEPTION 'held'", "held"),
        ("RAISE(IGNORE)", "RETURN NULL", "a trigger keeps the dead letter without a word"),
    ],
    ids=["with an error", "without a word"],
)
def test_dead_letters_that_a_trigger_keeps_stay_without_their_events(
    store: Connection, ids: list[int], on_sqlite: str, on_postgresql: str, words: str
) -> None:
    keep(store, "dead_letter", "OLD.message_id IN ('m0007', 'm0008')", on_sqlite, on_postgresql)
    refused = replay(store, ids)
    assert list(refused) == [ids[7], ids[8]]
    assert words in refused[ids[7]]
    assert_only_those_stay(store, ids, 7, 8)


def test_the_event_of_a_kept_dead_letter_that_is_stored_already_is_left_alone(
    store: Connection, ids: list[int]
) -> None:
    store.record_events([make_event(7)])
    with legal_hold(store, "message_id = 'm0007'", "dead_letter"):
        assert list(replay(store, ids)) == [ids[7]]
        assert letters_left(store) == [ids[7]]
        assert count(store, "event") == LETTERS


@WHERE_TRIGGERS_CAN_KEEP_ROWS
@pytest.mark.parametrize("deferred", ["", DEFERRED], ids=["at once", "at the end"])
def test_purging_passes_over_dead_letters_that_another_table_refers_to(
    store: Connection, ids: list[int], deferred: str
) -> None:
    with legal_hold(store, "message_id IN ('m0007', 'm0149')", "dead_letter", deferred):
        done = store.delete_dead_letters(DeadLetterFilter(stage="convert"))
        assert (done.deleted, done.kept) == (LETTERS - 2, 2)
        assert letters_left(store) == [ids[7], ids[149]]


@WHERE_TRIGGERS_CAN_KEEP_ROWS
def test_purging_passes_over_dead_letters_that_a_trigger_keeps_without_a_word(
    store: Connection, ids: list[int]
) -> None:
    keep(store, "dead_letter", "OLD.message_id < 'm0005'")
    done = store.delete_dead_letters(DeadLetterFilter(ids=ids[3:10]))
    assert done == (5, 2, "a trigger keeps them without a word")
    assert count(store, "dead_letter") == LETTERS - 5


def test_the_commands_tell_of_dead_letters_that_the_database_keeps(
    store: Connection, ids: list[int], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    conf = tmp_path / "panko-ingest.conf"
    url = store.engine.url.render_as_string(hide_password=False)
    conf.write_text(f"[database]\nconnection = {url}\n")

    def run(*words: str) -> tuple[int, str]:
        code = main(["--config-file", str(conf), "dead-letters", *words])
        return code, capfd.readouterr().out

    with legal_hold(store, "message_id = 'm0007'", "dead_letter"):
        code, told = run("purge", "--all")
        assert code == 1
        assert told.startswith(f"{LETTERS - 1} dead letters deleted, 1 kept: ")
        assert "foreign key" in told.lower()
    assert run("purge", "--all") == (0, "1 dead letters deleted\n")
