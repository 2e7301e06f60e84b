"""Broker URLs in oslo.messaging's and kombu's form, and the connections they describe."""

import random
import re
import ssl
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

from panko_ingest.errors import ConfigError

_AMQP_SCHEMES = {"rabbit": False, "amqp": False, "pyamqp": False, "amqps": True, "kombu": False}
_TRUE = {"1", "true", "yes", "on"}


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """How to trust the broker and to prove who we are; paths of PEM files.

    Without ``ca_file`` the system's certificate authorities are trusted.
    """

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None


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
        return f"{self.host}:{self.port}/{self.vhost if self.vhost != '/' else ''}"

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
        """Return py-amqp's ``ssl`` argument: a fresh context that verifies this very host."""
        if self.tls is None:
            return False
        context = ssl.create_default_context(cafile=self.tls.ca_file)
        if self.tls.cert_file:
            context.load_cert_chain(self.tls.cert_file, self.tls.key_file)
        return {"context": context, "server_hostname": self.host}


@dataclass(frozen=True, slots=True)
class Bus:
    """What one messaging URL names: the brokers of an AMQP bus, or a virtual transport of kombu.

    ``name`` is safe to show; ``virtual_url`` is set for a transport that is no AMQP.
    """

    name: str
    brokers: tuple[Broker, ...] = ()
    virtual_url: str | None = field(default=None, repr=False)

    def shuffled(self) -> list[Broker]:
        """Return the brokers in random order, so that many workers spread over them."""
        return random.sample(self.brokers, len(self.brokers))


def parse(
    url: str,
    *,
    tls: TlsSettings | None = None,
    login_method: str = "PLAIN",
    heartbeat: int = 60,
) -> Bus:
    """Return the bus that a messaging URL names.

    ``rabbit://user:password@host:5672,user:password@host2:5672/vhost`` as oslo.messaging writes it,
    where a host without credentials takes those of the one before it; ``amqp://`` and ``amqps://``
    as kombu writes it (hosts may be separated by ``;`` too); any other scheme is a virtual transport.
    Options after ``?`` (ssl, ssl_ca_file, ssl_cert_file, ssl_key_file, login_method, heartbeat) come
    before the keywords, which are the defaults.

    :raises ConfigError: it names no bus; the text never holds a password.
    """
    scheme, separator, rest = url.partition("://")
    base_scheme = scheme.partition("+")[0].lower()
    if not separator:
        raise ConfigError("transport_url: no URL: write rabbit://user:password@host:5672/vhost")
    if base_scheme not in _AMQP_SCHEMES:
        return Bus(name=f"{scheme}://", virtual_url=url)

    rest, _, query_text = rest.partition("?")
    query = dict(parse_qsl(query_text))
    rest = re.sub(r"[;,]\w+://", ",", rest)  # kombu repeats the scheme before every host
    hosts, slash, vhost = rest.partition("/")
    if query.get("ssl", "").lower() in _TRUE or _AMQP_SCHEMES[base_scheme]:
        tls = tls or TlsSettings()
    if tls is not None:
        tls = replace(
            tls,
            **{
                name: query[f"ssl_{name}"]
                for name in ("ca_file", "cert_file", "key_file")
                if f"ssl_{name}" in query
            },
        )
    template = Broker(
        host="localhost",
        port=5671 if tls else 5672,
        user="guest",
        password="guest",  # noqa: S106 - RabbitMQ's own default account
        # oslo.messaging: no path and an empty one are both the default vhost
        vhost=unquote(vhost) if slash and vhost else "/",
        tls=tls,
        login_method=query.get("login_method", login_method),
        heartbeat=_integer("heartbeat", query.get("heartbeat", heartbeat)),
    )
    brokers: list[Broker] = []
    for part in hosts.replace(";", ",").split(","):
        brokers.append(_parse_host(part, brokers[-1] if brokers else template, template))
    name = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
    return Bus(name=f"{name}/{quote(template.vhost, safe='')}", brokers=tuple(brokers))


def _parse_host(text: str, previous: Broker, template: Broker) -> Broker:
    credentials, at, address = text.rpartition("@")
    user, password = previous.user, previous.password
    if at:
        user_text, _, password_text = credentials.partition(":")
        user, password = unquote(user_text), unquote(password_text)
    if address.startswith("["):
        host, _, port_text = address[1:].partition("]")
        port_text = port_text.lstrip(":")
    else:
        host, _, port_text = address.partition(":")
    return replace(
        template,
        host=host or "localhost",
        port=_integer("port", port_text) if port_text else template.port,
        user=user,
        password=password,
    )


def _integer(name: str, value: str | int) -> int:
    try:
        return int(value)
    except ValueError:
        raise ConfigError(f"transport_url: the {name} is no number") from None
