"""The page tells whoever asks what /readyz tells, and no more."""

import socket

from panko_ingest import amqp
from panko_ingest.shared_metrics import SharedMetrics
from panko_ingest.shared_state import SharedState
from panko_ingest.storage import StorageUnavailable, get_connection
from panko_ingest.workers.health import Health, Probe, WatchedBus
from panko_ingest.workers.status_page import StatusPage


def refuse() -> None:
    raise StorageUnavailable("role panko_writer is refused")


def test_the_page_of_an_outage_tells_no_host_role_or_error() -> None:
    with socket.socket() as nobody:  # bound, and listening to nobody
        nobody.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{nobody.getsockname()[1]}"
        (bus,) = buses = [amqp.parse(f"rabbit://reader:word@{place}/nova")]
        probe = Probe(refuse)
        probe.look()
        watched = {bus.name: WatchedBus(bus.title, probe)}
        health = Health(SharedState(workers=1, buses=1), SharedMetrics(), probe, watched, 0.0, expires=False)
        connection = get_connection(f"postgresql://panko_writer:word@{place}/panko?connect_timeout=2")
        page = StatusPage(health, connection, buses, ["notifications.info"]).html()
        connection.close()
    assert "Broker 1: vhost nova" in page
    assert page.count("does not answer: <code>panko-ingest status</code> tells why") == 2
    for secret in (place, "127.0.0.1", "panko_writer", "reader", "refused", "Error"):
        assert secret not in page.replace("readers", ""), secret
