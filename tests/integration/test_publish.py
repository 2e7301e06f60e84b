"""``publish`` beside the services of a cloud, whose queues it must not make in another way than they do."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import preloaded
from tests.bus import Bus
from tests.daemon import configuration
from tests.documents import ROOT
from tests.notifier import publish
from tests.services import RabbitMQ

pytestmark = pytest.mark.rabbitmq

QUORUM = "oslo_messaging_rabbit.rabbit_quorum_queue=true"

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path, broker_url: str, sqlite_url: str) -> Run:
    """Publish the samples to a bus that is empty."""
    config = configuration(tmp_path, broker_url, sqlite_url)

    def run(*arguments: str, file: Path = ROOT / "etc" / "samples.jsonl") -> subprocess.CompletedProcess[str]:
        return preloaded.run(["--config-file", config, "publish", *arguments, file])

    return run


def test_it_makes_nothing_that_services_could_no_longer_declare(
    run: Run, broker_url: str, rabbitmq: RabbitMQ
) -> None:
    publish(broker_url, "cinder", 1, QUORUM)
    elsewhere, unknown = run("--exchange", "nova"), run("--exchange", "cinder", "--priority", "error")
    assert (elsewhere.returncode, unknown.returncode) == (3, 3)
    assert "exchange 'nova' is not there" in elsewhere.stderr
    assert "queue 'notifications.error' is not there" in unknown.stderr
    assert "--create" in unknown.stderr
    assert [queue["name"] for queue in rabbitmq.queues(broker_url)] == ["notifications.info"]
    publish(broker_url, "nova", 1, QUORUM)
    assert run("--exchange", "nova", "--priority", "info").returncode == 0
    with Bus(broker_url) as bus:
        assert bus.count() == 2 + 8


def test_what_no_queue_would_get_is_refused(run: Run, broker_url: str) -> None:
    with Bus(broker_url) as bus:
        bus.declare(exchange="nova")
        bus.declare("audit", exchange="openstack")
    done = run("--priority", "info")
    assert (done.returncode, done.stdout) == (3, "")
    assert "no queue is bound to exchange 'openstack' for notifications.info" in done.stderr


def test_exchange_and_queues_are_made_where_that_is_asked_for(
    run: Run, broker_url: str, rabbitmq: RabbitMQ
) -> None:
    done = run("--create")
    assert (done.returncode, done.stdout) == (0, "8 notifications published\n"), done.stderr
    made = {queue["name"]: (queue["type"], queue["durable"]) for queue in rabbitmq.queues(broker_url)}
    assert made == {f"notifications.{priority}": ("classic", True) for priority in ("error", "info")}
    assert run().returncode == 0
    with Bus(broker_url) as bus:
        assert bus.count("notifications.info") + bus.count("notifications.error") == 16


def test_what_is_in_an_envelope_goes_where_its_own_priority_says(
    run: Run, broker_url: str, tmp_path: Path
) -> None:
    file, inner = tmp_path / "captured.json", json.dumps({"event_type": "x", "priority": "ERROR"})
    file.write_text(json.dumps({"oslo.version": "2.0", "oslo.message": inner}))
    assert run("--create", file=file).returncode == 0
    with Bus(broker_url) as bus:
        assert bus.count("notifications.error") == 1
    file.write_text(json.dumps({"oslo.version": "2.0", "oslo.message": "no JSON"}))
    done = run("--count", "2", file=file)
    assert (done.returncode, "captured.json: its oslo.message is no JSON object" in done.stderr) == (2, True)
