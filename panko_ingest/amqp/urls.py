"""Broker URLs in oslo.messaging's and kombu's form, and the connections they describe."""

import ipaddress
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

from kombu.transport import TRANSPORT_ALIASES

from panko_ingest.amqp.tls import ANY_NAME_TAKEN, TlsSettings
from panko_ingest.config import MAX_HEARTBEAT, MAX_NAME
from panko_ingest.errors import BusUrlError

_AMQP_SCHEMES = {"rabbit": False, "amqp": False, "pyamqp": False, "amqps": True, "kombu": False}
_EMBEDDED = re.compile(r"filesystem|(sqla|sqlalchemy)\+.+")
"""What kombu emulates without a server. Its others need libraries that are not here, and lose messages."""
_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*"
_FURTHER_SCHEME = re.compile(rf"[;,]\s*({_SCHEME})://")
_LARGEST_PORT = 65535
_TLS_FILES = {"ssl_ca_file", "ssl_cert_file", "ssl_key_file"}
_TLS_OPTIONS = _TLS_FILES | {
    "ssl",
    "ssl_version",
    "ssl_enforce_hostname_verification",
    "ssl_strict_certificates",
}
_NO_NEWER_THAN_OURS = {"sslv2", "sslv3", "sslv23", "tlsv1", "tlsv1_1", "tlsv1_2"}
"""Values of oslo.messaging's ``ssl_version`` that ask for no more than TLS 1.2, which is the least here."""
_LOGIN_METHODS = ("PLAIN", "AMQPLAIN", "EXTERNAL")
_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}


@dataclass(frozen=True, slots=True)
class Broker:
    """One broker of a bus: what it takes to connect to it. Its repr never shows the password."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    vhost: str
    tls: TlsSettings | None = None
    login_method: str = "PLAIN"
    heartbeat: int = 60

    def __str__(self) -> str:
        return f"{self.address}/{self.vhost if self.vhost != '/' else ''}"

    @property
    def address(self) -> str:
        """Host and port, as a URL has them."""
        return host_and_port(self.host, self.port)

    def parameters(self) -> dict[str, Any]:
        """Return what kombu's Connection needs to know to reach and to trust this broker."""
        return {
            "hostname": self.host,
            "port": self.port,
            "userid": self.user,
            "password": self.password,
            "virtual_host": self.vhost,
            "ssl": self.ssl_options(),
            "login_method": self.login_method,
        }

    def ssl_options(self) -> dict[str, Any] | bool:
        """Return py-amqp's ``ssl`` argument: a fresh context that verifies this very host.

        :raises OSError: a file can't be used.
        """
        if self.tls is None:
            return False
        return {"context": self.tls.context(), "server_hostname": self.host}


@dataclass(frozen=True, slots=True)
class Bus:
    """What one messaging URL names: the brokers of an AMQP bus, or a virtual transport of kombu.

    ``name`` is safe to show; ``virtual_url`` is set for a transport that is no AMQP.
    """

    name: str
    brokers: tuple[Broker, ...] = ()
    virtual_url: str | None = field(default=None, repr=False)

    @property
    def title(self) -> str:
        """What to call it before anybody who asks: without its hosts."""
        return f"vhost {self.brokers[0].vhost}" if self.brokers else self.name

    @property
    def weakness(self) -> str:
        """What it promises less than RabbitMQ, or a broker whose certificate names it; empty for nothing."""
        if self.virtual_url is not None:
            return "an embedded transport, for trying out: it may lose messages when a process dies"
        takes_any_name = any(broker.tls and not broker.tls.verify_host for broker in self.brokers)
        return ANY_NAME_TAKEN if takes_any_name else ""

    def shuffled(self) -> list[Broker]:
        """Return the brokers in random order, so that many workers spread over them."""
        return random.sample(self.brokers, len(self.brokers))


