"""PyMySQL: its options, connections that are encrypted and verified as those ask for, needless ROLLBACKs."""

import configparser
import inspect
import select
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from sqlalchemy import Engine, event

from panko_ingest.errors import DatabaseUrlError

NO_TLS = "ssl_* ask for TLS, which the server does not offer: turn it on there, or leave them out"

_FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_TEXTS = {"ssl_ca", "ssl_capath", "ssl_cert", "ssl_key", "ssl_key_password", "ssl_cipher"}
_VERIFY, _VERIFY_NAME = "ssl_verify_cert", ("ssl_verify_identity", "ssl_check_hostname")
_OPTIONS = _TEXTS | {_VERIFY, *_VERIFY_NAME, "ssl_disabled"}
# PyMySQL refuses them when it connects, does not connect, or needs more than text.
_USELESS = {"compress", "named_pipe", "conv", "cursorclass", "defer_connect", "auth_plugin_map"}
_SECONDS = {"connect_timeout", "read_timeout", "write_timeout"}
_MOST_SECONDS = 365 * 86400
_IN_TRANSACTION = 1  # SERVER_STATUS_IN_TRANS of the protocol
_LONGEST_POLL = 2**31 - 1  # milliseconds
_NAMES_IN_FILES = {"ssl_password": "ssl_key_password", "ssl_verify_server_cert": "ssl_verify_identity"}

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Tls:
    """What the options of TLS in a URL, and in the file that it names, ask for."""

    asked: bool = False
    """Whether there must be TLS; PyMySQL decides otherwise."""
    disabled: bool = False
    verify: bool = False
    verify_name: bool = False
    options: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, query: Mapping[str, str | tuple[str, ...]]) -> Self:
        """Return what the options after the ``?`` of a URL ask for; those of a file count where it has none.

        An authority, or asking for either, verifies the certificate and its name, if no option forbids it.

        :raises ConfigError: one is not what it should be, or contradicts another; its value is not shown.
        """
        given: dict[str, str] = {}
        for name in sorted(_OPTIONS & query.keys()):
            value = query[name]
            if not isinstance(value, str):
                raise DatabaseUrlError(f"{name} is there more than once")
            given[name] = value
        if _flag(given, "ssl_disabled"):
            if len(given) > 1:
                raise DatabaseUrlError(
                    f"ssl_disabled contradicts {', '.join(sorted(given.keys() - {'ssl_disabled'}))}"
                )
            return cls(disabled=True)
        given = _from_file(query) | given
        given.pop("ssl_disabled", None)
        verify = _flag(given, _VERIFY)
        wishes = {_flag(given, name) for name in _VERIFY_NAME} - {None}
        if len(wishes) > 1:
            raise DatabaseUrlError(" and ".join(_VERIFY_NAME) + " contradict each other")
        verify_name = wishes.pop() if wishes else None
        if verify_name and verify is False:
            raise DatabaseUrlError(f"{_VERIFY} contradicts the option that asks for the name to be verified")
        if verify is None:
            verify = bool(verify_name) or not given.keys().isdisjoint({"ssl_ca", "ssl_capath"})
        if "ssl_cert" not in given and (lone := given.keys() & {"ssl_key", "ssl_key_password"}):
            raise DatabaseUrlError(f"{', '.join(sorted(lone))} without ssl_cert proves nothing to the server")
        return cls(
            asked=bool(given),
            verify=verify,
            verify_name=verify if verify_name is None else verify_name,
            options={name: text for name, text in given.items() if name in _TEXTS},
        )

    def arguments(self) -> dict[str, Any]:
        """Return what PyMySQL needs to be told: a context of ours, as its own options undo each other.

        :raises OSError: a file can't be used.
        """
        if not self.asked:
            return {"ssl_disabled": True} if self.disabled else {}
        context = ssl.create_default_context(
            cafile=self.options.get("ssl_ca"), capath=self.options.get("ssl_capath")
        )
        # Certificates that MySQL makes for itself lack what Python wants of them from 3.13 on.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        context.check_hostname = self.verify_name
        context.verify_mode = ssl.CERT_REQUIRED if self.verify else ssl.CERT_NONE
        if certificate := self.options.get("ssl_cert"):
            # Without any password OpenSSL would ask for it on the terminal.
            password = self.options.get("ssl_key_password", "")
            context.load_cert_chain(certificate, self.options.get("ssl_key"), password)
        if ciphers := self.options.get("ssl_cipher"):
            context.set_ciphers(ciphers)
        return {"ssl": context}


