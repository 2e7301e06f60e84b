"""Whether the daemon is alive and ready is told by its shared state, its metrics and its probes."""

import math
import os

import pytest

from panko_ingest.shared_metrics import SharedMetrics
from panko_ingest.shared_state import SharedState
from panko_ingest.storage import StorageUnavailable
from panko_ingest.workers import health
from panko_ingest.workers.health import Health, Probe, WatchedBus
from panko_ingest.workers.readiness import Check, Verdict


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        for module in (health, __import__("panko_ingest.shared_state", fromlist=["time"])):
            monkeypatch.setattr(module.time, "monotonic", lambda: self.now)

    def run(self, seconds: int, verdicts: Health) -> None:
        """Let so much time pass while the monitor is running."""
        for _ in range(0, seconds, 5):
            self.now += 5
            verdicts.look()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def answer() -> None:
    pass


def refuse() -> None:
    raise StorageUnavailable("the disk is full")


def health_of(shared: SharedState, files: SharedMetrics, database: Probe, max_lag: float = 0.0) -> Health:
    database.look()
    bus = Probe(answer)
    bus.look()
    expirer = shared.service_slot("expirer")
    expirer.occupy(os.getpid(), math.inf)
    expirer.beat()
    return Health(shared, files, database, {"here": WatchedBus("vhost nova", bus)}, max_lag, expires=True)


def reasons(verdict: Verdict) -> dict[str, str]:
    return {name: check.text for name, check in verdict.checks.items() if not check.ok}


def test_a_probe_tells_what_its_last_look_found(clock: Clock) -> None:
    probe = Probe(refuse)
    assert probe.verdict() == (False, "not asked yet")
    probe.look()
    assert probe.verdict() == (False, "does not answer, or not as it should: `panko-ingest status` tells why")
    good = Probe(answer)
    good.look()
    assert good.verdict() == (True, "answers")
    clock.now += 60
    assert good.verdict() == (False, "no answer for 60 s")


def test_a_probe_survives_a_fault_of_ours_and_tells_of_it_once(caplog: pytest.LogCaptureFixture) -> None:
    def stumble() -> None:
        raise KeyError("ours")

    probe = Probe(stumble)
    probe.look()
    probe.look()
    assert not probe.verdict()[0]
    assert [record.message for record in caplog.records] == ["A probe of the monitor failed"]
    assert "KeyError" in caplog.text


def test_a_worker_that_is_just_being_replaced_is_alive_and_one_that_stays_away_is_not(clock: Clock) -> None:
    shared = SharedState(workers=1, buses=1)
    verdicts = health_of(shared, SharedMetrics(), Probe(answer))
    (slot,) = shared.slots()
    slot.occupy(os.getpid())
    assert verdicts.alive().ok
    slot.clear()
    clock.now += 5
    assert verdicts.alive().ok
    clock.run(30, verdicts)
    assert reasons(verdicts.alive()) == {"reader 0": "no process for 35 s"}
    slot.occupy(42)
    clock.run(20, verdicts)
    assert reasons(verdicts.alive()) == {"reader 0": "process 42 gave no sign of life for 20 s"}


def test_an_expirer_that_is_no_more_is_told(clock: Clock) -> None:
    shared = SharedState(workers=1, buses=1)
    verdicts = health_of(shared, SharedMetrics(), Probe(answer))
    expirer = shared.service_slot("expirer")
    clock.run(60, verdicts)
    assert verdicts.ready().checks["expirer"] == Check(True, "works")
    expirer.clear()
    clock.now += 5
    assert "expirer" not in reasons(verdicts.alive())
    clock.run(20, verdicts)
    assert reasons(verdicts.alive())["expirer"] == "no process for 25 s"
    assert "no process for 25 s" in reasons(verdicts.ready())["expirer"]


def test_a_time_in_which_everybody_stood_still_is_held_against_nobody(clock: Clock) -> None:
    shared = SharedState(workers=2, buses=1)
    shared.slots()[0].occupy(42)
    verdicts = health_of(shared, SharedMetrics(), Probe(answer))
    verdicts.look()
    clock.now += 60
    assert verdicts.alive().ok
    assert verdicts.ready().checks["database"] == Check(True, "answers")
    clock.run(20, verdicts)
    assert reasons(verdicts.alive()) == {
        "reader 0": "process 42 gave no sign of life for 20 s",
        "reader 1": "no process for 20 s",
    }
    assert reasons(verdicts.ready())["database"] == "no answer for 20 s"


def test_a_question_that_hangs_is_told_as_such_although_the_last_one_was_answered(clock: Clock) -> None:
    verdicts: list[tuple[bool, str]] = []

    def ask() -> None:
        if clock.now > 1000:
            for seconds in (2, 4):
                clock.now += seconds
                verdicts.append(probe.verdict())

    probe = Probe(ask)
    probe.look()
    clock.now += 1
    probe.look()
    assert verdicts == [(True, "answers"), (False, "no answer for 6 s")]
    assert probe.verdict() == (True, "answers")


