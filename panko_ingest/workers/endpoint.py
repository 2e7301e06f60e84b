"""A small HTTP server for a few read-only pages, hard to wear out."""

import contextlib
import io
import logging
import select
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Collection, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, NamedTuple

from panko_ingest import threads

LOG = logging.getLogger(__name__)

MAX_REQUEST = 8 * 1024
MAX_THREADS = 8
_MOST_SLOW = 3
"""Those of one slow page at a time."""
_PATIENCE = 5.0
_PATIENCE_FOR_HEAD = 1.0
_GRACE = 0.05


class Page(NamedTuple):
    """What a request is answered with."""

    status: HTTPStatus
    content_type: str
    body: bytes


class Endpoint(socketserver.TCPServer):
    """Serves pages; each request is a thread's, of which there are few.

    :param pages: by path, what makes the page.
    :param slow: paths of pages that take long to make or to send, of which few are sent at once, so that
        they never keep the others from being answered.
    :raises OSError: the address can't be listened on.
    """

    allow_reuse_address = True
    request_queue_size = 128

    def __init__(
        self, host: str, port: int, pages: Mapping[str, Callable[[], Page]], slow: Collection[str] = ()
    ) -> None:
        self._pages = pages
        self._slow = slow
        self._threads = threading.BoundedSemaphore(MAX_THREADS)
        self._lock = threading.Lock()
        # Of clients, the oldest first: who has not said all, who has not taken all, who has a slow page.
        self._unfinished: dict[socket.socket, float] = {}
        self._unread: dict[socket.socket, float] = {}
        self._turns: dict[socket.socket, str] = {}
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread; with none free, hang up on who keeps one waiting for longest.

        Who has only just come is given a moment: of many who ask at once none is to be turned away.
        """
        if not self._threads.acquire(timeout=self._grace_of_oldest()):
            self._give_up_oldest()
            if not self._threads.acquire(timeout=_PATIENCE_FOR_HEAD):
                self.shutdown_request(request)
                return
        with self._lock:
            self._unfinished[request] = time.monotonic()
        try:
            threads.start(self._process, "page", request, client_address)
        except OSError:  # one after the other is better than none
            self._process(request, client_address)

    def close(self, within: float) -> None:
        """Take no more requests, and answer those that are there.

        :param within: seconds after which a client that has not read its answer is left without.
        """
        self.shutdown()
        deadline = time.monotonic() + within
        # Clients that the system has let in already, and the loop that ended took no notice of.
        while select.select([self], [], [], 0)[0] and time.monotonic() < deadline:
            self.handle_request()
        self.server_close()
        for _ in range(MAX_THREADS):
            self._threads.acquire(timeout=max(0.0, deadline - time.monotonic()))

    def page(self, path: str, request: socket.socket) -> Page | None:
        """Return a page, None where there is none of that name."""
        make = self._pages.get(path)
        if make is not None and not self._take_turn(path, request):
            return Page(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", b"Too many ask for this page at once\n")
        return make and make()

    def understood(self, request: socket.socket) -> None:
        """Note that a client has said what it wants."""
        with self._lock:
            self._unfinished.pop(request, None)

    def answering(self, request: socket.socket) -> None:
        """Note that it is the client's turn now, to read."""
        with self._lock:
            self._unread[request] = time.monotonic()

    def _take_turn(self, path: str, request: socket.socket) -> bool:
        """Tell whether a page may be made; the client that is slowest to read it gives way."""
        if path not in self._slow:
            return True
        with self._lock:
            having = [client for client, asked in self._turns.items() if asked == path]
            if len(having) >= _MOST_SLOW:
                slowest = next((client for client in self._unread if client in having), None)
                if slowest is None:
                    return False  # all are still being made
                self._hang_up(slowest)
            self._turns[request] = path
        return True

    def _grace_of_oldest(self) -> float:
        with self._lock:
            since = next(iter([*self._unfinished.values(), *self._unread.values()]), 0.0)
        return max(0.0, since + _GRACE - time.monotonic())

    def _give_up_oldest(self) -> None:
        with self._lock:
            for request in [*self._unfinished, *self._unread][:1]:
                self._hang_up(request)

    def _hang_up(self, request: socket.socket) -> None:
        """End what a client keeps a thread waiting with; the lock is held."""
        self._forget(request)
        with contextlib.suppress(OSError):  # it left by itself
            request.shutdown(socket.SHUT_RDWR)

    def _forget(self, request: socket.socket) -> None:
        for clients in (self._unfinished, self._unread, self._turns):
            clients.pop(request, None)

    def _process(self, request: Any, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError as error:
            LOG.debug("A client of the monitor went away: %s", error)
        except Exception:
            LOG.exception("A page of the monitor failed")
        finally:
            with self._lock:
                self._forget(request)
            self.shutdown_request(request)
            self._threads.release()


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint
    server_version = "panko-ingest"
    sys_version = ""
    error_content_type = "text/plain"
    error_message_format = "%(code)d %(message)s\n"

    def __getattr__(self, name: str) -> Callable[[], None]:
        # Its base class looks for a method of the name of each HTTP method.
        if name.startswith("do_"):
            return self._refuse
        raise AttributeError(name)

    def handle(self) -> None:
        """Read one request, whole and in good time, and answer it."""
        self.request_version, self.requestline, self.command = "HTTP/1.0", "", ""
        self.close_connection = True
        head = self._read_head()
        self.server.understood(self.connection)
        if head is None:
            self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            return
        self.rfile = io.BufferedReader(io.BytesIO(head))
        self.handle_one_request()

    def _read_head(self) -> bytes | None:
        """Return a request without its body; None for one that is too large.

        :raises TimeoutError: it does not come in time.
        """
        deadline = time.monotonic() + _PATIENCE_FOR_HEAD
        head = b""
        while b"\r\n\r\n" not in head and b"\n\n" not in head:
            self.connection.settimeout(max(0.001, deadline - time.monotonic()))
            more = self.connection.recv(MAX_REQUEST)
            if not more:
                break
            head += more
            if len(head) > MAX_REQUEST:
                return None
        self.connection.settimeout(_PATIENCE)
        return head

    def do_GET(self) -> None:
        """Send a page."""
        page = self.server.page(self.path.partition("?")[0], self.connection)
        self.server.answering(self.connection)
        if page is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        self.send_response(page.status)
        self.send_header("Content-Type", page.content_type)
        self.send_header("Content-Length", str(len(page.body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(page.body)

    do_HEAD = do_GET  # noqa: N815 - its base class calls it so

    def _refuse(self) -> None:
        self.send_response(HTTPStatus.METHOD_NOT_ALLOWED)
        self.send_header("Allow", "GET, HEAD")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Keep requests out of the log."""
        LOG.debug(format, *args)
