"""What answers on the monitor's port need not be a daemon of ours."""

import copy
import json
import threading
from collections.abc import Callable
from dataclasses import asdict
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any

import pytest

from panko_ingest.cli import check
from panko_ingest.cli.readiness import readiness
from panko_ingest.findings import WARNING, Finding
from panko_ingest.workers.endpoint import Endpoint, Page
from tests.services.server import free_port

OURS: dict[str, Any] = {
    "ok": True,
    "checks": {"database": {"ok": True, "text": "answers"}},
    "figures": {
        "readers": 1,
        "readers_consuming": 1,
        "consuming": [1],
        "absent_queues": ["notifications.error"],
        "lag_seconds": 0.5,
        "in_hand": [3],
        "unwritten_seconds": 0.0,
        "per_second": {"received": 0.5},
        "since_start": {
            "received": 1, "recorded": 1, "duplicates": 0, "dropped": 0, "workers_lost": 0,
            "dead_letters": {"decode": 1},
        },
        "last_expiry": None,
        "expiry_backlog": 0,
    },
}  # fmt: skip


def answered(document: Any, by: Callable[[Any], Any] = readiness) -> Any:
    """Return what commands take for the daemon's answer where that is served.

    :param by: what asks, of the configuration.
    """
    page = Page(HTTPStatus.OK, "application/json", json.dumps(document).encode())
    endpoint = Endpoint("127.0.0.1", 0, {"/readyz": lambda: page})
    thread = threading.Thread(target=endpoint.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        conf: Any = SimpleNamespace(
            monitor=SimpleNamespace(host="127.0.0.1", port=endpoint.server_address[1])
        )
        return by(conf)
    finally:
        endpoint.shutdown()
        endpoint.server_close()
        thread.join(10)


def test_a_daemon_of_ours_is_known_by_what_it_says() -> None:
    assert asdict(answered(OURS)) == OURS
    newer = copy.deepcopy(OURS)
    newer["figures"]["more"] = 1
    assert asdict(answered(newer)) == OURS, "what it says beside that is left out"


@pytest.mark.parametrize(
    "change",
    [
        lambda said: said.update(checks={"expirer": 1}),
        lambda said: said.update(checks={"database": {"ok": True}}),
        lambda said: said["figures"].update(consuming=["a"]),
        lambda said: said["figures"].update(absent_queues=[1]),
        lambda said: said["figures"].update(per_second={"received": "a"}),
        lambda said: said["figures"].pop("expiry_backlog"),
        lambda said: said["figures"]["since_start"].pop("received"),
        lambda said: said["figures"]["since_start"].update(dead_letters={"decode": "many"}),
        lambda said: said.update(more="x" * 2_000_000),
    ],
)
def test_what_no_daemon_of_ours_says_is_no_answer(change: Callable[[dict[str, Any]], object]) -> None:
    said = copy.deepcopy(OURS)
    change(said)
    assert answered(said) is None


def test_check_warns_of_an_address_that_the_monitor_can_not_have() -> None:
    def found(conf: Any) -> list[Finding]:
        return list(check.monitor(conf))

    assert answered(OURS, by=found) == []
    (taken,) = answered({}, by=found)
    assert taken.level == WARNING
    assert "[monitor] host, port: on this host nothing can listen on 127.0.0.1:" in taken.text
    assert "Address already in use" in taken.text
    assert found(SimpleNamespace(monitor=SimpleNamespace(host="127.0.0.1", port=free_port()))) == []
    assert found(SimpleNamespace(monitor=SimpleNamespace(host="nowhere.invalid", port=0))) == []
    (elsewhere,) = found(SimpleNamespace(monitor=SimpleNamespace(host="nowhere.invalid", port=free_port())))
    assert elsewhere.level == WARNING
