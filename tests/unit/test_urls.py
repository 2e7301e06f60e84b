import pytest

from panko_ingest.amqp.urls import TlsSettings, parse
from panko_ingest.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "brokers", "vhost"),
    [
        ("rabbit://u:p@h1:5672/", [("h1", 5672, "u", "p")], "/"),
        ("rabbit://u:p@h1", [("h1", 5672, "u", "p")], "/"),
        (
            "rabbit://u:p@h1:5673,u2:p2@h2:5674/cloud",
            [("h1", 5673, "u", "p"), ("h2", 5674, "u2", "p2")],
            "cloud",
        ),
        ("rabbit://u:p@h1:5672,h2:5672/v", [("h1", 5672, "u", "p"), ("h2", 5672, "u", "p")], "v"),
        ("rabbit://u:a%2Fb%40c@h/v%2Fw", [("h", 5672, "u", "a/b@c")], "v/w"),
        ("rabbit://u:a@b@h/v", [("h", 5672, "u", "a@b")], "v"),
        ("amqp://guest:guest@localhost//", [("localhost", 5672, "guest", "guest")], "/"),
        ("amqp://u:p@h1;amqp://u:p@h2/v", [("h1", 5672, "u", "p"), ("h2", 5672, "u", "p")], "v"),
        ("amqp://u:p@[::1]:5673/v", [("::1", 5673, "u", "p")], "v"),
        ("pyamqp://", [("localhost", 5672, "guest", "guest")], "/"),
    ],
)
def test_a_url_names_its_brokers(url: str, brokers: list[tuple[str, int, str, str]], vhost: str) -> None:
    bus = parse(url)
    assert [(b.host, b.port, b.user, b.password) for b in bus.brokers] == brokers
    assert {b.vhost for b in bus.brokers} == {vhost}
    assert all(b.tls is None for b in bus.brokers)


@pytest.mark.parametrize("url", ["amqps://u:p@h/v", "rabbit://u:p@h/v?ssl=1"])
def test_a_url_can_ask_for_tls(url: str) -> None:
    (broker,) = parse(url).brokers
    assert broker.tls == TlsSettings()
    assert broker.port == 5671


def test_tls_settings_of_the_url_come_before_the_configured_ones() -> None:
    bus = parse("rabbit://h/v?ssl_ca_file=/a&ssl_cert_file=/c", tls=TlsSettings("/b", "/d", "/e"))
    assert bus.brokers[0].tls == TlsSettings("/a", "/c", "/e")


def test_each_broker_gets_a_context_and_a_server_name_of_its_own() -> None:
    one, two = (broker.ssl_options() for broker in parse("amqps://u:p@h1,h2/v").brokers)
    assert isinstance(one, dict)
    assert isinstance(two, dict)
    assert (one["server_hostname"], two["server_hostname"]) == ("h1", "h2")
    assert one["context"] is not two["context"]


def test_any_other_scheme_is_a_virtual_transport() -> None:
    bus = parse("filesystem://")
    assert bus.virtual_url == "filesystem://"
    assert not bus.brokers


def test_no_text_of_a_bus_holds_the_password() -> None:
    bus = parse("rabbit://u:s3cret@h/v")
    assert "s3cret" not in f"{bus!r} {bus} {bus.name} {bus.brokers[0]!r} {bus.brokers[0]}"


@pytest.mark.parametrize(
    "url", ["h:5672", "rabbit://u:s3cret@h:port/v", "rabbit://u:s3cret@h/v?heartbeat=soon"]
)
def test_a_url_that_names_no_bus_is_refused_without_showing_its_password(url: str) -> None:
    with pytest.raises(ConfigError, match="transport_url") as refusal:
        parse(url)
    assert "s3cret" not in str(refusal.value)