def parse(
    url: str,
    *,
    tls: TlsSettings | None = None,
    trust: TlsSettings | None = None,
    login_method: str = "PLAIN",
    heartbeat: int = 60,
) -> Bus:
    """Return the bus that a messaging URL names.

    ``rabbit://user:password@host:5672,user:password@host2:5672/vhost`` as oslo.messaging writes it,
    where a host without credentials takes those of the one before it; ``amqp://`` and ``amqps://``
    as kombu writes it (hosts may be separated by ``;`` too); ``sqla+...://`` and ``filesystem://`` are
    virtual transports.
    Options after ``?`` (ssl and those that begin so; login_method and heartbeat, or what oslo.messaging calls
    these) come before the keywords, which are the defaults. A file for TLS asks for TLS, if ``ssl`` does not
    forbid it; ``amqps://`` asks for it, too, and then stands before each host.

    :param tls: encrypt so, unless the URL says not to.
    :param trust: encrypt so where only the URL says to.
    :raises BusUrlError: it names no bus; the text never holds a password.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or not re.fullmatch(_SCHEME, scheme):
        # What is no scheme may be all of the URL up to a second one, and is shown nowhere.
        raise BusUrlError("no URL: write rabbit://user:password@host:5672/vhost")
    if scheme.partition("+")[0].lower() not in _AMQP_SCHEMES:
        if not _EMBEDDED.fullmatch(scheme):
            raise BusUrlError(_why_not_read(scheme))
        return Bus(name=f"{scheme}://", virtual_url=url)

    return _of_rabbitmq(scheme, rest, tls, trust, login_method, heartbeat)


def _of_rabbitmq(
    scheme: str,
    rest: str,
    tls: TlsSettings | None,
    trust: TlsSettings | None,
    login_method: str,
    heartbeat: int,
) -> Bus:
    # kombu repeats the scheme before every host
    of_tls = _is_of_tls([scheme, *_FURTHER_SCHEME.findall(rest)])
    rest, _, query_text = _FURTHER_SCHEME.sub(",", rest).partition("?")
    hosts, _, vhost = rest.partition("/")
    if "@" in vhost or "@" in query_text:
        # What stands before it may be a part of the password: shown nowhere, it is not guessed at.
        raise BusUrlError("a / or ? stands before an @: write %2F and %3F in a password, %40 in a vhost")
    query = _options(query_text)
    asked = of_tls or tls is not None or any(name.startswith("ssl_") for name in query)
    encrypt = _flag(query, "ssl", asked)
    if of_tls and not encrypt:
        raise BusUrlError("ssl contradicts amqps://")
    template = Broker(
        host="localhost",
        port=5671 if encrypt else 5672,
        user="guest",
        password="guest",  # noqa: S106 - RabbitMQ's own default account
        # oslo.messaging: no path and an empty one are both the default vhost
        vhost=unquote(vhost) or "/",
        tls=_tls(tls or trust or TlsSettings(), query) if encrypt else None,
        login_method=query.get("login_method", query.get("rabbit_login_method", login_method)),
        heartbeat=_integer(
            "heartbeat", query.get("heartbeat", query.get("heartbeat_timeout_threshold", heartbeat))
        ),
    )
    brokers = _brokers(hosts, template)
    _check_bounds(template)
    name = ",".join(broker.address for broker in brokers)
    return Bus(name=f"{name}/{quote(template.vhost, safe='')}", brokers=tuple(brokers))


def _brokers(hosts: str, template: Broker) -> list[Broker]:
    """Return the brokers that a URL names, each with what it does not say from the one before it."""
    brokers: list[Broker] = []
    parts = _split(hosts)
    if any(map(_tears_password, parts, parts[1:])):
        raise BusUrlError(
            "a host without user and password stands before one that has them, or one has a "
            "user alone: give both to each, and write %2C for a , in a password"
        )
    for part in parts:
        brokers.append(_parse_host(part, brokers[-1] if brokers else template, template))
    return brokers


def _check_bounds(template: Broker) -> None:
    """Look at what the URL asks of all brokers.

    :raises BusUrlError: AMQP has no such thing, or we can't do it.
    """
    if len(template.vhost.encode()) > MAX_NAME:
        raise BusUrlError(f"the vhost has more than the {MAX_NAME} bytes that AMQP takes")
    if template.heartbeat > MAX_HEARTBEAT:
        raise BusUrlError(f"the heartbeat is longer than {MAX_HEARTBEAT} s")
    if template.heartbeat < 0:
        raise BusUrlError("the heartbeat is less than 0, which is none")
    if template.login_method not in _LOGIN_METHODS:
        raise BusUrlError(f"the login_method is none of {', '.join(_LOGIN_METHODS)}")


def host_and_port(host: str, port: int) -> str:
    """Return them as a URL has them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _why_not_read(scheme: str) -> str:
    """Return why no bus has a scheme, which is not shown where it may be a part of a password."""
    name = scheme.partition("+")[0]
    if name not in {"kafka", *TRANSPORT_ALIASES}:
        return "the scheme is not known: write rabbit:// or amqps://"
    return (
        f"nothing is read from {name}://: write rabbit:// or amqps://, of a RabbitMQ that services publish "
        "their notifications to ([oslo_messaging_notifications] transport_url of theirs)"
    )


