"""What a look at a broker finds: rights by AMQP; limits and readers by the management interface."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from amqp.exceptions import PreconditionFailed

from panko_ingest import amqp
from panko_ingest.amqp.management import Binding
from panko_ingest.amqp.topology import TopologyKeeper
from panko_ingest.errors import ConfigError
from panko_ingest.findings import FAILURE, OK, WARNING, Finding
from tests.answering import answering
from tests.bus import Bus
from tests.daemon import SECRET, Daemon, configuration
from tests.ledger import Ledger
from tests.services import RabbitMQ
from tests.services.certificates import Authority
from tests.services.server import free_port, open_to_servers
from tests.waiting import wait_until

pytestmark = pytest.mark.rabbitmq

SHARED = ("notifications.info", "notifications.error")
EXCHANGES = ("nova", "cinder")
NOTHING = "^$"


class Look:
    """Looks at one vhost, as ``check`` does."""

    def __init__(self, rabbitmq: RabbitMQ, url: str) -> None:
        self.url = url
        self.management_url = rabbitmq.management_url
        self.vhost = url.rpartition("/")[2]

    def __call__(self, *, user: str = "guest:guest", told: bool = True, **topology: object) -> list[Finding]:
        bus = amqp.parse(self.url.replace("guest:guest", user))
        management = amqp.Management.parse(self.management_url, bus) if told else None
        wanted = amqp.Topology(SHARED, exchanges=EXCHANGES, **topology)  # type: ignore[arg-type]
        return amqp.inspect(bus, wanted, None, management)

    def until(self, subject: str, text: str, **words: object) -> Finding:
        """Look until there is such a finding: the figures of the management interface lag behind."""
        return wait_until(lambda: one(self(**words), subject, text), 30, f"{subject}: {text}")  # type: ignore[arg-type]


def one(findings: list[Finding], subject: str, text: str) -> Finding | None:
    return next((found for found in findings if found.subject == subject and text in found.text), None)


def bad(findings: list[Finding]) -> list[Finding]:
    return [found for found in findings if found.level != OK]


@pytest.fixture
def look(rabbitmq: RabbitMQ, broker_url: str) -> Look:
    return Look(rabbitmq, broker_url)


@pytest.fixture
def bus(broker_url: str) -> Iterator[Bus]:
    with Bus(broker_url) as bus:
        yield bus


@pytest.fixture
def account(rabbitmq: RabbitMQ, look: Look) -> Iterator[str]:
    """An account without rights; its tag lets it ask the management interface."""
    rabbitmq.api("PUT", "users/weak", {"password": "weak", "tags": "monitoring"})
    allow(rabbitmq, look)
    yield "weak:weak"
    rabbitmq.api("DELETE", "users/weak")


def allow(rabbitmq: RabbitMQ, look: Look, **rights: str) -> None:
    body = {"configure": NOTHING, "write": NOTHING, "read": NOTHING, **rights}
    rabbitmq.api("PUT", f"permissions/{look.vhost}/weak", body)


def make(bus: Bus, queue: str, **arguments: object) -> None:
    named: Mapping[str, object] = {f"x-{name.replace('_', '-')}": value for name, value in arguments.items()}
    bus.channel().queue_declare(queue, durable=True, auto_delete=False, arguments=named)


def test_a_missing_right_to_read_is_found_though_the_queue_can_be_seen(
    look: Look, bus: Bus, account: str, rabbitmq: RabbitMQ
) -> None:
    for queue in SHARED:
        bus.declare(queue)
    findings = look(user=account)
    assert [(found.level, found.subject) for found in bad(findings)] == [
        (FAILURE, f"queue {queue}") for queue in SHARED
    ]
    assert "may not read notifications.info: rabbitmqctl set_permissions" in bad(findings)[0].text
    allow(rabbitmq, look, read=r"^notifications\.(info|error)$")
    assert bad(look(user=account)) == []


def test_missing_rights_to_make_and_to_bind_a_pool_are_found_and_nothing_is_changed(
    look: Look, bus: Bus, account: str, rabbitmq: RabbitMQ, broker_url: str
) -> None:
    bus.declare("notifications.info", exchange="nova")
    found = one(look(user=account, pool="panko"), "queue panko", "may not configure panko")
    assert found
    assert found.level == FAILURE
    allow(rabbitmq, look, configure="^panko$", write="^panko$", read="^panko$")
    findings = look(user=account, pool="panko")
    assert one(findings, "queue panko", "not there yet: the daemon creates it")
    assert one(findings, "control exchanges", "may not bind queue panko to nova")
    allow(rabbitmq, look, configure="^panko$", write="^panko$", read=".*")
    assert not one(look(user=account, pool="panko"), "control exchanges", "may not")
    assert [queue["name"] for queue in rabbitmq.queues(broker_url)] == ["notifications.info"]
    assert bus.consumers() == 0


def test_each_broker_that_does_not_let_us_in_is_told_though_another_of_the_bus_does(
    look: Look, bus: Bus
) -> None:
    bus.declare("notifications.info")
    host = look.url.partition("@")[2].partition("/")[0]
    wrong = f"{host},guest:wrong@{host},guest:guest@127.0.0.1:{free_port()}"
    several = amqp.parse(look.url.replace(host, wrong))
    topology = amqp.Topology(("notifications.info",))
    told = [found.text for found in bad(amqp.inspect(several, topology, None, None))]
    assert len(told) == 2
    assert "ACCESS_REFUSED" in told[0]
    assert "Connection refused: this broker does not let us in, others of the bus do" in told[1]
    assert bad(amqp.inspect(amqp.parse(look.url), topology, None, None)) == []


def test_a_pool_that_no_exchange_is_there_for_is_found(look: Look, bus: Bus) -> None:
    found = one(
        look(pool="panko"), "control exchanges", "0 of 2 are there; not nova, cinder: nothing gets into"
    )
    assert found
    assert found.level == FAILURE
    found = one(look(pool="panko", declare="never"), "control exchanges", "nothing gets into queue panko")
    assert found
    assert found.level == WARNING, "somebody else may have bound it to others"
    bus.declare(exchange="nova")
    found = Finding(OK, "control exchanges", "1 of 2 are there; not cinder")
    assert one(look(pool="panko"), "control exchanges", "1 of 2") == found


def test_without_the_management_interface_one_line_says_what_is_not_seen(look: Look, bus: Bus) -> None:
    for queue in SHARED:
        bus.declare(queue)
    findings = look(told=False)
    assert bad(findings) == []
    (said,) = [found for found in findings if found.subject == "management interface"]
    assert "set [notification] management_urls" in said.text


def test_a_pool_that_nothing_bounds_is_found_and_its_policy_mends_it(
    look: Look, bus: Bus, rabbitmq: RabbitMQ
) -> None:
    make(bus, "panko")
    found = look.until("queue panko", "nothing bounds it", pool="panko")
    assert found.level == WARNING
    command = found.text.partition("Bound it: rabbitmqctl ")[2]
    assert "'{\"max-length\": 5000000}'" in command
    definition = {"max-length": 5000000, "overflow": "reject-publish"}
    body = {"pattern": "^panko$", "definition": definition, "apply-to": "queues"}
    rabbitmq.api("PUT", f"policies/{look.vhost}/ours", body)
    text = "holds at most 5000000 messages (policy 'ours'); beyond that new ones are refused"
    assert look.until("queue panko", text, pool="panko").level == OK
    assert not one(look(pool="panko"), "queue panko", "nothing bounds it")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"message_ttl": 5000}, "drops messages that waited for 5 s"),
        ({"expires": 3600000}, "is deleted, with all that it holds, when nobody read it for 3600 s"),
        ({"queue_type": "quorum", "delivery_limit": 3}, "drops a message that was given back more than 3"),
        ({"queue_type": "quorum", "delivery_limit": 20}, "let a policy give it a dead-letter-exchange"),
    ],
)
def test_settings_of_a_queue_that_may_cost_events_are_found(
    look: Look, bus: Bus, arguments: dict[str, object], text: str
) -> None:
    make(bus, "notifications.info", **arguments)
    assert look.until("queue notifications.info", text).level == WARNING


def test_the_timeout_of_a_queue_is_found_where_no_consumer_may_ask_for_its_own(
    look: Look, bus: Bus, rabbitmq: RabbitMQ
) -> None:
    make(bus, "notifications.info", queue_type="quorum", consumer_timeout=60000, message_ttl=5000)
    text = "unacknowledged for 60 s: set [notification] consumer_timeout = 60"
    if rabbitmq.release < (4, 3):
        assert look.until("queue notifications.info", text).level == WARNING
    else:
        look.until("queue notifications.info", "drops messages that waited for 5 s")
        assert not one(look(), "queue notifications.info", text)


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ({"auto_delete": True}, "is deleted, with all that it holds, when its last reader goes"),
        ({"durable": False}, "is lost, with all that it holds, when the broker restarts"),
    ],
)
def test_a_queue_that_does_not_outlive_restarts_is_found(
    look: Look, bus: Bus, shape: dict[str, bool], text: str
) -> None:
    bus.channel().queue_declare("notifications.info", **{"durable": True, "auto_delete": False, **shape})
    assert look.until("queue notifications.info", text).level == WARNING


def test_limits_that_are_wide_enough_are_no_fault(look: Look, bus: Bus) -> None:
    limits = {"delivery_limit": 20, "dead_letter_exchange": "aside", "consumer_timeout": 1800000}
    make(bus, "notifications.error", queue_type="quorum", **limits)
    make(bus, "notifications.info", message_ttl=86400000, max_length_bytes=10**9)
    findings = look()
    assert bad(findings) == []
    assert one(findings, "queue notifications.info", "at most 1000000000 bytes, messages for 86400 s")


def test_a_pool_that_is_not_as_the_daemon_would_make_it_is_told(look: Look, bus: Bus) -> None:
    make(bus, "panko", max_length=10)
    bounded = one(look(pool="panko"), "queue panko", "x-max-length: wanted none")
    assert bounded
    assert bounded.level == OK, "a bound is welcome"
    make(bus, "plain")
    assert not one(look(pool="plain"), "queue plain", "differs")
    other = one(look(pool="plain", queue_type="quorum"), "queue plain", "x-queue-type: wanted")
    assert other
    assert other.level == WARNING


def test_a_pools_queue_that_can_no_longer_be_made_is_told(
    look: Look, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_keeper: TopologyKeeper, name: str) -> str | None:
        raise PreconditionFailed(
            f"PRECONDITION_FAILED - cannot declare queue '{name}': queue limit is reached"
        )

    make(bus, "plain")
    monkeypatch.setattr(TopologyKeeper, "make_pool", fail)
    found = one(look(pool="plain"), "queue plain", "queue limit is reached")
    assert found
    assert found.level == FAILURE


def test_exchanges_that_a_pool_misses_are_found(look: Look, bus: Bus) -> None:
    make(bus, "panko", max_length=10)
    bus.declare("notifications.info", exchange="nova")
    bus.declare("notifications.info", exchange="sahara")
    channel = bus.channel()
    channel.queue_bind("panko", "nova", "notifications.info")
    findings = look(pool="panko")
    (found,) = [found for found in bad(findings) if found.subject == "control exchanges"]
    assert "publish notifications.info to sahara, of which panko gets nothing" in found.text
    channel.queue_unbind("panko", "nova", "notifications.info")
    assert one(look(pool="panko"), "control exchanges", "panko is not bound to nova for notifications.info")


def test_queues_of_notifications_that_nobody_reads_are_found(look: Look, bus: Bus) -> None:
    bus.declare("notifications.info")
    bus.declare("notifications.audit", exchange="keystone")
    bus.declare("versioned_notifications.info")
    make(bus, "reply_0a1b.info")  # bound to nothing: no queue of notifications
    found = one(look(), "queue notifications.audit", "nobody reads it, and nothing bounds it")
    assert found
    assert "bound to keystone" in found.text
    assert one(look(), "queue versioned_notifications.info", "nobody reads it")
    assert not one(look(), "queue reply_0a1b.info", "")
    # with a pool, also those that we would read otherwise; a bounded one is nobody's trouble
    bus.delete("notifications.info")
    make(bus, "notifications.error", max_length=10)
    bus.declare("notifications.warn")
    findings = look(pool="panko")
    assert not one(findings, "queue notifications.error", "nobody reads it")


@pytest.mark.parametrize("key", ["notifications.info", "notifications.*", "#.error"])
def test_a_pool_that_was_given_up_is_found_whoever_made_it(look: Look, bus: Bus, key: str) -> None:
    bus.declare("notifications.info")
    make(bus, "ceilometer-pool")
    make(bus, "events-of-the-broker")
    channel = bus.channel()
    channel.queue_bind("ceilometer-pool", "nova", key)
    channel.queue_bind("events-of-the-broker", "amq.topic", "#")
    bus.publish([b"{}"])
    for pool in (None, "panko"):
        findings = look(pool=pool)
        found = one(findings, "queue ceilometer-pool", "nobody reads it, and nothing bounds it")
        assert found
        assert found.level == WARNING
        assert "bound to nova" in found.text
        assert "Delete it if it is a pool that was given up" in found.text
        assert not one(findings, "queue events-of-the-broker", "")
    assert not one(look(pool="ceilometer-pool"), "queue ceilometer-pool", "nobody reads it")
    channel.basic_consume("ceilometer-pool", callback=lambda _message: None)
    wait_until(lambda: not one(look(), "queue ceilometer-pool", ""), 30, "its reader seen")


def test_a_pool_that_is_bounded_and_one_of_other_topics_are_nobodys_trouble(look: Look, bus: Bus) -> None:
    bus.declare("notifications.info")
    make(bus, "bounded", max_length=10)
    make(bus, "replies")
    channel = bus.channel()
    channel.queue_bind("bounded", "nova", "notifications.info")
    channel.queue_bind("replies", "nova", "conductor")
    assert not [found for found in look() if found.subject in ("queue bounded", "queue replies")]


def test_bindings_that_the_configuration_does_not_name_are_told_with_what_unbinds_them(
    look: Look, bus: Bus, rabbitmq: RabbitMQ
) -> None:
    make(bus, "panko", max_length=10)
    bus.declare("notifications.info", exchange="nova")
    bus.declare("notifications.info", exchange="sahara")
    channel = bus.channel()
    for exchange, key in (
        ("nova", "notifications.info"),
        ("nova", "notifications.*"),
        ("nova", "audit.#"),
        ("nova", "100% wrong/right"),
        ("sahara", "notifications.info"),
    ):
        channel.queue_bind("panko", exchange, key)
    told = [found for found in bad(look(pool="panko")) if "panko is bound to" in found.text]
    assert [found.text.partition(", which")[0] for found in told] == [
        "panko is bound to nova for 100% wrong/right",
        "panko is bound to nova for audit.#",
        "panko is bound to sahara for notifications.info",
    ]
    for found in told:
        command = found.text.partition("`")[2].rstrip("`")
        words = command.split()
        assert words[:3] == ["curl", "-u", "USER"]
        rabbitmq.api(words[words.index("-X") + 1], words[-1].partition("/api/")[2])
    assert not [found for found in look(pool="panko") if "panko is bound to" in found.text]


def test_others_that_read_are_named_and_our_own_on_other_hosts_are_not_taken_for_them(
    look: Look, bus: Bus, tmp_path: Path, sqlite_url: str, broker_url: str
) -> None:
    ledger = Ledger(sqlite_url)
    for queue in SHARED:
        bus.declare(queue)
    conf = configuration(tmp_path, broker_url, ledger.url, "[notification]\nworkers = 1\n")
    with Daemon(conf).running() as daemon:
        daemon.wait_until_ready()
        assert one(look(told=False), "queue notifications.info", "1 consumers: each message goes to only one")
        wait_until(lambda: not bad(look()), 30, "our own reader known as such")
        with Bus(broker_url) as agent:
            agent.channel().basic_consume("notifications.info")
            look.until("queue notifications.info", "is read by others: guest from 127.0.0.1")
            assert one(look(), "queue notifications.info", "1 consumers are not of this daemon")
        daemon.stop()
    ledger.close()


@pytest.mark.parametrize(
    ("url", "text"),
    [
        (f"http://guest:{SECRET}@127.0.0.1:{{port}}", "the account is refused"),
        (f"http://guest:{SECRET}@127.0.0.1:{{port}}/elsewhere", "no such page"),
        (f"http://guest:{SECRET}@127.0.0.1:{{free}}", "Connection refused"),
        (f"https://guest:{SECRET}@127.0.0.1:{{port}}", "WRONG_VERSION_NUMBER|SSL|record layer"),
    ],
)
def test_a_management_interface_that_does_not_answer_is_a_warning(
    look: Look, rabbitmq: RabbitMQ, bus: Bus, url: str, text: str
) -> None:
    look.management_url = url.format(port=rabbitmq.management_port, free=free_port())
    findings = look()
    (found,) = [found for found in findings if found.subject == "management interface"]
    assert found.level == WARNING
    assert any(part in found.text for part in text.split("|")), found.text
    assert "[notification] management_urls" in found.text
    assert SECRET not in str(findings)
    assert one(findings, look.url.rpartition("@")[2], "lets us in"), "AMQP is asked all the same"


def test_a_vhost_that_the_management_interface_does_not_know_is_named(look: Look, rabbitmq: RabbitMQ) -> None:
    look.url = rabbitmq.vhost_url("nowhere")
    assert one(look(), "management interface", "it knows no vhost nowhere")


@pytest.mark.parametrize("answer", ["{}", "[]", "[1]", '"a"', '{"rabbitmq_version": 4}', "{", "[" * 100_000])
def test_another_service_at_the_management_url_is_a_warning(look: Look, bus: Bus, answer: str) -> None:
    with answering(answer) as port:
        look.management_url = f"http://guest:{SECRET}@127.0.0.1:{port}"
        findings = look()
    (found,) = [found for found in findings if found.subject == "management interface"]
    assert found.level == WARNING
    assert SECRET not in str(findings)
    assert one(findings, look.url.rpartition("@")[2], "lets us in"), "AMQP is asked all the same"


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:15672",
        f"amqp://guest:{SECRET}@host",
        "http://host:port",
        "http://",
        f"http://gu/est:{SECRET}@host:15672",
        f"https://guest:12#{SECRET}@host:15672",
        f"https://guest:12?{SECRET}@host:15672",
    ],
)
def test_a_url_that_is_none_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError, match=r"\[notification\] management_urls") as raised:
        amqp.Management.parse(url, amqp.parse("rabbit://user:password@host/"))
    assert SECRET not in str(raised.value)


def test_a_password_is_not_in_the_repr() -> None:
    management = amqp.Management.parse(f"http://user:{SECRET}@host", amqp.parse("rabbit://u:p@host/"))
    assert SECRET not in repr(management) + str(management)


def test_the_command_that_takes_a_binding_away_has_an_address_of_ipv6_in_brackets() -> None:
    management = amqp.Management.parse("https://user:p@[::1]:15671/mq", amqp.parse("rabbit://u:p@host/"))
    command = management.unbinding(Binding("ours", "nova", "notifications.info", "notifications.info"))
    path = "mq/api/bindings/%2F/e/nova/q/ours/notifications.info"
    assert command == f"curl -u USER -X DELETE https://[::1]:15671/{path}"


@pytest.mark.timeout(240)
def test_the_management_interface_is_asked_by_tls_where_the_url_says_so(tmp_path: Path) -> None:
    open_to_servers(tmp_path)
    authority = Authority(tmp_path)
    pair = authority.sign("broker", "127.0.0.1")
    for path in (authority.certificate, *pair):
        path.chmod(0o644)
    port = free_port()
    settings = {
        "management.ssl.port": str(port),
        "management.ssl.ip": "127.0.0.1",
        "management.ssl.cacertfile": str(authority.certificate),
        "management.ssl.certfile": str(pair.certificate),
        "management.ssl.keyfile": str(pair.key),
    }
    with RabbitMQ(settings) as server:
        trusted = amqp.parse(f"{server.url}?ssl=1&ssl_ca_file={authority.certificate}")
        url = f"https://guest:guest@127.0.0.1:{port}"
        assert amqp.Management.parse(url, trusted).version()[0].isdigit()
        distrusted = amqp.Management.parse(url, amqp.parse(server.url))
        topology = amqp.Topology(SHARED)
        findings = amqp.inspect(amqp.parse(server.url), topology, None, distrusted)
        assert one(findings, "management interface", "CERTIFICATE_VERIFY_FAILED")