def in_files(files: SharedMetrics, lag: float, connections: int, breakers: int) -> None:
    if os.fork() == 0:
        bus = files.join("ingester-0").of_bus("here")
        bus.oldest_seconds.set(lag)
        bus.connections.set(connections)
        bus.breaker_open.set(breakers)
        os._exit(0)
    os.wait()


def test_readiness_names_everything_that_is_not_as_it_should_be(clock: Clock) -> None:
    files = SharedMetrics()
    verdicts = health_of(SharedState(1, 1), files, Probe(refuse), max_lag=60.0)
    in_files(files, lag=61.0, connections=0, breakers=1)
    found = reasons(verdicts.ready())
    assert found["database"] == "does not answer, or not as it should: `panko-ingest status` tells why"
    assert found["broker 1"] == "vhost nova: the broker answers, but no worker is connected to it"
    assert found["lag"] == "61.0 s, more than [monitor] max_lag (60 s): vhost nova"
    assert found["flood breaker"].endswith("see `panko-ingest dead-letters list`: vhost nova")

    verdicts = health_of(SharedState(1, 1), files, Probe(answer), max_lag=60.0)
    in_files(files, lag=59.0, connections=1, breakers=0)
    assert verdicts.ready().ok


def test_readiness_tells_of_workers_that_die_again_and_again_though_each_is_replaced(clock: Clock) -> None:
    shared, files = SharedState(1, 1), SharedMetrics()
    verdicts = health_of(shared, files, Probe(answer))
    in_files(files, lag=0.0, connections=1, breakers=0)
    for deaths in range(3):
        assert verdicts.ready().checks["workers"] == Check(True, f"{deaths} died within a minute")
        clock.now += 5
        shared.count_death()
    assert reasons(verdicts.ready()) == {"workers": "3 died within a minute: the log tells how"}
    clock.now += 51
    assert verdicts.ready().checks["workers"].ok
    for _ in range(100):
        shared.count_death()
    assert reasons(verdicts.ready())["workers"].startswith("8 or more died")


def test_readiness_names_what_of_a_bus_is_refused_and_that_its_batches_are_not_stored(clock: Clock) -> None:
    files = SharedMetrics()
    verdicts = health_of(SharedState(1, 1), files, Probe(answer))
    if os.fork() == 0:
        bus = files.join("ingester-0").of_bus("here")
        bus.connections.set(1)
        bus.not_stored.set(1)
        bus.note_refusal("notifications.warn", "ACCESS_REFUSED at rabbit@host1")
        bus.note_refusal("glance", "ACCESS_REFUSED at rabbit@host1")
        bus.note_refusal("nova", "ACCESS_REFUSED at rabbit@host1")
        bus.note_refusal("nova", None)
        os._exit(0)
    os.wait()
    assert reasons(verdicts.ready()) == {
        "broker 1": (
            "vhost nova: 1 connections, 0 messages in hand; the broker refuses glance, notifications.warn: "
            "the log tells why; the database takes other batches, but not its last one: the log tells why"
        )
    }


def in_file(
    files: SharedMetrics, number: int, *, away: bool = False, connections: int = 0, not_stored: int = 0
) -> None:
    if os.fork() == 0:
        own = files.join(f"ingester-{number}")
        own.store_away.set(away)
        own.of_bus("here").connections.set(connections)
        own.of_bus("here").not_stored.set(not_stored)
        os._exit(0)
    os.wait()


def test_a_database_that_answers_and_takes_no_rows_is_not_ready_and_no_broker_is_blamed(clock: Clock) -> None:
    files = SharedMetrics()
    verdicts = health_of(SharedState(2, 1), files, Probe(answer))
    in_file(files, 0, away=True)
    in_file(files, 1, connections=1)
    takes_none = "answers, but takes no rows: `panko-ingest status` tells why"
    assert reasons(verdicts.ready()) == {"database": takes_none}
    in_file(files, 1)
    assert reasons(verdicts.ready()) == {
        "database": takes_none,
        "broker 1": "vhost nova: not read while the database takes no rows",
    }
    # Where it takes others, it is the bus of the batch that is not stored.
    in_file(files, 0, away=True, not_stored=1)
    in_file(files, 1, connections=1)
    assert list(reasons(verdicts.ready())) == ["broker 1"]
    in_file(files, 1, away=True, connections=1)
    assert list(reasons(verdicts.ready())) == ["database", "broker 1"]


def test_an_expirer_that_cannot_work_is_named_but_its_reason_is_for_those_on_the_host(clock: Clock) -> None:
    shared = SharedState(1, 1)
    verdicts = health_of(shared, SharedMetrics(), Probe(answer))
    slot = shared.service_slot("expirer")
    slot.occupy(os.getpid())
    slot.beat(consuming=False)
    assert reasons(verdicts.ready())["expirer"].startswith("its last round failed: `panko-ingest status`")
    slot.beat()
    assert "expirer" not in reasons(verdicts.ready())
