"""Messages that are bad, very many of them, and such as kill whoever reads them."""

import bz2
import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from panko_ingest.shared_state import CRASHES_BEFORE_DEAD_LETTER
from tests.bus import Bus
from tests.daemon import Daemon, configuration
from tests.faults import poison
from tests.faults.breaking import limit_deliveries
from tests.faults.scene import bodies, record
from tests.ledger import Ledger
from tests.services import RabbitMQ
from tests.spoiled import spoiled
from tests.waiting import crowding, wait_until

QUEUES = ("notifications.info", "notifications.error")

pytestmark = [pytest.mark.rabbitmq, pytest.mark.postgresql, pytest.mark.timeout(900)]


@pytest.fixture
def ledger(postgresql_url: str) -> Iterator[Ledger]:
    ledger = Ledger(postgresql_url)
    yield ledger
    ledger.close()


def test_a_hundred_kinds_of_poison_among_ten_thousand_good_ones(
    tmp_path: Path, broker_url: str, ledger: Ledger
) -> None:
    good, bad = bodies(10_000), poison.bodies()
    assert len(set(bad)) == len(bad) >= 100
    mixed = good + bad
    Random(3).shuffle(mixed)
    service = Daemon(configuration(tmp_path, broker_url, ledger.url), "--only", "ingester")
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        bus.publish(mixed)
        wait_until(lambda: ledger.events() + ledger.dead_letters() >= len(mixed), 60, "an end for each")
        assert service.stop() == 0
        assert bus.count() == 0
    ledger.assert_holds(good)
    assert ledger.dead_letters() == len(bad)
    record(f"{len(bad)} kinds of poison among 10,000", 0, len(mixed), ledger.events(), len(bad))


def test_a_flood_of_bad_messages_trips_the_breaker_until_it_is_over(
    tmp_path: Path, broker_url: str, ledger: Ledger
) -> None:
    flood = [json.dumps({"oslo.version": "9.9", "number": number}).encode() for number in range(8000)]
    good = bodies(3000)
    conf = configuration(tmp_path, broker_url, ledger.url, "[notification]\nworkers = 1\nbatch_size = 500\n")
    quick = spoiled("breaker:PROBE_INTERVAL=2")
    service = Daemon(conf, "--only", "ingester", environment=quick)
    with Bus(broker_url) as bus:
        bus.declare()
        bus.publish(flood)
        with service.running():
            service.wait_for_log("Nearly all of the last messages became dead letters", 30)
            tripped_at = ledger.dead_letters()
            assert tripped_at < len(flood) / 2
            bus.publish(good)
            wait_until(lambda: ledger.dead_letters() > tripped_at, 30, "a probe")
            service.wait_for_log("dead letters are under the limit again", 60)
            wait_until(lambda: ledger.events() == len(good), 60, "all good events")
            wait_until(lambda: ledger.dead_letters() == len(flood), 60, "all dead letters")
            assert service.stop() == 0
        assert bus.count() == 0
    ledger.assert_holds(good)
    record("a flood of 8,000 bad messages", 0, len(flood) + len(good), ledger.events(), len(flood))


def test_a_worker_whose_queue_goes_to_another_one_does_not_tell_of_a_flood_for_ever(
    tmp_path: Path, broker_url: str, ledger: Ledger
) -> None:
    good = bodies(300)
    # With a prefetch that never grows, for which a consumer would make way for the other worker's again.
    steady = "[notification]\nworkers = 2\nbatch_size = 16\nprefetch_count = 16\n"
    conf = configuration(tmp_path, broker_url, ledger.url, steady)
    quick = spoiled("breaker:PROBE_INTERVAL=0.5")
    service = Daemon(conf, "--only", "ingester", environment=quick)

    def told(what: str) -> set[str]:
        return set(re.findall(rf" (\d+) \w+ panko_ingest.pipeline.bus_pipeline .*{what}", service.log))

    with Bus(broker_url) as bus:
        arguments = {"x-queue-type": "quorum", "x-single-active-consumer": True}
        bus.channel().queue_declare(
            "notifications.info", durable=True, auto_delete=False, arguments=arguments
        )
        bus.publish([b'{"number": %d}' % number for number in range(1500)], exchange="")
        with service.running():
            wait_until(lambda: told("Nearly all"), 30, "an open breaker")
            wait_until(lambda: ledger.dead_letters() == 1500, 30, "all dead letters")
            bus.publish(good, exchange="")
            wait_until(lambda: ledger.events() == len(good), 30, "all good events")
            wait_until(lambda: told("reading on") == told("Nearly all"), 30, "an end of all floods")
            assert service.stop() == 0
    ledger.assert_holds(good)