def connect(
    tls: Tls,
    _dialect: Any,
    _record: Any,
    arguments: list[Any],
    options: dict[str, Any],
) -> Any:
    """Connect by PyMySQL, but send no login in clear where TLS was asked for, as releases up to 1.1 do."""
    import pymysql.connections  # noqa: PLC0415 - where it is the driver
    from pymysql.constants import CLIENT, CR  # noqa: PLC0415

    class Encrypted(pymysql.connections.Connection):
        client_flag: int
        server_capabilities: int
        ssl: bool
        host: str
        port: int
        connect_timeout: float
        _sock: socket.socket

        def connect(self, sock: Any = None) -> None:
            """Connect to one of the addresses of a name at which a server answers; they share the time."""
            if sock is not None or self.unix_socket or self.bind_address:
                super().connect(sock)
                return
            patience = self.connect_timeout
            found = self._reach(lambda: socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM))
            # Only now: a resolver may take longer than any server, and servers that ask one, too.
            deadline = time.monotonic() + patience
            untrusted: pymysql.OperationalError | None = None
            for left, address in zip(range(len(found), 0, -1), found, strict=True):
                rest = (deadline - time.monotonic()) / left
                self.connect_timeout = patience if left == 1 else max(0.1, rest)
                try:
                    super().connect(self._reach(partial(_open, address, self.connect_timeout)))
                    break
                except pymysql.OperationalError as error:
                    if isinstance(getattr(error, "original_exception", None), ssl.SSLError):
                        untrusted = untrusted or error  # says more than that the next one does not listen
                    if left == 1 or error.args[0] not in {CR.CR_CONN_HOST_ERROR, CR.CR_SERVER_LOST}:
                        raise untrusted or error from error
            self.connect_timeout = patience

        def _reach(self, attempt: Callable[[], _T]) -> _T:
            try:
                return attempt()
            except OSError as error:  # as PyMySQL says it
                text = f"Can't connect to MySQL server on {self.host!r} ({error})"
                raise pymysql.OperationalError(CR.CR_CONN_HOST_ERROR, text) from error

        def _get_server_information(self) -> None:
            # Servers speak first. The system lets us in also where one is frozen, and PyMySQL would wait for
            # as long as a statement may take.
            poll = select.poll()
            poll.register(self._sock, select.POLLIN)
            if not poll.poll(min(self.connect_timeout * 1000, _LONGEST_POLL)):
                raise TimeoutError("the server does not answer")
            super()._get_server_information()  # type: ignore[misc]

        def _request_authentication(self) -> None:
            asked = tls.asked or self.client_flag & CLIENT.SSL
            if asked and not (self.ssl and self.server_capabilities & CLIENT.SSL):
                raise pymysql.OperationalError(CR.CR_SSL_CONNECTION_ERROR, NO_TLS)
            super()._request_authentication()  # type: ignore[misc]

    others = {name: value for name, value in options.items() if name != "ssl" and name not in _OPTIONS}
    try:
        return Encrypted(*arguments, **others, **tls.arguments())
    except OSError as error:  # those of the network come as PyMySQL's own
        text = f"a file that ssl_* name can't be used: {error}"
        raise pymysql.OperationalError(CR.CR_SSL_CONNECTION_ERROR, text) from error


