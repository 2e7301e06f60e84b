"""The monitor's HTTP server answers whoever asks, beside clients that say nothing."""

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from http import HTTPStatus

import pytest

from panko_ingest.workers.endpoint import MAX_THREADS, Endpoint, Page

LARGE = b"# HELP\n" * 3_000_000
"""More than sockets take in while nobody reads."""


@pytest.fixture
def hanging() -> threading.Semaphore:
    """What each page that takes long waits for."""
    return threading.Semaphore(0)


@pytest.fixture
def port(hanging: threading.Semaphore) -> Iterator[int]:
    def hang() -> Page:
        hanging.acquire()
        return Page(HTTPStatus.OK, "text/plain", b"at last")

    pages = {
        "/readyz": lambda: Page(HTTPStatus.OK, "text/plain", b"yes"),
        "/": hang,
        "/metrics": lambda: Page(HTTPStatus.OK, "text/plain", LARGE),
        "/large": lambda: Page(HTTPStatus.OK, "text/plain", LARGE),
    }
    endpoint = Endpoint("127.0.0.1", 0, pages, slow={"/", "/metrics"})
    thread = threading.Thread(target=endpoint.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield endpoint.server_address[1]
    endpoint.shutdown()
    endpoint.server_close()
    thread.join(10)


def ask(port: int, path: str = "/readyz") -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()


def silent(port: int, count: int) -> list[socket.socket]:
    return [socket.create_connection(("127.0.0.1", port), 5) for _ in range(count)]


@pytest.mark.parametrize("count", [MAX_THREADS, 10 * MAX_THREADS])
def test_every_probe_is_answered_at_once_beside_clients_that_say_nothing(port: int, count: int) -> None:
    clients = silent(port, count)
    try:
        for _ in range(60):
            started = time.monotonic()
            assert ask(port) == b"yes"
            assert time.monotonic() - started < 1.0
            clients += silent(port, 1)
    finally:
        for client in clients:
            client.close()


def test_probes_are_answered_beside_many_who_wait_for_a_slow_page(
    port: int, hanging: threading.Semaphore
) -> None:
    with ThreadPoolExecutor(3 * MAX_THREADS) as clients:
        pages = [clients.submit(ask, port, "/") for _ in range(3 * MAX_THREADS)]
        refused = next(as_completed(pages)).result()
        for _ in range(20):
            assert ask(port) == b"yes"
        for _ in pages:
            hanging.release()
    assert refused == b"Too many ask for this page at once\n"
    assert {page.result() for page in pages} == {refused, b"at last"}


def test_of_many_who_ask_at_once_everybody_is_answered(port: int) -> None:
    with ThreadPoolExecutor(5 * MAX_THREADS) as clients:
        answers = [clients.submit(ask, port) for _ in range(50 * MAX_THREADS)]
    assert {answer.result() for answer in answers} == {b"yes"}


def test_a_client_that_sends_its_head_byte_by_byte_is_hung_up_on(port: int) -> None:
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), 5) as client:
        client.sendall(b"GET /readyz HTTP/1.1\r\n")
        assert client.recv(1000) == b""
    assert time.monotonic() - started < 3.0


@pytest.mark.parametrize("path", ["/metrics", "/large"])
def test_probes_and_those_who_read_are_answered_beside_clients_that_read_nothing(
    port: int, path: str
) -> None:
    clients = silent(port, 0)
    try:
        for _ in range(20):
            for client in silent(port, 4):
                client.sendall(f"GET {path} HTTP/1.1\r\n\r\n".encode())
                clients.append(client)
            started = time.monotonic()
            assert ask(port) == b"yes"
            assert time.monotonic() - started < 1.0
        assert ask(port, "/metrics") == LARGE
    finally:
        for client in clients:
            client.close()


def test_who_has_asked_is_answered_although_it_ends() -> None:
    asked, told = threading.Event(), threading.Event()

    def hang() -> Page:
        asked.set()
        told.wait(10)
        return Page(HTTPStatus.OK, "text/plain", b"at last")

    endpoint = Endpoint("127.0.0.1", 0, {"/": hang})
    threading.Thread(target=endpoint.serve_forever, kwargs={"poll_interval": 0.05}).start()
    with ThreadPoolExecutor(2) as pool:
        answer = pool.submit(ask, endpoint.server_address[1], "/")
        assert asked.wait(10)
        closed = pool.submit(endpoint.close, 10.0)
        with pytest.raises(TimeoutError):
            closed.result(0.3)
        told.set()
        closed.result(10)
        assert answer.result(10) == b"at last"


def test_who_asks_when_it_looks_for_requests_no_more_is_answered() -> None:
    ending = threading.Event()

    class Ending(Endpoint):
        def shutdown(self) -> None:
            ending.set()
            super().shutdown()

    endpoint = Ending("127.0.0.1", 0, {"/readyz": lambda: Page(HTTPStatus.OK, "text/plain", b"yes")})
    threading.Thread(target=endpoint.serve_forever, kwargs={"poll_interval": 60}).start()
    with ThreadPoolExecutor(1) as pool:
        assert ask(endpoint.server_address[1]) == b"yes"
        closed = pool.submit(endpoint.close, 10.0)
        assert ending.wait(10)
        assert ask(endpoint.server_address[1]) == b"yes"
        closed.result(10)


def test_a_client_that_says_nothing_is_not_waited_for_at_the_end() -> None:
    endpoint = Endpoint("127.0.0.1", 0, {"/readyz": lambda: Page(HTTPStatus.OK, "text/plain", b"yes")})
    threading.Thread(target=endpoint.serve_forever, kwargs={"poll_interval": 0.05}).start()
    client = socket.create_connection(("127.0.0.1", endpoint.server_address[1]), 5)
    assert ask(endpoint.server_address[1]) == b"yes"  # the other one is accepted by now

    started = time.monotonic()
    endpoint.close(0.1)

    assert time.monotonic() - started < 2.0
    client.close()
