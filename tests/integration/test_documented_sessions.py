"""The sessions that docs/commands.md prints are typed again, and must say the same."""

import json
import shlex
from pathlib import Path

import pytest

from tests import preloaded
from tests.bus import Bus
from tests.daemon import configuration
from tests.documents import ROOT, blocks

pytestmark = pytest.mark.rabbitmq

PAGE = ROOT / "docs" / "commands.md"
SERVER, VOLUME = "7f3c1f0e-5a51-4d0e-8f0e-2b1f6f5c9a01", "c2a4f7d0-93b5-4f7e-9f0c-0d5b8e1a7b02"
CREATE = "req-0b6d8f3a-3f0c-4b39-8f7e-1f3f8f1f6c11"
DELETE = "req-5e2a9c47-6d1b-4c58-a3f0-9b7d2e4f8a22"


def notification(number: int, kind: str, request: str, **payload: str) -> tuple[str, bytes]:
    """Return the exchange and the body of a notification of a small story."""
    message = {
        "_context_request_id": request,
        "_context_user_id": "alice",
        "_context_project_id": "p1",
        "message_id": f"00000000-0000-4000-8000-00000000000{number}",
        "publisher_id": f"{kind.partition('.')[0]}.host1",
        "event_type": kind,
        "priority": "INFO",
        "payload": {"tenant_id": "p1", "user_id": "alice", **payload},
        "timestamp": f"2026-11-23 13:16:3{number}.250000",
    }
    exchange = "nova" if kind.startswith("compute") else "cinder"
    return exchange, json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(message)}).encode()


STORY = [
    notification(
        1, "compute.instance.create.start", CREATE, instance_id=SERVER, state="building", adminPass="s3cret"
    ),
    notification(2, "volume.create.end", CREATE, volume_id=VOLUME, status="available"),
    notification(3, "compute.instance.create.end", CREATE, instance_id=SERVER, state="active"),
    notification(4, "compute.instance.delete.end", DELETE, instance_id=SERVER, state="deleted"),
]


def printed(path: Path = PAGE) -> list[tuple[str, str, str]]:
    """Return the kind, the command line and the output of each session."""
    found = blocks("bash", "session", path=path)
    outputs = blocks("text", "session", path=path)
    assert len(found) == len(outputs)
    return [
        ("".join(one.words[1:]), one.text.strip(), output.text)
        for one, output in zip(found, outputs, strict=True)
    ]


def test_the_documented_sessions_say_what_is_printed(
    tmp_path: Path, broker_url: str, sqlite_url: str
) -> None:
    config = configuration(tmp_path, broker_url, sqlite_url, "")

    def begin(line: str) -> preloaded.Process:
        program, *arguments = shlex.split(line)
        assert program == "panko-ingest"
        return preloaded.Process(["--config-file", config, *arguments])

    def end(process: preloaded.Process) -> str:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        return out

    end(begin("panko-ingest db sync"))
    said: dict[str, str] = {}
    with Bus(broker_url) as bus:
        for exchange in ("nova", "cinder"):
            bus.declare(exchange=exchange)
        taps = {line: begin(line) for kind, line, _ in printed() if kind == "tap"}
        for tap in taps.values():
            assert tap.stderr is not None
            assert tap.stderr.readline().startswith("listening")
        for exchange, body in STORY:
            bus.publish([body], exchange=exchange)
        said |= {line: end(tap) for line, tap in taps.items()}
    ((follow,), (drain,)) = (
        [line for kind, line, _ in printed() if kind == wanted] for wanted in ("follow", "drain")
    )
    following = begin(follow)
    assert following.stdout is not None
    first = following.stdout.readline()  # its heading, when it has looked once
    said[drain] = end(begin(drain))
    said[follow] = first + end(following)
    for kind, line, _ in printed():
        if not kind:
            said[line] = end(begin(line))
    text = PAGE.read_text()
    for _, line, output in printed():
        assert said[line] == output, f"{line}\n{said[line]}"
    assert "s3cret" not in text
