"""A TCP proxy that loses the answer to a request."""

import contextlib
import selectors
import socket
import threading
from typing import Self


class CuttingProxy:
    """Passes connections on to a port of this machine, and cuts one when the answer to a request is due.

    ``cuts`` counts how often it did.
    """

    def __init__(self, target: int) -> None:
        self.cuts = 0
        self._target = target
        self._word: bytes | None = None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    def cut_after(self, word: bytes) -> None:
        """Pass on the next request that ends with the word, wait for its answer, and cut instead."""
        self._word = word

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        # Wakes the thread that waits in accept().
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        with (
            client,
            socket.create_connection(("127.0.0.1", self._target)) as server,
            selectors.DefaultSelector() as selector,
            contextlib.suppress(OSError),
        ):
            selector.register(client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, client)
            while True:
                for key, _ in selector.select():
                    source: socket.socket = key.fileobj  # type: ignore[assignment]
                    data = source.recv(65536)
                    if not data:
                        return
                    key.data.sendall(data)
                    if source is client and self._word and data.rstrip(b"\0").upper().endswith(self._word):
                        server.recv(65536)
                        self._word = None
                        self.cuts += 1
                        return