def test_big_messages_are_taken_a_few_at_a_time(tmp_path: Path, broker_url: str, ledger: Ledger) -> None:
    # RabbitMQ may have 200 on their way when it is told to stop.
    room, size, count = 2 * 2**20, 2**18, 1000
    big = [deadly_message("x" * size) for _ in range(count)]
    more = f"[notification]\nworkers = 1\nmax_bytes_in_flight = {room}\n"
    service = Daemon(configuration(tmp_path, broker_url, ledger.url, more), "--only", "ingester")
    sizes: list[int] = []

    def all_stored() -> bool:
        sizes.extend(worker.memory_info().rss for worker in service.workers)
        return ledger.events() == count

    with Bus(broker_url) as bus, service.running():
        bus.declare()
        service.wait_until_ready(60)
        sizes.extend(worker.memory_info().rss for worker in service.workers)
        bus.publish(big)
        wait_until(all_stored, 90, "the big ones", interval=0.1)
        assert service.stop() == 0
        assert bus.count() == 0
    assert "more than their part of max_bytes_in_flight" in service.log
    assert ledger.dead_letters() == 0
    # A few bodies are there as bytes, as text, and decoded.
    assert max(sizes) - sizes[0] < count * size / 2, "it took them all"


def test_small_messages_that_take_long_each_do_not_end_the_worker_that_converts_them(
    tmp_path: Path, broker_url: str, ledger: Ledger
) -> None:
    limit, good = 8 * crowding(), bodies(40)
    # Each takes half a second of processor, and all that a prefetch lets come are read at once.
    text = json.dumps({"event_type": "a.b", "payload": ["x: y, " * 4000 for _ in range(100)]}).encode()
    bombs = [bz2.compress(text + b" " * number) for number in range(20)]
    assert sum(map(len, bombs)) < 2**13
    service = Daemon(
        configuration(tmp_path, broker_url, ledger.url, "[notification]\nworkers = 1\n"),
        "--only",
        "ingester",
        environment=spoiled(f"workers.supervisor:HANG_LIMIT={limit}"),
    )
    with Bus(broker_url, quorum=True) as bus:
        bus.declare()
        bus.publish(bombs, application_headers={"compression": "application/x-bz2"})
        bus.publish(good)
        with service.running():
            wait_until(lambda: ledger.events() == len(good), 300, "the good ones")
            wait_until(lambda: ledger.dead_letters() == len(bombs), 60, "the dead letters")
            assert service.stop() == 0
        wait_until(lambda: bus.count() == 0, 20, "an empty queue")
    assert "made no progress" not in service.log
    ledger.assert_holds(good)
    record("20 that inflate to 4000 times their size", 0, len(good) + len(bombs), ledger.events(), len(bombs))


PLUGIN = """\
import ctypes, os, signal, sys, time
from panko_ingest.converter.plugins import TraitPlugin

class TimedOut(BaseException):
    def __str__(self):
        return None

class Deadly(TraitPlugin):
    def trait_values(self, match_list):
        for _, value in match_list:
            if value == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if value == "exit":
                sys.exit()
            if value == "time out":
                raise TimedOut
            if value == "leave":
                os._exit(0)
            if value == "die later":
                time.sleep(0.5)
                os.kill(os.getpid(), signal.SIGKILL)
            if value == "take long":
                time.sleep(3)
            while value == "hang":
                pass
            if value == "hang in C":
                ctypes.PyDLL(None).sleep(3600)  # keeps the interpreter's lock
        return ["harmless"] * len(match_list)
"""
DEFINITIONS = """\
- event_type: "*"
  traits: {}
- event_type: test.deadly
  traits:
    effect:
      fields: payload.effect
      plugin: deadly
"""


