"""Several buses, several brokers of a bus, and TLS to them."""

import contextlib
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from panko_ingest.amqp.amqp_link import AmqpLink
from panko_ingest.amqp.inspection import inspect, reach
from panko_ingest.amqp.link import Waker
from panko_ingest.amqp.topology import Topology
from panko_ingest.amqp.urls import parse
from panko_ingest.errors import BrokerError
from panko_ingest.findings import OK, WARNING
from tests.bus import Bus
from tests.daemon import Daemon, configuration
from tests.ledger import Ledger, load
from tests.services import RabbitMQ
from tests.services.certificates import Authority
from tests.services.server import free_port, open_to_servers
from tests.waiting import wait_until

pytestmark = pytest.mark.rabbitmq


def test_a_worker_reads_all_its_buses_and_one_that_is_gone_holds_up_no_other(
    tmp_path: Path, rabbitmq: RabbitMQ, ledger: Ledger
) -> None:
    bodies = load(400, seed=11)
    urls = [rabbitmq.create_vhost() for _ in range(2)]
    more = "[notification]\nworkers = 2\n" + "".join(f"messaging_urls = {url}\n" for url in urls)
    service = Daemon(configuration(tmp_path, "rabbit://nowhere", ledger.url, more), "--only", "ingester")
    with Bus(urls[0]) as first, service.running():
        with Bus(urls[1]) as second:
            for bus in (first, second):
                bus.declare()
            service.wait_until_ready()
            first.publish(bodies[:100])
            second.publish(bodies[100:200])
        wait_until(lambda: ledger.events() == 200, 30, "the events of both buses")
        rabbitmq.drop_vhost(urls[1])
        service.wait_for_log(r"vhost is deleted|CONNECTION_FORCED|NotAllowed|NOT_ALLOWED")
        first.publish(bodies[200:])
        wait_until(lambda: ledger.events() == 400, 30, "the events of the bus that is left")
        assert service.stop() == 0
        assert first.count() == 0
    rabbitmq.drop_vhost(urls[0])
    ledger.assert_holds(bodies)


class TlsBroker:
    """A broker that lets in who has a certificate of the authority, under the name in it."""

    def __init__(self, authority: Authority, host: str) -> None:
        name = f"broker-{uuid.uuid4().hex[:8]}"
        pair = authority.sign(name, host)
        self.host = host
        self.tls_port = free_port()
        self.server = RabbitMQ(
            {
                "listeners.ssl.1": f"127.0.0.1:{self.tls_port}",
                "ssl_options.cacertfile": str(authority.certificate),
                "ssl_options.certfile": str(pair.certificate),
                "ssl_options.keyfile": str(pair.key),
                "ssl_options.verify": "verify_peer",
                "ssl_options.fail_if_no_peer_cert": "true",
                "auth_mechanisms.1": "EXTERNAL",
                "auth_mechanisms.2": "PLAIN",
                "auth_mechanisms.3": "AMQPLAIN",
                "ssl_cert_login_from": "common_name",
            },
            plugins=["rabbitmq_auth_mechanism_ssl"],
        )

    def start(self) -> None:
        self.server.start()
        self.server.ctl("add_user", "ingest", uuid.uuid4().hex)
        self.server.ctl("set_permissions", "ingest", "", "", "notifications.*")
        with Bus(self.server.url) as bus:
            bus.declare()


