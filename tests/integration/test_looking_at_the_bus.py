"""``tap`` and ``drain`` with a real broker: what is published now, and reading until nothing is left."""

import contextlib
import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from panko_ingest.amqp import amqp_link
from panko_ingest.cli.main import main
from panko_ingest.storage.database.engine import make_engine
from panko_ingest.storage.impl_sqlalchemy import Connection
from panko_ingest.storage.settings import StorageSettings
from tests import preloaded
from tests.bodies import body
from tests.bus import Bus
from tests.daemon import configuration
from tests.faults.breaking import hanging, leaderless
from tests.services import RabbitMQ
from tests.waiting import wait_until

pytestmark = pytest.mark.rabbitmq

SESAME = "open-sesame-4711"


@pytest.fixture
def config(tmp_path: Path, broker_url: str, sqlite_url: str) -> Path:
    """A configuration whose broker has a queue, and whose database has tables."""
    path = configuration(tmp_path, broker_url, sqlite_url, "")
    preloaded.run(command(path, "db", "sync")).check_returncode()
    return path


@pytest.fixture
def bus(broker_url: str) -> Iterator[Bus]:
    with Bus(broker_url) as bus:
        bus.declare()
        yield bus


def command(config: Path, *arguments: str) -> list[str]:
    return ["--config-file", str(config), *arguments]


@contextlib.contextmanager
def tapping(config: Path, *arguments: str) -> Iterator[preloaded.Process]:
    """Tap, and go on when it listens."""
    with preloaded.Process(command(config, "tap", *arguments)) as tap:
        assert tap.stderr is not None
        try:
            line = tap.stderr.readline()
            assert line.startswith("listening to"), line + tap.stderr.read()
            yield tap
        finally:
            tap.kill()


def documents(tap: preloaded.Process) -> list[dict[str, Any]]:
    out, err = tap.communicate(timeout=30)
    assert tap.returncode == 0, err
    return [json.loads(line) for line in out.splitlines()]


def test_what_is_published_is_shown_without_secrets_and_nobody_loses_it(config: Path, bus: Bus) -> None:
    before = [body("compute.instance.resize.end")]
    bus.publish(before)
    with tapping(config, "--count", "2", "--format", "json") as tap:
        bus.publish(
            [body(payload={"adminPass": SESAME}), b"{no JSON"],
            application_headers={"X-Auth-Token": SESAME},
        )
        first, second = documents(tap)
    assert (first["exchange"], first["routing_key"]) == ("nova", "notifications.info")
    assert first["notification"]["payload"] == {"adminPass": "***"}
    assert first["headers"] == {"X-Auth-Token": "***"}
    assert second["error"].startswith("decode: the body is no JSON")
    assert second["body"] == "{no JSON"
    assert bus.count("notifications.info") == 3, "the queue that others read has them all"
    with tapping(config, "--count", "1", "--show-secrets") as tap:
        bus.publish([body(payload={"adminPass": SESAME})])
        out, _ = tap.communicate(timeout=30)
    assert out.startswith("nova notifications.info compute.instance.update\n{\n")
    assert SESAME in out


def test_events_that_messages_would_become_are_shown(config: Path, bus: Bus, sqlite_url: str) -> None:
    with tapping(config, "--count", "2", "--format", "json", "--convert") as tap:
        bus.publish([body(payload={"instance_id": "i1"}), body(timestamp="soon")])
        first, second = documents(tap)
    assert {"name": "instance_id", "type": "string", "value": "i1"} in first["event"]["traits"]
    assert second["error"] == "convert: timestamp: 'soon' is no ISO 8601 time"
    store = Connection(sqlite_url)
    assert store.count_events() == {}
    store.close()


def test_a_message_that_no_one_can_look_through_is_withheld_and_the_next_one_shown(
    config: Path, bus: Bus
) -> None:
    with tapping(config, "--count", "3", "--format", "json") as tap:
        bus.publish([b"a=1 " * 1_200_000])
        bus.publish([b"{}"], application_headers={"a": {"b": [{"password": SESAME, "c": [[SESAME]]}]}})
        bus.publish([body()])
        first, second, third = documents(tap)
    assert "body" not in first
    assert "withheld" in first["error"]
    assert SESAME not in json.dumps(second["headers"]["a"]["b"][0]["password"])
    assert third["notification"]["event_type"] == "compute.instance.update"


