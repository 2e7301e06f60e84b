"""A TCP proxy that misbehaves as networks do."""

import contextlib
import re
import socket
import threading
import time
from typing import Self

_CHUNK = 256 * 1024


class Proxy:
    """Passes connections on to a port of this machine, until told to spoil them.

    Counts in ``cuts`` the connections that it cut, in ``silenced`` those that it let hang, and in
    ``swallowed`` the answers that it kept to itself.

    :param target: port of the real server.
    """

    def __init__(self, target: int) -> None:
        self.latency = 0.0
        """Seconds by which each piece of data is late, either way."""
        self.cuts = self.silenced = self.swallowed = 0
        self.target = target
        """Port that new connections are passed on to."""
        self._links: set[_Link] = set()
        self._silent: set[_Link] = set()
        self._lock = threading.Lock()
        self._doomed_request: bytes | None = None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    def url(self, url: str) -> str:
        """Return a URL of the real server with the proxy in its place."""
        return re.sub(rf"(127\.0\.0\.1):{self.target}\b", rf"\1:{self.port}", url)

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in accept()
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Cut every connection now, also those that hang."""
        with self._lock:
            links = self._links | self._silent
        for link in links:
            link.cut()
            self.cuts += 1

    def cut_after(self, size: int) -> None:
        """Let so many more bytes pass to each client, then cut its connection, in mid-frame most likely."""
        for link in self._links_now():
            link.left = size

    def silence(self) -> None:
        """Let every connection of now hang: it stays open, and nothing passes. New ones work."""
        with self._lock:
            links = list(self._links)
            self._links.clear()
            self._silent.update(links)
        for link in links:
            link.silent.set()
            self.silenced += 1

    def swallow_answer_to(self, request: bytes) -> None:
        """Pass on the next data to the server that hold these bytes, and cut instead of answering."""
        self._doomed_request = request

    def _links_now(self) -> list["_Link"]:
        with self._lock:
            return list(self._links)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self.target), timeout=10)
                except OSError:
                    client.close()
                    continue
                server.settimeout(None)
                link = _Link(client, server)
                with self._lock:
                    self._links.add(link)
                threading.Thread(target=self._to_server, args=(link,), daemon=True).start()
                threading.Thread(target=self._to_client, args=(link,), daemon=True).start()

    def _to_server(self, link: "_Link") -> None:
        with contextlib.suppress(OSError):
            while data := self._read(link.client):
                link.wait_while_silent()
                request = self._doomed_request
                if request and request in data:
                    self._doomed_request = None
                    link.swallow.set()
                link.server.sendall(data)
        self._end(link)

    def _to_client(self, link: "_Link") -> None:
        with contextlib.suppress(OSError):
            while data := self._read(link.server):
                link.wait_while_silent()
                if link.swallow.is_set():
                    self.swallowed += 1
                    break
                if link.left is not None and len(data) >= link.left:
                    link.client.sendall(data[: link.left])
                    self.cuts += 1
                    break
                if link.left is not None:
                    link.left -= len(data)
                link.client.sendall(data)
        self._end(link)

    def _read(self, end: socket.socket) -> bytes:
        data = end.recv(_CHUNK)
        if self.latency:
            time.sleep(self.latency)
        return data

    def _end(self, link: "_Link") -> None:
        link.cut()
        with self._lock:
            self._links.discard(link)
            self._silent.discard(link)


class _Link:
    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.silent = threading.Event()
        self.swallow = threading.Event()
        self.left: int | None = None
        self._over = threading.Event()

    def wait_while_silent(self) -> None:
        if self.silent.is_set():
            self._over.wait()

    def cut(self) -> None:
        self._over.set()
        for end in (self.client, self.server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