@pytest.fixture
def plugin_folder(tmp_path: Path) -> Path:
    """A folder with an installed trait plugin that kills or hangs its process on demand."""
    folder = tmp_path / "plugins"
    info = folder / "deadly-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "deadly.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: deadly\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[panko_ingest.trait_plugin]\ndeadly = deadly:Deadly\n")
    (tmp_path / "event_definitions.yaml").write_text(DEFINITIONS)
    return folder


@pytest.mark.parametrize(
    ("effect", "patience"),
    [
        ("exit", 30),
        ("time out", 30),
        ("die", 30),
        ("leave", 30),
        pytest.param("hang", 10, marks=pytest.mark.long),
        pytest.param("hang in C", 30, marks=pytest.mark.long),
    ],
)
def test_a_message_that_kills_whoever_converts_it_is_found_out(
    tmp_path: Path, broker_url: str, ledger: Ledger, plugin_folder: Path, effect: str, patience: int
) -> None:
    deadly = deadly_message(effect)
    good = [deadly_message("none") for _ in range(300)]
    conf = configuration(tmp_path, broker_url, ledger.url, "[notification]\nworkers = 1\n")
    limit = f"workers.supervisor:HANG_LIMIT={patience}"
    service = Daemon(conf, "--only", "ingester", environment=spoiled(limit, folders=(plugin_folder,)))
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        bus.publish([*good[:150], deadly, *good[150:]])
        wait_until(lambda: ledger.dead_letters() == 1, 60 + 8 * patience, "the dead letter")
        wait_until(lambda: ledger.events() == len(good), 30, "the good ones")
        assert service.stop() == 0
        assert bus.count() == 0
    assert ledger.stages() == {"convert" if effect in {"exit", "time out"} else "crash": 1}
    if effect == "leave":
        assert "WARNING panko_ingest.workers.master [-] ingester-0 ended with exit code 0" in service.log
    if effect.startswith("hang"):  # the first time it is delivered nobody has a reason to note it down
        killed = re.findall(r"made no progress for \d+ s: killing it", service.log)
        assert len(killed) >= CRASHES_BEFORE_DEAD_LETTER + 1
    record(f"a message that makes its converter {effect}", 0, len(good) + 1, ledger.events(), 1)


@pytest.mark.parametrize(
    ("limit", "deadly", "workers"), [(3, 1, 1), pytest.param(20, 10, 2, marks=pytest.mark.long)]
)
def test_no_neighbour_of_messages_that_kill_is_dropped_at_a_queues_delivery_limit(
    tmp_path: Path,
    rabbitmq: RabbitMQ,
    broker_url: str,
    ledger: Ledger,
    plugin_folder: Path,
    limit: int,
    deadly: int,
    workers: int,
) -> None:
    limit_deliveries(rabbitmq, broker_url, limit)
    good = [deadly_message("none") for _ in range(400)]
    mixed = good + [deadly_message("die") for _ in range(deadly)]
    Random(deadly).shuffle(mixed)
    conf = configuration(tmp_path, broker_url, ledger.url, f"[notification]\nworkers = {workers}\n")
    service = Daemon(conf, "--only", "ingester", environment=spoiled(folders=(plugin_folder,)))
    with Bus(broker_url, quorum=True) as bus:
        bus.declare()
        bus.publish(mixed)  # all of them share a prefetch
        with service.running():
            wait_until(lambda: ledger.dead_letters() >= deadly, 60 + 20 * deadly, "the dead letters", 0.5)
            wait_until(lambda: ledger.events() >= len(good), 30, "the good ones")
            assert service.stop() == 0
        wait_until(lambda: bus.count() == 0, 20, "an empty queue")
    assert ledger.events() == len(good)
    assert ledger.stages() == {"crash": deadly}
    deaths = len(re.findall(r"Worker \d+ reads from", service.log)) - workers
    assert deaths >= 2 * deadly + 1  # the first of all died unnoticed
    record(
        f"{deadly} that kill in a quorum queue with a delivery limit of {limit}",
        0,
        len(mixed),
        ledger.events(),
        deadly,
    )


