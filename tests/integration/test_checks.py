"""The commands check, status, expire and upgrade check, run as an operator would."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.models import DeadLetter
from tests import preloaded
from tests.answering import answering
from tests.bus import Bus
from tests.daemon import Daemon, configuration
from tests.ledger import Ledger, load
from tests.services import RabbitMQ
from tests.services.server import free_port
from tests.waiting import wait_until

pytestmark = pytest.mark.rabbitmq


def command(conf: Path, *words: str, module: str = "panko_ingest") -> tuple[int, str]:
    done = preloaded.run_with(conf, *words, module=module)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


def findings(conf: Path) -> tuple[int, dict[str, list[tuple[str, str]]]]:
    """Return the exit code of ``check`` and what it found, by subject."""
    code, text = command(conf, "check", "--json")
    found: dict[str, list[tuple[str, str]]] = {}
    for finding in json.loads(text):
        found.setdefault(finding["subject"], []).append((finding["level"], finding["text"]))
    return code, found


@pytest.fixture
def conf(tmp_path: Path, broker_url: str, ledger: Ledger) -> Path:
    path = configuration(tmp_path, broker_url, ledger.url, "[database]\nevent_time_to_live = 30d\n")
    path.chmod(0o640)
    return path


def test_check_finds_no_fault_where_all_is_well(conf: Path, broker_url: str) -> None:
    with Bus(broker_url) as bus:
        for priority in ("info", "error"):
            bus.declare(f"notifications.{priority}")
        code, text = command(conf, "check", "--strict")
        assert code == 0, text
        assert "0 failures, 0 warnings" in text
        code, text = command(conf, "upgrade", "check", module="panko_ingest.cli.upgrade_check")
        assert code == 0, text
        assert text.count("Result: Success") == 7


@pytest.mark.timeout(300)
def test_consumers_are_told_apart_bus_by_bus(
    tmp_path: Path, rabbitmq: RabbitMQ, broker_url: str, ledger: Ledger
) -> None:
    blind = rabbitmq.create_vhost()
    vhost = blind.rpartition("/")[2]
    rabbitmq.api("PUT", "users/blind", {"password": "blind", "tags": ""})
    rabbitmq.api("PUT", f"permissions/{vhost}/blind", {"configure": "^$", "write": ".*", "read": "^$"})
    urls = [broker_url, blind.replace("guest:guest", "blind:blind")]
    more = "[notification]\nworkers = 1\n" + "".join(f"messaging_urls = {url}\n" for url in urls)
    more += f"[monitor]\nport = {free_port()}\n"
    conf = configuration(tmp_path, broker_url, ledger.url, more)
    try:
        with Bus(broker_url) as bus, Bus(blind) as other:
            bus.declare()
            other.declare()
            other.channel().basic_consume("notifications.info")
            with Daemon(conf).running():
                wait_until(lambda: bus.consumers() == 1, 30, "the daemon's consumer")
                wait_until(
                    lambda: others(conf) == ["1 consumers are not of this daemon"],
                    30,
                    "those at the second bus",
                )
                _, text = command(conf, "status", "--json")
                assert [queue["others"] for queue in json.loads(text)["queues"]] == [0, 1]

                conf.write_text(conf.read_text().replace(f"messaging_urls = {urls[1]}\n", ""))
                assert others(conf) == ["1 consumers"], "it reads another number of buses"
                assert "have it reload" in command(conf, "status")[1]
    finally:
        rabbitmq.api("DELETE", "users/blind")
        rabbitmq.drop_vhost(blind)


def test_consumers_are_nobodys_while_the_daemon_can_not_be_asked(
    tmp_path: Path, broker_url: str, ledger: Ledger
) -> None:
    conf = configuration(tmp_path, broker_url, ledger.url, "[notification]\nworkers = 1\n")
    with Bus(broker_url) as bus, Daemon(conf).running():
        bus.declare()
        wait_until(lambda: bus.consumers() == 1, 30, "the daemon's consumer")
        (queue,) = status(conf)[1]["queues"]
        assert (queue["consumers"], queue["others"]) == (1, None)
        text = command(conf, "status")[1]
    assert "consumers: 1, and whose they are is not known: no daemon can be asked here" in text
    assert "[notification] management_urls" in text
    with Bus(broker_url) as bus:
        wait_until(lambda: not bus.consumers(), 30, "the consumer's end")
        assert status(conf)[1]["queues"][0]["others"] == 0


def others(conf: Path) -> list[str]:
    """Return what ``check`` says of consumers that are not ours."""
    _, found = findings(conf)
    return [
        text.partition(":")[0]
        for level, text in found["queue notifications.info"]
        if level == "warning" and "each message goes to only one" in text
    ]


def test_check_names_what_will_not_work_and_what_to_do(
    tmp_path: Path, broker_url: str, sqlite_url: str, conf: Path
) -> None:
    definitions = tmp_path / "broken.yaml"
    definitions.write_text("- event_type: x\n  traits: {a: {type: text}}\n")
    broken = tmp_path / "broken.conf"
    broken.write_text(
        f"[DEFAULT]\ntransport_url = {broker_url.replace('guest:guest', 'guest:SECRET-1')}\n"
        f"[database]\nconnection = {sqlite_url}.none\n"
        f"[event]\ndefinitions_cfg_file = {definitions}\n[notification]\nbatchsize = 3\n"
    )
    broken.chmod(0o644)
    code, found = findings(broken)
    assert code == 1
    warnings = [text for level, text in found["configuration"] if level == "warning"]
    assert any("batchsize: unknown, did you mean [notification] batch_size?" in text for text in warnings)
    assert any("chmod o-r" in text for text in warnings)
    assert found["definitions"][0][0] == "failure"
    (broker,) = (texts for subject, texts in found.items() if subject.startswith("127.0.0.1:"))
    assert broker[0][0] == "failure"
    assert "check host, port, user, password and vhost" in broker[0][1]
    assert "db sync" in found["database"][0][1]
    assert "SECRET-1" not in str(found)
    code, text = command(broken, "upgrade", "check", module="panko_ingest.cli.upgrade_check")
    assert code == 2
    assert "SECRET-1" not in text


def test_check_looks_at_the_queues(
    tmp_path: Path, broker_url: str, rabbitmq: RabbitMQ, ledger: Ledger, conf: Path
) -> None:
    with Bus(broker_url, durable=False) as transient, Bus(broker_url) as agent:
        transient.declare("notifications.info")
        agent.declare("notifications.error", exchange="cinder")
        agent._channel.basic_consume("notifications.error")
        code, found = findings(conf)
        assert code == 0
        assert "loses its messages when the broker restarts" in str(found["queue notifications.info"])
        assert "set [notification] pool" in str(found["queue notifications.error"])

        with_pool = configuration(tmp_path, broker_url, ledger.url, "[notification]\npool = panko\n")
        code, found = findings(with_pool)
        assert "the daemon creates it" in found["queue panko"][0][1]
        assert "nobody reads it" in found["queue notifications.info"][0][1]
        assert "queue notifications.error" not in found
        assert found["control exchanges"][0][1].startswith("2 of 20 are there")


def status(conf: Path) -> tuple[int, dict[str, Any]]:
    code, text = command(conf, "status", "--json")
    found: dict[str, Any] = json.loads(text)
    return code, found


def test_a_host_that_only_expires_needs_no_bus(tmp_path: Path, ledger: Ledger) -> None:
    conf = configuration(
        tmp_path, "", ledger.url, f"[monitor]\nport = {free_port()}\n[database]\nevent_time_to_live = 30d\n"
    )
    with Daemon(conf, "--only", "expirer").running():
        wait_until(lambda: status(conf)[0] == 0, 20, "a daemon that is ready")
        found = status(conf)[1]
        assert found["daemon"]["checks"]["expirer"] == {"ok": True, "text": "works"}
        assert (found["queues"], found["errors"]) == ([], [])
        code, checked = findings(conf)
        assert (code, [level for level, _ in checked["broker"]]) == (0, ["warning"])


def test_status_shows_how_the_daemon_does(
    tmp_path: Path, broker_url: str, rabbitmq: RabbitMQ, ledger: Ledger
) -> None:
    conf = configuration(
        tmp_path, broker_url, ledger.url, f"[monitor]\nport = {free_port()}\n[notification]\nworkers = 2\n"
    )
    assert status(conf)[0] == 1, "nothing runs"
    service = Daemon(conf)
    with service.running():
        with Bus(broker_url) as bus, Bus(broker_url) as agent:
            bus.declare()
            service.wait_until_ready()
            bus.publish([*load(200), b"{"])
            wait_until(lambda: ledger.events() == 200 and ledger.dead_letters() == 1, 30, "the events")
            wait_until(lambda: status(conf)[0] == 0, 30, "being ready")
            agent._channel.basic_consume("notifications.info")
            code, found = status(conf)
            assert code == 0
            (queue,) = found["queues"]
            assert (queue["name"], queue["consumers"], queue["others"]) == ("notifications.info", 3, 1)
            assert found["database"]["dead_letters"] == {"decode": 1}
            assert found["daemon"]["figures"]["since_start"]["recorded"] == 200
            code, text = command(conf, "status")
            assert code == 0
            assert "consumers: 2 of ours, 1 of others" in text
            assert "201 received, 200 recorded, 0 duplicates, 1 dead letters" in text
        rabbitmq.stop()
        try:
            wait_until(lambda: status(conf)[0] == 3, 30, "the broker missed")
            _, found = status(conf)
            wait_until(lambda: not status(conf)[1]["daemon"]["ok"], 30, "the daemon missing it too")
            assert found["errors"]
        finally:
            rabbitmq.start()
        wait_until(lambda: status(conf)[0] == 0, 60, "being ready again")


@pytest.mark.postgresql
def test_status_calls_no_database_away_that_takes_long_to_count_dead_letters(
    tmp_path: Path, postgresql_url: str
) -> None:
    conf = configuration(tmp_path, "", postgresql_url, f"[monitor]\nport = {free_port()}\n")
    store = Connection(postgresql_url)
    store.upgrade()
    letters = [
        DeadLetter(bytes([number]) * 32, b"{", stage, "Error", "is none")
        for number, stage in enumerate(("decode", "record", "decode"))
    ]
    store.record_events([], letters)
    assert status(conf)[1]["database"]["dead_letters"] == {"decode": 2, "record": 1}

    with store.engine.begin() as connection:
        # What waits for this lock takes as long as the count of millions.
        connection.exec_driver_sql("LOCK TABLE dead_letter IN ACCESS EXCLUSIVE MODE")
        code, found = status(conf)
        _, text = command(conf, "status")
    store.close()

    assert (code, found["errors"]) == (1, []), "no daemon runs, and nothing is away"
    assert found["database"]["revision"] == store.schema_state().revision
    assert found["database"]["dead_letters"] is None
    assert re.search(r"dead letters +not counted: no answer within \d s", text)


@pytest.mark.parametrize(
    "answer", ["{}", "[]", '{"figures": {}}', '{"ok": true, "checks": [], "figures": 1}']
)
def test_another_service_on_the_port_of_the_monitor_is_no_daemon_of_ours(
    tmp_path: Path, broker_url: str, ledger: Ledger, answer: str
) -> None:
    with answering(answer) as port:
        conf = configuration(tmp_path, broker_url, ledger.url, f"[monitor]\nport = {port}\n")
        code, text = command(conf, "status")
    assert code == 1
    assert "no daemon answers" in text


def test_status_tells_of_a_bus_without_queues_and_knows_its_own_readers_beside_one_that_is_away(
    tmp_path: Path, rabbitmq: RabbitMQ, ledger: Ledger
) -> None:
    read, empty = (rabbitmq.create_vhost() for _ in range(2))
    away = f"rabbit://guest:guest@127.0.0.1:{free_port()}/"
    more = "[notification]\nworkers = 2\n" + "".join(
        f"messaging_urls = {url}\n" for url in (away, read, empty)
    )
    monitor = f"[monitor]\nport = {free_port()}\n"
    conf = configuration(tmp_path, read, ledger.url, monitor + more)
    with Bus(read) as bus:
        bus.declare()
        with Daemon(conf).running():
            wait_until(lambda: bus.consumers() == 2, 30, "both readers")
            # The broker knows of them a moment before the daemon tells.
            found = wait_until(lambda: knows_readers(conf), 30, "the daemon to tell of them")
            _, text = command(conf, "status")
    (queue,) = found["queues"]
    assert (queue["consumers"], queue["others"]) == (2, 0)
    assert [name.rpartition("/")[2] for name in found["without_queues"]] == [empty.rpartition("/")[2]]
    assert "none is there (notifications.info, notifications.error): nothing was published yet, or" in text
    for url in (read, empty):
        rabbitmq.drop_vhost(url)


def knows_readers(conf: Path) -> dict[str, Any] | None:
    """Return what status says, once the daemon has told that both workers read the second bus."""
    _, found = status(conf)
    return found if found["daemon"] and found["daemon"]["figures"]["consuming"][1] == 2 else None


def test_expire_shows_what_would_go_and_deletes_it(conf: Path, ledger: Ledger, broker_url: str) -> None:
    with Bus(broker_url) as bus:
        bus.declare()
        bus.publish(load(100))  # of the year 2024
        service = Daemon(conf, "--only", "ingester")
        with service.running():
            wait_until(lambda: ledger.events() == 100, 30, "the events")
    code, text = command(conf, "expire", "--dry-run")
    assert code == 0
    assert "100 events from before" in text
    assert ledger.events() == 100
    code, text = command(conf, "expire")
    assert (code, ledger.events()) == (0, 0)
    assert text.startswith("100 events with ")
    assert "no event is from before" in command(conf, "expire", "--dry-run")[1]


@pytest.mark.postgresql
def test_check_tells_once_that_the_database_does_not_let_us_in(tmp_path: Path, postgresql_url: str) -> None:
    stranger = tmp_path / "stranger.conf"
    stranger.write_text(
        f"[database]\nconnection = {postgresql_url.replace('postgres@', 'stranger:SECRET-1@')}\n"
    )
    code, found = findings(stranger)
    assert code == 1
    assert [level for level, text in found["database"] if 'role "stranger" does not exist' in text] == [
        "failure"
    ]