def _open(found: tuple[Any, ...], timeout: float) -> socket.socket:
    """Return a connected socket, set up as PyMySQL sets up its own."""
    family, kind, protocol, _, address = found
    sock = socket.socket(family, kind, protocol)
    try:
        sock.settimeout(timeout)
        sock.connect(address)
        sock.settimeout(None)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    except BaseException:
        sock.close()
        raise
    return sock


def roll_back_only_open_transactions(engine: Engine) -> None:
    """Spare a connection the ROLLBACK at its return, a round trip, where nothing is to roll back.

    The engine's ``pool_reset_on_return`` must be None.
    """

    @event.listens_for(engine, "reset")
    def _reset(connection: Any, record: Any, _state: Any) -> None:
        if connection.server_status & _IN_TRANSACTION:
            try:
                connection.rollback()
            except engine.dialect.loaded_dbapi.Error as error:
                record.invalidate(error)  # its user knows why by an error of its own


def refuse_unknown_options(options: Mapping[str, Any]) -> None:
    """Return if PyMySQL has options of these names, which work, and takes their values.

    :raises ConfigError: it has not, or does not.
    """
    import pymysql  # noqa: PLC0415 - where it is the driver

    known = inspect.signature(pymysql.connections.Connection).parameters
    for name, value in options.items():
        if name in _USELESS:
            raise DatabaseUrlError(f"{name} is of no use in a URL")
        if name in _SECONDS and not 0 < value <= _MOST_SECONDS:
            raise DatabaseUrlError(f"the value of {name} can't be used: from 1 to {_MOST_SECONDS} seconds")
        if name == "port" and isinstance(value, str):
            raise DatabaseUrlError("port stands behind the host: write mysql://...@host:3306/panko")
        if name in known and (name != "ssl" or isinstance(value, dict)):
            continue
        raise DatabaseUrlError(
            f"PyMySQL has no option {name!r} (for TLS, it is ssl_ca=/path/to/authority.pem)"
        )


def _from_file(query: Mapping[str, str | tuple[str, ...]]) -> dict[str, str]:
    """Return the options of TLS in the file that PyMySQL will read, by the names that URLs have for them."""
    group = str(query.get("read_default_group", ""))
    file = str(query.get("read_default_file", "/etc/my.cnf" if group else ""))
    if not file:
        return {}
    from pymysql.optionfile import Parser  # noqa: PLC0415 - where it is the driver

    parser: configparser.RawConfigParser = Parser()
    try:
        with Path(file).expanduser().open() as lines:
            parser.read_file(lines)
    except OSError as error:
        raise DatabaseUrlError(f"read_default_file: {error}") from error
    except (configparser.Error, UnicodeDecodeError):
        # Their texts show lines of it.
        raise DatabaseUrlError(f"read_default_file: {file} can't be parsed") from None
    found: dict[str, str] = {}
    unknown = f"of {file} is not known here: ask for TLS by ssl_ca, ssl_verify_identity"
    group, asks = group or "client", False
    for key, value in parser.items(group) if parser.has_section(group) else ():
        name = key.replace("-", "_")
        name = _NAMES_IN_FILES.get(name, name)
        if name in _OPTIONS - {"ssl_disabled"}:
            # A flag may stand there without a value.
            found[name] = parser.get(group, key) if value else "" if name in _TEXTS else "true"
        elif name == "ssl" and _FLAGS.get((value or "true").lower()):
            asks = True
        elif name.startswith(("ssl", "tls")):
            raise DatabaseUrlError(f"{key} {unknown}")
    if asks and not found:  # each of those asks for TLS, too
        raise DatabaseUrlError(f"ssl {unknown}")
    if blank := [name for name, value in found.items() if not value]:
        raise DatabaseUrlError(f"{', '.join(blank)} of {file} is blank")
    return found


def _flag(given: Mapping[str, str], name: str) -> bool | None:
    if name not in given:
        return None
    if given[name].lower() not in _FLAGS:
        # Any text passes for true with PyMySQL.
        raise DatabaseUrlError(f"{name} is neither true nor false")
    return _FLAGS[given[name].lower()]