@pytest.mark.parametrize(("quorum", "killers"), [(True, 1), (False, 1), (True, 8)])
def test_a_message_that_kills_whoever_stores_it_is_found_out_and_its_neighbours_are_stored(
    tmp_path: Path,
    rabbitmq: RabbitMQ,
    broker_url: str,
    ledger: Ledger,
    quorum: bool,
    killers: int,
) -> None:
    limit_deliveries(rabbitmq, broker_url, 20)
    good = [deadly_message("none") for _ in range(120)]
    deadly = [deadly_message("none", "test.unstorable") for _ in range(killers)]
    conf = configuration(tmp_path, broker_url, ledger.url, "[notification]\nworkers = 1\n")
    service = Daemon(conf, "--only", "ingester", environment=spoiled(FAULT_KILL_STORING="test.unstorable"))
    with Bus(broker_url, quorum=quorum) as bus:
        for queue in QUEUES:
            bus.declare(queue)
        bus.publish([*deadly, *good[:60]])
        bus.publish(good[60:], queue=QUEUES[1])
        with service.running():
            wait_until(lambda: ledger.dead_letters() == killers, 60 + 20 * killers, "the dead letters", 0.5)
            wait_until(lambda: ledger.events() == len(good), 30, "the good ones")
            assert service.stop() == 0
        wait_until(lambda: not any(map(bus.count, QUEUES)), 20, "empty queues")
    assert ledger.stages() == {"crash": killers}
    assert set(ledger.letters()) == set(deadly), "what could be replayed is gone"
    record(f"{killers} that kill who stores them", 0, len(good) + killers, ledger.events(), killers)


def test_a_message_that_kills_costs_no_innocent_one_of_another_bus(
    tmp_path: Path, rabbitmq: RabbitMQ, broker_url: str, ledger: Ledger, plugin_folder: Path
) -> None:
    deadly, innocent = deadly_message("die later"), deadly_message("take long")
    urls = [broker_url, rabbitmq.create_vhost()]
    more = "[notification]\nworkers = 1\n" + "".join(f"messaging_urls = {url}\n" for url in urls)
    service = Daemon(
        configuration(tmp_path, broker_url, ledger.url, more),
        "--only",
        "ingester",
        environment=spoiled(folders=(plugin_folder,)),
    )
    with Bus(urls[0]) as one, Bus(urls[1]) as other:
        for bus, body in ((one, deadly), (other, innocent)):
            bus.declare()
            bus.publish([body])
        with service.running():
            wait_until(lambda: ledger.dead_letters() >= 1, 90, "the dead letter")
            wait_until(lambda: ledger.events() == 1, 30, "the innocent one")
            assert service.stop() == 0
        assert (one.count(), other.count()) == (0, 0)
    assert ledger.stages() == {"crash": 1}
    record("one that kills, on one of two buses", 0, 2, ledger.events(), 1)


def test_a_copy_of_a_message_that_killed_kills_nobody(
    tmp_path: Path, broker_url: str, ledger: Ledger, plugin_folder: Path
) -> None:
    deadly = deadly_message("die")
    conf = configuration(tmp_path, broker_url, ledger.url, "[notification]\nworkers = 1\n")
    service = Daemon(conf, "--only", "ingester", environment=spoiled(folders=(plugin_folder,)))
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        bus.publish([deadly])
        wait_until(lambda: ledger.dead_letters() == 1, 60, "the dead letter")
        deaths = service.log.count("ended by SIGKILL")
        bus.publish([deadly, deadly_message("none")])
        wait_until(lambda: ledger.events() == 1, 30, "the good one")
        assert service.stop() == 0
        assert bus.count() == 0
    assert service.log.count("ended by SIGKILL") == deaths == CRASHES_BEFORE_DEAD_LETTER + 1
    assert ledger.dead_letters() == 1


def deadly_message(effect: str, event_type: str = "test.deadly") -> bytes:
    message = {
        "message_id": str(uuid.uuid4()),
        "publisher_id": "test.host1",
        "event_type": event_type,
        "priority": "INFO",
        "payload": {"effect": effect},
        "timestamp": "2026-11-23 13:16:34.317715",
    }
    return json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(message)}).encode()
