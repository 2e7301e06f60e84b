"""docs/audit.md: from the notifications of Keystone and the audit middleware to an auditor's answers."""

import datetime
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from oslo_config import cfg

from panko_ingest import config
from panko_ingest.storage import EventFilter
from tests.bus import Bus
from tests.daemon import SECRET, Daemon
from tests.documents import ROOT, blocks, run_script
from tests.integration.test_least_rights import Store, set_up_on_postgresql
from tests.services import PostgreSQL, RabbitMQ
from tests.waiting import wait_until

PAGE = ROOT / "docs" / "audit.md"
NOW = datetime.datetime.now(datetime.UTC)

pytestmark = [pytest.mark.postgresql, pytest.mark.rabbitmq]


def cadf(message_id: str, event_type: str, initiator: str, **payload: Any) -> dict[str, Any]:
    return {
        "message_id": message_id,
        "event_type": event_type,
        "publisher_id": "identity.host1",
        "timestamp": NOW.strftime("%Y-%m-%d %H:%M:%S.%f"),
        "priority": "INFO",
        "payload": {
            "typeURI": "http://schemas.dmtf.org/cloud/audit/1.0/event",
            "eventType": "activity",
            "eventTime": NOW.isoformat(),
            "initiator": {
                "typeURI": "service/security/account/user",
                "id": initiator,
                "name": f"{initiator}'s name",
                "project_id": "p1",
                "host": {"address": "203.0.113.9", "agent": "curl"},
            },
            "target": {"typeURI": "service/security", "id": "target"},
            "observer": {"typeURI": "service/security", "id": "observer"},
            "outcome": "success",
            **payload,
        },
    }


KEYSTONE = [
    cadf("login-refused", "identity.authenticate", "eve", action="authenticate", outcome="failure"),
    cadf("login", "identity.authenticate", "alice", action="authenticate", password=SECRET),
    cadf("role", "identity.role_assignment.created", "admin", role="r1", user="alice", project="p1"),
    cadf("user-gone", "identity.user.deleted", "admin", resource_info="bob"),
]
NOVA = [
    cadf(
        "call-refused",
        "audit.http.response",
        "eve",
        action="delete",
        outcome="failure",
        reason={"reasonType": "HTTP", "reasonCode": "403"},
        requestPath="/v2.1/servers/s1",
    ),
    {**cadf("no-audit", "compute.instance.update", "alice"), "payload": {"instance_id": "s1"}},
]
ANSWERS = [
    {"login-refused"},
    {"login-refused", "call-refused"},
    {"role"},
    {"role", "user-gone"},
    {"call-refused"},
    {"call-refused"},
    {"login"},
    set(),
    set(),
]
STORED = {"login-refused", "login", "role", "user-gone", "call-refused"}


@pytest.fixture
def store(postgresql: PostgreSQL) -> Iterator[Store]:
    conf = cfg.ConfigOpts()
    config.register_opts(conf)
    conf([], default_config_files=[], default_config_dirs=[])
    conf.set_override("partition_by", "month", group="database")
    conf.set_override("event_time_to_live", "1461d", group="database")
    yield from set_up_on_postgresql(postgresql, conf)


def run(folder: Path, script: str) -> str:
    """Run commands in a folder, whose configuration is the one that is found by itself."""
    done = run_script(script, folder, COLUMNS="400")
    assert done.returncode == 0, script + done.stdout + done.stderr
    return done.stdout


def test_notifications_of_the_identity_service_and_of_apis_answer_what_auditors_ask(
    store: Store, rabbitmq: RabbitMQ, broker_url: str, tmp_path: Path
) -> None:
    (block,) = blocks("ini", "audit", path=PAGE)
    text = block.text
    for account in ("panko_ingest", "panko_owner"):
        password = f"{account.removeprefix('panko_').upper()}_PASSWORD"
        text = text.replace(f"postgresql://{account}:{password}@database1/panko", store.url(account))
    conf = tmp_path / "audit.conf"
    conf.write_text(f"[DEFAULT]\ntransport_url = {broker_url}\n[monitor]\nport = 0\n{text}")
    with Bus(broker_url) as bus:
        for exchange in ("keystone", "nova"):
            bus.declare(exchange=exchange)
    with Daemon(conf, "--only", "ingester").running() as daemon:
        daemon.wait_until_ready()
        wait_until(
            lambda: {"keystone", "nova"} <= set(rabbitmq.bound_exchanges(broker_url, "panko-ingest-audit")),
            30,
            "the bindings",
        )
        for exchange, notifications in (("keystone", KEYSTONE), ("nova", NOVA)):
            (tmp_path / f"{exchange}.json").write_text(json.dumps(notifications))
            run(tmp_path, f"panko-ingest --config-file {conf} publish --exchange {exchange} {exchange}.json")
        with store.connection("panko_reader") as reader:
            wait_until(
                lambda: {event.message_id for event in reader.get_events(EventFilter())} >= STORED,
                60,
                "the events",
            )
            assert all(event.raw for event in reader.get_events(EventFilter()))

    (tmp_path / ".panko-ingest").mkdir()
    (tmp_path / ".panko-ingest" / "panko-ingest.conf").write_text(
        f"[database]\nconnection = {store.url('panko_reader')}\n"
    )
    questions = blocks("bash", "question", path=PAGE)
    assert len(questions) == len(ANSWERS)
    for question, expected in zip(questions, ANSWERS, strict=True):
        script = question.text.replace("/etc/panko-ingest/panko-ingest.conf", str(conf))
        for printed, meant in {"USER_ID": "eve", "PROJECT_ID": "p1", "MESSAGE_ID": "login"}.items():
            script = script.replace(printed, meant)
        if "history" in script:
            script = script.rstrip() + " --format json"
        answer = run(tmp_path, script).replace("login-refused", "LOGIN-REFUSED")
        found = {name for name in STORED if name.replace("login-refused", "LOGIN-REFUSED") in answer}
        assert found == expected, script + answer
        assert SECRET not in answer
    taken_along = (tmp_path / "audit.json").read_text()
    assert all(name in taken_along for name in STORED)
    assert "no-audit" not in taken_along
    assert SECRET not in taken_along


@pytest.mark.parametrize("account", ["panko_ingest", "panko_reader"])
@pytest.mark.parametrize("statement", ["UPDATE event SET raw = '{}'", "DELETE FROM event", "TRUNCATE event"])
def test_nobody_but_the_owner_may_edit_history(store: Store, account: str, statement: str) -> None:
    with (
        store.engine(account).connect() as connection,
        pytest.raises(sa.exc.ProgrammingError, match="denied"),
    ):
        connection.exec_driver_sql(statement)
