"""A proxy that speaks MySQL's protocol and answers for the server, as ProxySQL does."""

import contextlib
import re
import socket
import struct
import threading
from typing import Self

VERSION = b"8.0.11"
"""What it says it is, whatever the server is."""

_COM_QUERY = 3
_SSL = 0x800
_ANSWERS = {
    b"SELECT VERSION()": VERSION,
    b"SELECT @@VERSION": VERSION,
    b"SELECT @@VERSION_COMMENT LIMIT 1": b"(ProxySQL)",
    b"SELECT CONNECTION_ID()": b"1",
}
_KNOWN = (
    "autocommit|names|character_set_results|session transaction isolation level|transaction isolation level|"
    "(session )?(sql_mode|innodb_lock_wait_timeout|lock_wait_timeout|max_execution_time|max_statement_time|"
    "foreign_key_checks|unique_checks|wsrep_sync_wait|time_zone)"
)
_SET = re.compile(rb"\s*SET\b(?!\s+(STATEMENT|GLOBAL|PASSWORD))", re.IGNORECASE)
_TRACKED = re.compile(rf"\s*SET\s+({_KNOWN})\b".encode(), re.IGNORECASE)
_NUMBERS = re.compile(rb"time(out)?\s*=(?!\s*\d+\s*$)", re.IGNORECASE)


class AnsweringProxy:
    """Passes sessions on to a MariaDB of this machine, but for what it answers itself.

    ``pinned`` holds the settings that it does not know, each of which would pin a session to one server;
    they never reach the server.

    :param target: port of the server.
    """

    def __init__(self, target: int) -> None:
        self.pinned: list[bytes] = []
        self._target = target
        self._sessions = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    def url(self, url: str) -> str:
        """Return the URL of the same database by way of this."""
        return f"mysql://root@127.0.0.1:{self.port}/{url.rpartition('/')[2]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in accept()
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._sessions += 1
                threading.Thread(target=self._session, args=(client, self._sessions), daemon=True).start()

    def _session(self, client: socket.socket, number: int) -> None:
        with (
            client,
            socket.create_connection(("127.0.0.1", self._target)) as server,
            contextlib.suppress(OSError),
        ):
            _send(client, 0, _greeting(_receive(server)[1], number))
            _send(server, *_receive(client))
            threading.Thread(target=_pass_on, args=(server, client), daemon=True).start()
            while True:
                sequence, packet = _receive(client)
                query = packet[1:] if packet[0] == _COM_QUERY else b""
                if answer := _ANSWERS.get(query.strip().upper()):
                    client.sendall(_result(answer))
                elif _SET.match(query) and (not _TRACKED.match(query) or _NUMBERS.search(query)):
                    self.pinned.append(query)
                    _send(client, sequence + 1, b"\0\0\0\2\0\0\0")
                else:
                    _send(server, sequence, packet)


def _greeting(packet: bytes, number: int) -> bytes:
    """Return the server's greeting with our version and number of the session, and without TLS."""
    end = packet.index(b"\0", 1)
    rest = packet[end + 1 :]
    capabilities = struct.unpack_from("<H", rest, 13)[0] & ~_SSL
    return b"".join(
        (
            packet[:1],
            VERSION,
            b"\0",
            struct.pack("<I", number),
            rest[4:13],
            struct.pack("<H", capabilities),
            rest[15:],
        )
    )


def _result(value: bytes) -> bytes:
    """Return packets of a result of one row with one text."""
    column = b"\3def" + b"\0\0\0" + b"\1a" + b"\0" + struct.pack("<BHIBHBH", 12, 45, 255, 253, 0, 0, 0)
    end = b"\xfe\0\0\2\0"
    packets = (b"\1", column, end, bytes([len(value)]) + value, end)
    return b"".join(_framed(number, packet) for number, packet in enumerate(packets, 1))


def _framed(sequence: int, packet: bytes) -> bytes:
    return struct.pack("<I", len(packet))[:3] + bytes([sequence]) + packet


def _send(end: socket.socket, sequence: int, packet: bytes) -> None:
    end.sendall(_framed(sequence, packet))


def _receive(end: socket.socket) -> tuple[int, bytes]:
    header = _exactly(end, 4)
    return header[3], _exactly(end, int.from_bytes(header[:3], "little"))


def _exactly(end: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = end.recv(size - len(data))
        if not part:
            raise ConnectionError
        data += part
    return bytes(data)


def _pass_on(server: socket.socket, client: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := server.recv(65536):
            client.sendall(data)
        client.shutdown(socket.SHUT_RDWR)