@pytest.mark.timeout(240)
def test_tls_verifies_each_broker_by_its_own_name_and_shows_our_certificate(
    tmp_path: Path, ledger: Ledger
) -> None:
    open_to_servers(tmp_path)
    authority = Authority(tmp_path)
    ours = authority.sign("ingest")
    brokers = [TlsBroker(authority, "localhost"), TlsBroker(authority, "127.0.0.1")]
    bodies = load(200, seed=12)
    tls = (
        "[oslo_messaging_rabbit]\nssl = true\nrabbit_login_method = EXTERNAL\n"
        f"ssl_ca_file = {authority.certificate}\n"
        f"ssl_cert_file = {ours.certificate}\nssl_key_file = {ours.key}\n"
        "[notification]\nworkers = 1\n"
    )
    places = ",".join(f"{broker.host}:{broker.tls_port}" for broker in brokers)
    try:
        for broker in brokers:
            broker.start()
        conf = configuration(tmp_path, f"rabbit://{places}/", ledger.url, tls)
        service = Daemon(conf, "--only", "ingester")
        with service.running():
            service.wait_until_ready(60)
            (here,) = [broker for broker in brokers if is_read(broker)]
            (other,) = [broker for broker in brokers if broker is not here]
            publish(here, bodies[:100])
            wait_until(lambda: ledger.events() == 100, 30, "the events")
            users = here.server.ctl("list_connections", "user", "ssl", "auth_mechanism")
            assert "ingest\ttrue\tEXTERNAL" in users
            here.server.kill()
            publish(other, bodies[100:])
            wait_until(lambda: ledger.events() == 200, 60, "the events of the other broker")
            assert service.stop() == 0
        assert "certificate" not in service.log
        conf = configuration(tmp_path, f"rabbit://{here.host}:{other.tls_port}/", ledger.url, tls)
        with Daemon(conf, "--only", "ingester").running() as service:
            service.wait_for_log("certificate verify failed: (IP address|Hostname) mismatch")
            assert not is_read(other)
    finally:
        for broker in brokers:
            broker.server.close()
    ledger.assert_holds(bodies)


@contextlib.contextmanager
def tls_bus(folder: Path, host: str, *, strict: bool = True) -> Iterator[str]:
    """Run a broker whose certificate is for a host, and give a URL that asks for it by its address."""
    open_to_servers(folder)
    authority = Authority(folder, strict=strict)
    broker, ours = TlsBroker(authority, host), authority.sign("ingest")
    try:
        broker.start()
        yield (
            f"rabbit://127.0.0.1:{broker.tls_port}/?ssl=1&login_method=EXTERNAL&ssl_ca_file={authority.certificate}"
            f"&ssl_cert_file={ours.certificate}&ssl_key_file={ours.key}"
        )
    finally:
        broker.server.close()


def test_a_certificate_for_another_name_is_told_with_its_names_and_can_be_taken(tmp_path: Path) -> None:
    with tls_bus(tmp_path, "broker.example") as url:
        with pytest.raises(BrokerError, match=r"is for broker\.example, and 127\.0\.0\.1 was asked for"):
            reach(parse(url))
        any_name = parse(f"{url}&ssl_enforce_hostname_verification=0")
        found = inspect(any_name, Topology(("notifications.info",)), None, None)
        told = {finding.level: finding.text for finding in found if finding.subject == any_name.name}
        assert told[OK] == "lets us in; encrypted"
        assert "ssl_enforce_hostname_verification is off" in told[WARNING]
        (tmp_path / "other").mkdir()
        stranger = Authority(tmp_path / "other").certificate
        with pytest.raises(BrokerError, match="its certificate is not trusted"):
            reach(parse(f"{url}&ssl_ca_file={stranger}"))


def test_an_authority_that_is_refused_for_its_form_is_told_so_and_can_be_taken(tmp_path: Path) -> None:
    with tls_bus(tmp_path, "127.0.0.1", strict=False) as url:
        with pytest.raises(BrokerError, match=r"for its form alone .*ssl_strict_certificates = false"):
            reach(parse(f"{url}&ssl_strict_certificates=1"))
        reach(parse(f"{url}&ssl_strict_certificates=0"))


def publish(broker: TlsBroker, bodies: list[bytes]) -> None:
    with Bus(broker.server.url) as bus:
        bus.publish(bodies)


def is_read(broker: TlsBroker) -> bool:
    with Bus(broker.server.url) as bus:
        return bus.consumers() > 0


def test_a_wait_ends_in_time_however_often_the_broker_beats(broker_url: str) -> None:
    bus = parse(broker_url, heartbeat=2)
    link = AmqpLink(bus.brokers[0], {}, Waker())
    started = time.monotonic()
    turns = 0
    while time.monotonic() < started + 6:  # three heartbeats, without which the broker would hang up
        link.serve(0.5)
        turns += 1
    assert turns >= 5
    link.channel()
    link.close()
