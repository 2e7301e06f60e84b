"""Connecting takes as long as it takes, and the thread that waits for it shows that it is alive."""

import contextlib
import itertools
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from amqp.transport import AMQP_PROTOCOL_HEADER, SSLTransport

from panko_ingest.amqp import Topology, amqp_link
from panko_ingest.amqp.amqp_link import AmqpLink
from panko_ingest.amqp.link import LINK_ERRORS, Waker
from panko_ingest.amqp.urls import parse
from tests.ledger import Ledger
from tests.reader import Reader
from tests.services.certificates import Authority
from tests.unit.test_broker_bytes import OPEN_OK, START, TUNE
from tests.unit.test_delivery_frames import bytes_of
from tests.waiting import crowding, wait_until

NAME = "broker.example"


@pytest.fixture
def black_hole() -> Iterator[int]:
    """Port at which connecting takes for ever: its queue is full, and nobody accepts."""
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port = listener.getsockname()[1]
        for _ in range(4):
            filler = sockets.enter_context(socket.socket())
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(("127.0.0.1", port))
        yield port


def test_a_name_with_four_addresses_that_lead_nowhere_is_given_up_in_time_and_the_thread_stays_alive(
    black_hole: int, sqlite_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(amqp_link, "CONNECT_TIMEOUT", 4.0)
    resolving(monkeypatch, *["127.0.0.1"] * 4)
    ledger = Ledger(sqlite_url)
    beats: list[float] = []
    reader = Reader(f"rabbit://{NAME}:{black_hole}/", Topology(("notifications.info",)), ledger.connection)
    monkeypatch.setattr(reader.consumer, "_tell", lambda _: beats.append(time.monotonic()))
    started = time.monotonic()
    with reader.running():
        wait_until(lambda: f"{NAME}:{black_hole}" in caplog.text, 30, "the end of the try")
        took = time.monotonic() - started
    ledger.close()
    assert reader.lost == 0, "what was never open counts as lost"
    assert took < 4 * 4.0, "each address had all the time"
    assert max(after - before for before, after in itertools.pairwise(beats)) < 3


def resolving(monkeypatch: pytest.MonkeyPatch, *addresses: str, takes: float = 0) -> None:
    """Have the resolver give the name of the tests these addresses, in this order."""
    resolve = socket.getaddrinfo

    def resolved(host: str, port: int, *args: int, **kwargs: int) -> list[object]:
        if host != NAME:
            return [*resolve(host, port, *args, **kwargs)]
        time.sleep(takes)
        return [found for address in addresses for found in resolve(address, port, *args, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", resolved)


def hang_up_on_one(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        listener.accept()[0].close()


@pytest.mark.parametrize("fault", ["frozen", "hangs up"])
def test_a_broker_that_does_not_answer_is_left_for_the_next_address_of_its_name(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(amqp_link, "CONNECT_TIMEOUT", 2.0)
    broker = FakeBroker(iter([bytes_of([START, TUNE, OPEN_OK])]), pause=5)
    with socket.create_server(("127.0.0.2", broker.port)) as other:
        if fault == "hangs up":
            threading.Thread(target=hang_up_on_one, args=(other,), daemon=True).start()
        resolving(monkeypatch, "127.0.0.2", "127.0.0.1")
        (there,) = parse(f"amqp://u:p@{NAME}:{broker.port}/").brokers
        link = AmqpLink(there, {}, Waker())
        assert link._sock.getpeername() == ("127.0.0.1", broker.port)
        link._sock.close()


def test_what_is_wrong_with_a_certificate_is_told_though_another_address_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Authority(tmp_path).sign("broker", NAME)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)

    def refuse_by_client(listener: socket.socket) -> None:
        with contextlib.suppress(OSError), listener.accept()[0] as client:
            context.wrap_socket(client, server_side=True)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=refuse_by_client, args=(listener,), daemon=True).start()
        resolving(monkeypatch, "127.0.0.1", "127.0.0.2")
        (there,) = parse(f"amqps://u:p@{NAME}:{listener.getsockname()[1]}/").brokers
        with pytest.raises(ssl.SSLCertVerificationError):
            AmqpLink(there, {}, Waker())


def test_a_resolver_that_takes_longer_than_a_broker_may_costs_time_and_no_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(amqp_link, "CONNECT_TIMEOUT", 0.5)
    broker = FakeBroker(iter([bytes_of([START, TUNE, OPEN_OK])]), pause=5)
    resolving(monkeypatch, "127.0.0.1", takes=1.1)
    (there,) = parse(f"amqp://u:p@{NAME}:{broker.port}/").brokers
    AmqpLink(there, {}, Waker())._sock.close()


def test_stopping_does_not_wait_for_a_connection(black_hole: int, sqlite_url: str) -> None:
    ledger = Ledger(sqlite_url)
    reader = Reader(f"rabbit://127.0.0.1:{black_hole}/", Topology(("notifications.info",)), ledger.connection)
    with reader.running():
        wait_until(lambda: any(thread.name == "connecting" for thread in threading.enumerate()), 10, "a try")
        started = time.monotonic()
    assert time.monotonic() - started < amqp_link.CONNECT_TIMEOUT / 2
    ledger.close()


class FakeBroker:
    """Lets one connect, and says something, piece by piece, until the other side has enough of it."""

    def __init__(self, pieces: Iterator[bytes], pause: float) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, args=(pieces, pause), daemon=True).start()

    def _serve(self, pieces: Iterator[bytes], pause: float) -> None:
        with self._listener, contextlib.suppress(OSError), self._listener.accept()[0] as client:
            # As a broker does: where something came already, the kernel refuses options that py-amqp sets.
            client.recv(len(AMQP_PROTOCOL_HEADER))
            for piece in pieces:
                client.sendall(piece)
                time.sleep(pause)


HEARTBEAT = b"\x08\0\0\0\0\0\0\xce"

SLOW: dict[str, Callable[[], Iterator[bytes]]] = {
    "a frame byte by byte": lambda: iter([b"\1", b"\0", b"\0", b"\0", b"\0", b"\xff", *[b"\0"] * 100]),
    "nothing but heartbeats": lambda: itertools.repeat(HEARTBEAT),
}


@pytest.mark.parametrize("what", SLOW)
def test_a_handshake_that_does_not_get_on_is_given_up(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amqp_link, "CONNECT_TIMEOUT", 1.0)
    broker = FakeBroker(SLOW[what](), pause=0.2)
    (there,) = parse(f"amqp://u:p@127.0.0.1:{broker.port}/").brokers
    started = time.monotonic()
    with pytest.raises(LINK_ERRORS, match="takes too long"):
        AmqpLink(there, {}, Waker())
    assert time.monotonic() - started < 4 * crowding()


def test_an_answer_that_does_not_come_is_not_waited_for_while_heartbeats_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(amqp_link, "IO_TIMEOUT", 1.0)
    greeting = [bytes_of([START, TUNE, OPEN_OK])]
    broker = FakeBroker(itertools.chain(greeting, itertools.repeat(HEARTBEAT, 50)), pause=0.2)
    (there,) = parse(f"amqp://u:p@127.0.0.1:{broker.port}/").brokers
    link = AmqpLink(there, {}, Waker())
    with pytest.raises(LINK_ERRORS, match="takes too long"):
        link.channel()
    started = time.monotonic()
    link.close()
    assert time.monotonic() - started < 2 * amqp_link._CLOSE_TIMEOUT * crowding()


def test_a_handshake_of_tls_is_given_up_with_a_py_amqp_that_sets_no_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def set_up_as_5_1_does(transport: SSLTransport) -> None:
        transport.sock = transport._wrap_socket(transport.sock, **transport.sslopts)
        transport.sock.do_handshake()
        transport._quick_recv = transport.sock.read

    monkeypatch.setattr(SSLTransport, "_setup_transport", set_up_as_5_1_does)
    monkeypatch.setattr(amqp_link, "CONNECT_TIMEOUT", 1.0)
    broker = FakeBroker(itertools.repeat(b"", 50), pause=0.2)
    (there,) = parse(f"amqp://u:p@127.0.0.1:{broker.port}/?ssl=1").brokers
    with pytest.raises(TimeoutError):
        AmqpLink(there, {}, Waker())


def test_a_frame_larger_than_was_agreed_on_is_not_read() -> None:
    broker = FakeBroker(
        itertools.chain([b"\1\0\0\xff\xff\xff\xff"], itertools.repeat(bytes(2**20), 300)), pause=0
    )
    (there,) = parse(f"amqp://u:p@127.0.0.1:{broker.port}/").brokers
    with pytest.raises(LINK_ERRORS, match="a frame of 4294967295 bytes, of at most"):
        AmqpLink(there, {}, Waker())