def test_only_chosen_types_and_exchanges_are_shown(config: Path, bus: Bus) -> None:
    bus.declare("notifications.info", "cinder")
    with tapping(
        config, "--count", "1", "--format", "json", "--type", "volume.*", "--exchange", "cinder"
    ) as tap:
        bus.publish([body("volume.create.start")], exchange="nova")
        bus.publish([body("snapshot.create.end")], exchange="cinder")
        bus.publish([body("volume.create.end")], exchange="cinder")
        (found,) = documents(tap)
    assert found["notification"]["event_type"] == "volume.create.end"


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_the_queue_of_a_tap_goes_with_it_however_it_ends(
    config: Path, bus: Bus, rabbitmq: RabbitMQ, broker_url: str, end: signal.Signals
) -> None:
    def queues() -> list[str]:
        return rabbitmq.ctl("-q", "list_queues", "-p", urlsplit(broker_url).path[1:], "name").split()

    before = queues()
    with tapping(config) as tap:
        assert len(queues()) > len(before)
        tap.send_signal(end)
        tap.wait(10)
    wait_until(lambda: queues() == before, what="the queue to go")


def test_a_tap_that_can_listen_nowhere_says_why(config: Path, bus: Bus) -> None:
    done = preloaded.run(command(config, "tap", "--exchange", "nowhere"), timeout=30)
    assert (done.returncode, done.stdout) == (3, "")
    assert "there is no exchange to listen to: nowhere: it is not there" in done.stderr
    with tapping(config, "--count", "5", "--timeout", "0.5") as tap:
        assert tap.wait(10) == 1


def test_exchanges_that_can_not_be_listened_to_are_named_and_cost_no_others(
    config: Path, bus: Bus, rabbitmq: RabbitMQ, broker_url: str
) -> None:
    bus.declare(exchange="secret")
    vhost = urlsplit(broker_url).path[1:]
    exchanges = ("typo", "secret", "nova", "misspelt")
    rabbitmq.ctl("add_user", "listener", "listener")
    try:
        rabbitmq.ctl("set_permissions", "-p", vhost, "listener", ".*", ".*", "^(?!secret).*")
        config.write_text(config.read_text().replace("guest:guest@", "listener:listener@"))
        done = preloaded.run(
            command(config, "tap", *(f"--exchange={name}" for name in exchanges), "--timeout=0.2s"),
            timeout=30,
        )
    finally:
        rabbitmq.ctl("delete_user", "listener")
    assert done.returncode == 0
    assert done.stderr == (
        "listening to 1 exchanges; not to typo, misspelt: it is not there; "
        "not to secret: the account may not read it\n"
    )


@pytest.mark.parametrize("words", [["tap"], ["publish", "etc/samples.jsonl"]])
def test_who_is_not_let_in_reads_what_the_broker_says_and_no_numbers(config: Path, words: list[str]) -> None:
    config.write_text(config.read_text().replace("guest:guest@", "guest:SECRET-1@"))
    done = preloaded.run(command(config, *words))
    assert done.returncode == 3
    assert ": ACCESS_REFUSED - Login was refused" in done.stderr
    assert "(0, 0)" not in done.stderr


def test_the_name_of_an_exchange_is_bounded(config: Path) -> None:
    done = preloaded.run(command(config, "tap", "--exchange", "e" * 256), timeout=30)
    assert done.returncode == 2
    assert "an exchange's name has 1 to 255 bytes" in done.stderr


def test_a_silent_bus_holds_up_no_other(tmp_path: Path, rabbitmq: RabbitMQ, sqlite_url: str) -> None:
    urls = [rabbitmq.create_vhost() for _ in range(2)]
    more = "[notification]\n" + "".join(f"messaging_urls = {url}\n" for url in urls)
    config = configuration(tmp_path, urls[0], sqlite_url, more)
    with Bus(urls[0]) as first, Bus(urls[1]) as second:
        first.declare()
        second.declare()
        with tapping(config, "--count", "2000", "--format", "json") as tap:
            second.publish(body() for _ in range(2000))
            assert len(documents(tap)) == 2000
    for url in urls:
        rabbitmq.drop_vhost(url)