def _is_of_tls(schemes: Sequence[str]) -> bool:
    """Tell whether the schemes, one for each host that has one, ask for TLS."""
    try:
        (found,) = {_AMQP_SCHEMES[scheme.lower()] for scheme in schemes}
    except KeyError:
        raise BusUrlError(
            "a host has a scheme that is not known (as rabbit+ssl:// is not): write amqps:// "
            "for TLS, else rabbit:// or amqp://"
        ) from None
    except ValueError:
        raise BusUrlError("amqps:// is not for all hosts: write it before each") from None
    return found


def _options(text: str) -> dict[str, str]:
    """Return the options after a ``?``, in any case; one that should ask for TLS and can't is refused.

    A file that is named blank counts as not named where ``ssl`` says what is wanted, as oslo.messaging has
    it: OpenStack-Ansible writes so for certificates that the system's authorities have signed.
    """
    found: dict[str, str] = {}
    blank: set[str] = set()
    for written, value in parse_qsl(text, keep_blank_values=True):
        name = written.strip().lower()
        of_tls = "ssl" in name or "tls" in name
        if of_tls and name not in _TLS_OPTIONS:
            raise BusUrlError(f"no option {name!r}: those of TLS are {', '.join(sorted(_TLS_OPTIONS))}")
        if name == "ssl_version" and value.strip() and value.strip().lower() not in _NO_NEWER_THAN_OURS:
            raise BusUrlError("leave ssl_version out: it is TLS 1.2 or a newer one, always")
        if name == "ssl" and name in found:
            raise BusUrlError("ssl is there more than once")
        if of_tls and not value.strip():
            blank.add(name)
        elif value:
            found[name] = value
    if refused := sorted(blank - (_TLS_FILES if "ssl" in found else set())):
        raise BusUrlError(f"{refused[0]} is blank")
    return found


def _tls(settings: TlsSettings, query: Mapping[str, str]) -> TlsSettings:
    files = {name.removeprefix("ssl_"): query[name] for name in _TLS_FILES & query.keys()}
    return replace(
        settings,
        **files,
        verify_host=_flag(query, "ssl_enforce_hostname_verification", settings.verify_host),
        strict=_flag(query, "ssl_strict_certificates", settings.strict),
    )


def _flag(query: Mapping[str, str], name: str, default: bool) -> bool:
    text = query.get(name, str(default)).lower()
    if text not in _TRUE | _FALSE:
        # to take it for no would be a login that anyone can read
        raise BusUrlError(f"{name} is neither true nor false")
    return text in _TRUE


def _split(hosts: str) -> list[str]:
    """Return the parts that are for one host each; a ``;`` before an ``@`` is one of a password."""
    parts: list[str] = []
    for part in hosts.split(";"):
        if parts and "@" in part and "@" not in parts[-1].rpartition(",")[2]:
            parts[-1] += f";{part}"
        else:
            parts.append(part)
    return [host for part in parts for host in part.split(",") if host] or [""]


def _tears_password(text: str, following: str) -> bool:
    """Tell whether the comma between two hosts may be one of a password, which would pass for a host."""
    account, at, _ = following.rpartition("@")
    return bool(at) and (":" not in account or ("@" not in text and ":" in text))


def _parse_host(text: str, previous: Broker, template: Broker) -> Broker:
    credentials, at, address = text.rpartition("@")
    user, password = previous.user, previous.password
    if at:
        user_text, _, password_text = credentials.partition(":")
        user, password = unquote(user_text), unquote(password_text)
    if address.startswith("["):
        host, closed, port_text = address[1:].partition("]")
        if not closed:
            raise BusUrlError("a [ before an address of IPv6 has no ]")
        port_text = port_text.removeprefix(":")
    elif _is_bare_ipv6(address):
        host, port_text = address, ""
    else:
        host, _, port_text = address.partition(":")
    _refuse_no_name(host)
    return replace(
        template,
        host=host or "localhost",
        port=_port(port_text) if port_text else template.port,
        user=user,
        password=password,
    )


def _refuse_no_name(host: str) -> None:
    """Refuse what no resolver is asked for, as it can't be written as a name."""
    try:
        host.encode("idna")
    except UnicodeError:
        # Not shown: it may be a part of a password.
        raise BusUrlError(
            "the name of a host has a part between dots that is empty, or longer than 63 characters"
        ) from None


def _is_bare_ipv6(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).version == 6  # noqa: PLR2004 - of IP
    except ValueError:
        return False


def _port(text: str) -> int:
    port = _integer("port", text)
    if not 0 < port <= _LARGEST_PORT:
        raise BusUrlError(f"there is no port {port}")
    return port


def _integer(name: str, value: str | int) -> int:
    try:
        return int(value)
    except ValueError:
        raise BusUrlError(f"the {name} is no number") from None