def test_a_tap_says_when_more_is_published_than_it_shows(config: Path, bus: Bus) -> None:
    with tapping(config, "--format", "json", "--count", "600") as tap:
        tap.send_signal(signal.SIGSTOP)
        bus.publish(body() for _ in range(11_000))
        tap.send_signal(signal.SIGCONT)
        out, err = tap.communicate(timeout=30)
    assert len(out.splitlines()) == 600
    assert "more is published than can be shown: some is left out" in err


def test_a_tap_says_that_big_messages_were_left_out(
    config: Path, bus: Bus, rabbitmq: RabbitMQ, broker_url: str
) -> None:
    mine = r"^panko-ingest\.tap\..*"
    rabbitmq.ctl("add_user", "listener", "listener")
    try:
        vhost = urlsplit(broker_url).path[1:]
        rabbitmq.ctl("set_permissions", "-p", vhost, "listener", mine, mine, f"{mine}|^nova$")
        config.write_text(config.read_text().replace("guest:guest@", "listener:listener@"))
        with tapping(config, "--exchange", "nova", "--format", "json", "--count", "100") as tap:
            tap.send_signal(signal.SIGSTOP)
            bus.publish(body(payload={"text": "x" * 100_000}) for _ in range(800))
            tap.send_signal(signal.SIGCONT)
            out, err = tap.communicate(timeout=30)
    finally:
        rabbitmq.ctl("delete_user", "listener")
    assert len(out.splitlines()) == 100
    assert "more is published than can be shown: some is left out" in err


def test_a_tap_that_keeps_up_says_nothing_of_what_is_left_out(config: Path, bus: Bus) -> None:
    with tapping(config, "--format", "json", "--count", "1200") as tap:
        bus.publish(body() for _ in range(1200))
        out, err = tap.communicate(timeout=30)
    assert (len(out.splitlines()), err) == (1200, "")


def drain(config: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return preloaded.run(command(config, "drain", *arguments), timeout=90)


def test_draining_ends_when_the_queues_are_empty_and_all_is_committed(config: Path, bus: Bus) -> None:
    bus.publish(body() for _ in range(3000))
    bus.publish([b"no JSON"])
    done = drain(config)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "3001 messages read, 3000 events stored, 1 dead letters\n"
    assert bus.count("notifications.info") == 0
    again = drain(config)
    assert (again.returncode, again.stdout) == (0, "0 messages read, 0 events stored\n")


def test_a_queue_that_one_bus_refuses_is_drained_at_another(
    tmp_path: Path, sqlite_url: str, rabbitmq: RabbitMQ, broker_url: str, bus: Bus
) -> None:
    refusing = rabbitmq.create_vhost()
    config = configuration(
        tmp_path,
        broker_url,
        sqlite_url,
        f"[notification]\nmessaging_urls = {refusing}\nmessaging_urls = {broker_url}\n",
    )
    preloaded.run(command(config, "db", "sync")).check_returncode()
    bus.publish(body() for _ in range(300))
    with Bus(refusing) as other:
        stream = {"x-queue-type": "stream"}
        other.channel().queue_declare("notifications.info", durable=True, auto_delete=False, arguments=stream)
        done = drain(config)
    rabbitmq.drop_vhost(refusing)
    assert (done.returncode, done.stdout) == (1, "300 messages read, 300 events stored\n")
    vhost = refusing.rpartition("/")[2]
    assert re.search(rf"notifications.info: is not read at \S+/{vhost}: it is a stream", done.stderr)
    assert bus.count("notifications.info") == 0


@pytest.mark.postgresql
def test_draining_tells_what_is_left_when_its_time_is_over(
    tmp_path: Path, broker_url: str, bus: Bus, postgresql_url: str
) -> None:
    config = configuration(
        tmp_path, broker_url, postgresql_url, "[database]\nlock_timeout = 1\nmax_retries = 0\n"
    )
    preloaded.run(command(config, "db", "sync")).check_returncode()
    bus.publish(body() for _ in range(500))
    with psycopg.connect(postgresql_url) as session:
        session.execute("LOCK event IN ACCESS EXCLUSIVE MODE")
        done = drain(config, "--timeout", "2")
        assert done.returncode == 1
        assert done.stderr.endswith("notifications.info: 500 messages are left\n")
    assert drain(config).stdout == "500 messages read, 500 events stored\n"
    store = Connection(postgresql_url)
    assert sum(store.count_events().values()) == 500
    store.close()


@pytest.mark.parametrize("waiting", [pytest.param(300, marks=pytest.mark.long), 3000])
@pytest.mark.parametrize(
    ("kind", "lock", "free"),
    [
        pytest.param("postgresql", "BEGIN; LOCK event", "ROLLBACK", marks=pytest.mark.postgresql),
        pytest.param("mariadb", "LOCK TABLES event WRITE", "UNLOCK TABLES", marks=pytest.mark.mariadb),
    ],
)
def test_a_drain_ends_soon_after_its_time_whatever_the_database_waits_for(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    broker_url: str,
    bus: Bus,
    kind: str,
    lock: str,
    free: str,
    waiting: int,
) -> None:
    url = request.getfixturevalue(f"{kind}_url")
    config = configuration(tmp_path, broker_url, url)
    preloaded.run(command(config, "db", "sync")).check_returncode()
    bus.publish(body() for _ in range(waiting))
    engine = make_engine(url, StorageSettings())
    with engine.connect() as session:
        session.exec_driver_sql(lock)
        started = time.monotonic()
        done = drain(config, "--timeout", "2")
        assert time.monotonic() - started < 40
        session.exec_driver_sql(free)
    engine.dispose()
    assert done.returncode == 1
    assert "messages are left" in done.stderr or "go back to their queues" in done.stderr
    assert len(done.stdout.splitlines()) == 1, "the log is no part of what is printed"
    assert drain(config).returncode == 0
    store = Connection(url)
    assert sum(store.count_events().values()) == waiting
    store.close()


def test_draining_tells_of_others_that_read_the_same_queue(config: Path, bus: Bus) -> None:
    with bus.channel() as channel:
        channel.basic_consume("notifications.info")
        done = drain(config)
    assert (done.returncode, "notifications.info: empty, but 1 others read it, too" in done.stderr) == (
        0,
        True,
    )


@pytest.mark.parametrize("way", ["exclusively", "a stream", "locked"])
def test_a_drain_ends_though_a_queue_may_not_be_read(config: Path, bus: Bus, way: str) -> None:
    if way == "a stream":
        bus.delete()
        with bus.channel() as channel:
            arguments = {"x-queue-type": "stream"}
            channel.queue_declare("notifications.info", durable=True, auto_delete=False, arguments=arguments)
            channel.queue_bind("notifications.info", "nova", "notifications.info")
    elif way == "locked":
        bus.delete()
        bus.channel().queue_declare("notifications.info", exclusive=True)
    else:
        other = bus.channel()
        other.basic_qos(0, 1, False)
        other.basic_consume("notifications.info", callback=lambda _message: None, exclusive=True)
    bus.publish(body() for _ in range(3))
    done = drain(config)
    assert (done.returncode, done.stdout) == (1, "0 messages read, 0 events stored\n")
    why = (
        "it is a stream" if way == "a stream" else "exclusive" if way == "exclusively" else "RESOURCE_LOCKED"
    )
    (told,) = [
        line for line in done.stderr.splitlines() if line.startswith("notifications.info: is not read")
    ]
    assert why in told


def test_a_drain_that_finds_none_of_its_queues_is_no_success(
    tmp_path: Path, broker_url: str, sqlite_url: str, bus: Bus
) -> None:
    config = configuration(
        tmp_path, broker_url, sqlite_url, "[oslo_messaging_notifications]\ntopics = notification\n"
    )
    preloaded.run(command(config, "db", "sync")).check_returncode()
    bus.publish([body()])
    done = drain(config, "--timeout", "60s")
    assert done.returncode == 1
    assert "none of its queues is there: notification.info" in done.stderr
    assert bus.count("notifications.info") == 1


def test_a_queue_that_hangs_is_named_and_keeps_no_other_from_being_looked_at_and_drained(
    config: Path,
    broker_url: str,
    rabbitmq: RabbitMQ,
    bus: Bus,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(amqp_link, "IO_TIMEOUT", 1.0)
    bus.declare("notifications.error")
    for queue in ("notifications.info", "notifications.error"):
        bus.publish([body()], queue)
    with hanging(rabbitmq, broker_url, "notifications.info"):
        assert main(["--config-file", str(config), "check"]) == 1
        found = capsys.readouterr().out
        assert re.search("failure +queue notifications.info +can't be read: .* hangs", found)
        assert re.search("ok +queue notifications.error +1 messages wait", found)
        assert main(["--config-file", str(config), "drain"]) == 1
        said = capsys.readouterr()
    assert said.out == "1 messages read, 1 events stored\n"
    assert re.search("^notifications.info: is not read at .*: ", said.err, re.MULTILINE)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("release", ["rabbitmq", "newest_rabbitmq"])
def test_a_queue_without_a_leader_is_not_taken_for_empty(
    request: pytest.FixtureRequest, tmp_path: Path, sqlite_url: str, release: str
) -> None:
    server: RabbitMQ = request.getfixturevalue(release)
    url = server.create_vhost()
    config = configuration(tmp_path, url, sqlite_url)
    preloaded.run(command(config, "db", "sync")).check_returncode()
    with Bus(url, quorum=True) as bus:
        bus.declare()
        bus.declare("notifications.error")
        for queue in ("notifications.info", "notifications.error"):
            bus.publish((body() for _ in range(50)), queue)
        with leaderless(server, url, "notifications.info"):
            assert bus.count() == 0, "as the broker says"
            found = preloaded.run(command(config, "check"), timeout=60)
            done = drain(config)
        assert found.returncode == 1
        assert re.search(
            "failure +queue notifications.info +can't be read: nobody answers for it", found.stdout
        )
        assert re.search("ok +queue notifications.error +50 messages wait", found.stdout)
        assert (done.returncode, done.stdout) == (1, "50 messages read, 50 events stored\n")
        assert re.search("^notifications.info: is not read at .*INTERNAL_ERROR", done.stderr, re.MULTILINE)
        wait_until(lambda: bus.count() == 50, 20, "a leader")
        again = drain(config)
        assert (again.returncode, again.stdout) == (0, "50 messages read, 50 events stored\n")
    server.drop_vhost(url)


@pytest.mark.parametrize("place", [0, 1])
def test_a_bus_that_is_away_keeps_no_other_from_being_drained(
    tmp_path: Path, sqlite_url: str, broker_url: str, bus: Bus, place: int
) -> None:
    urls = [broker_url]
    urls.insert(place, "rabbit://u:s3cret@127.0.0.1:1/")
    more = "[notification]\n" + "".join(f"messaging_urls = {url}\n" for url in urls)
    config = configuration(tmp_path, broker_url, sqlite_url, more)
    preloaded.run(command(config, "db", "sync")).check_returncode()
    bus.publish(body() for _ in range(300))
    done = drain(config)
    assert (done.returncode, done.stdout) == (3, "300 messages read, 300 events stored\n")
    assert "127.0.0.1:1/: " in done.stderr
    assert "what waits there is not known" in done.stderr
    assert "s3cret" not in done.stderr
    assert bus.count() == 0


@pytest.mark.parametrize("name", ["drain", "tap"])
def test_an_embedded_transport_is_refused_in_words(tmp_path: Path, sqlite_url: str, name: str) -> None:
    config = configuration(tmp_path, f"sqla+sqlite:///{tmp_path}/bus.sqlite", sqlite_url)
    preloaded.run(command(config, "db", "sync")).check_returncode()
    done = preloaded.run(command(config, name), timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert "is an embedded transport" in done.stderr


@pytest.mark.parametrize("length", ["nan", "-1", "soon"])
@pytest.mark.parametrize("name", ["drain", "tap"])
def test_a_timeout_that_is_no_time_is_refused(config: Path, name: str, length: str) -> None:
    done = preloaded.run(command(config, name, f"--timeout={length}"), timeout=30)
    assert done.returncode == 2
    assert f"--timeout: {length!r} is no length of time" in done.stderr


def test_a_drain_without_a_broker_or_tables_ends_with_3(
    config: Path, tmp_path: Path, sqlite_url: str
) -> None:
    nowhere = configuration(tmp_path, "rabbit://u:s3cret@127.0.0.1:1/", sqlite_url, "")
    for name in ("drain", "tap"):
        done = preloaded.run(command(nowhere, name), timeout=60)
        assert (done.returncode, done.stdout) == (3, ""), done.stderr
        assert "s3cret" not in done.stderr
