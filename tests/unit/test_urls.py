import string
from urllib.parse import quote

import pytest
from hypothesis import given, strategies as st
from kombu.transport import TRANSPORT_ALIASES

from panko_ingest.amqp.tls import TlsSettings
from panko_ingest.amqp.urls import parse
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
        ("rabbit://u:p;w@h:5673/v", [("h", 5673, "u", "p;w")], "v"),
        ("rabbit://u:p;w@h1,h2/v", [("h1", 5672, "u", "p;w"), ("h2", 5672, "u", "p;w")], "v"),
        (
            "rabbit://u:p@h1,u:p;w@h2;h3/v",
            [("h1", 5672, "u", "p"), ("h2", 5672, "u", "p;w"), ("h3", 5672, "u", "p;w")],
            "v",
        ),
        ("amqp://h1;h2/v", [("h1", 5672, "guest", "guest"), ("h2", 5672, "guest", "guest")], "v"),
        ("rabbit://u:p@h1:5673,/v", [("h1", 5673, "u", "p")], "v"),
        (
            "amqp://u:p@h1; pyamqp://u:p@h2,rabbit://h3/v",
            [(h, 5672, "u", "p") for h in ("h1", "h2", "h3")],
            "v",
        ),
        ("rabbit://h1,u:p@h2/v", [("h1", 5672, "guest", "guest"), ("h2", 5672, "u", "p")], "v"),
        ("rabbit://u:p@::1/v", [("::1", 5672, "u", "p")], "v"),
        ("rabbit://u:p@fe80::2,[::1]:5673/v", [("fe80::2", 5672, "u", "p"), ("::1", 5673, "u", "p")], "v"),
    ],
)
def test_a_url_names_its_brokers(url: str, brokers: list[tuple[str, int, str, str]], vhost: str) -> None:
    bus = parse(url)
    assert [(b.host, b.port, b.user, b.password) for b in bus.brokers] == brokers
    assert {b.vhost for b in bus.brokers} == {vhost}
    assert all(b.tls is None for b in bus.brokers)


@pytest.mark.parametrize(
    "url",
    [
        "amqps://u:p@h/v",
        "AMQPS://u:p@h/v?ssl=1",
        "rabbit://u:p@h/v?ssl=1",
        "rabbit://u:p@h/v?SSL=True",
        "rabbit://u:p@h/v?heartbeat=5&%20Ssl=yes",
        "amqps://u:p@h;amqps://u:p@h2/v",
        "amqps://u:p@h,h2/v",
        "rabbit://u:p@h/v?ssl=1&ssl_version=TLSv1_2&ssl_ca_file=&ssl_cert_file=",
    ],
)
def test_a_url_can_ask_for_tls_of_all_its_hosts(url: str) -> None:
    for broker in parse(url).brokers:
        assert broker.tls == TlsSettings()
        assert broker.port == 5671


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("amqp://u:s3cret@h1:5672;amqps://u:s3cret@h2:5671//", "amqps:// is not for all hosts"),
        ("amqps://u:s3cret@h1,amqp://u:s3cret@h2/", "amqps:// is not for all hosts"),
        ("rabbit://h1; amqps://h2/", "amqps:// is not for all hosts"),
        ("amqp://u:s3cret@h1;rabbit+ssl://u:s3cret@h2/", "a scheme that is not known"),
        ("rabbit+ssl://u:s3cret@h/", "write amqps://"),
        ("kombu+amqps://u:s3cret@h/", "write amqps://"),
        ("amqps://u:s3cret@h/?ssl=0", "ssl contradicts amqps://"),
        ("rabbit://u:s3cret@h/?ssl=1&SSL=0", "ssl is there more than once"),
        ("rabbit://u:s3cret@h/?ssl=", "ssl is blank"),
        ("rabbit://u:s3cret@h/?ssl", "ssl is blank"),
        ("rabbit://u:s3cret@h/?ssl_ca_file=", "ssl_ca_file is blank"),
        ("rabbit://u:s3cret@h/?SSL_CA_FILE=%20", "ssl_ca_file is blank"),
        ("rabbit://u:s3cret@h/?rabbit_use_ssl=true", "no option 'rabbit_use_ssl'"),
        ("rabbit://u:s3cret@h/?tls=true", "no option 'tls'"),
        ("rabbit://u:s3cret@h/?ssl=1&ssl_ca=/ca", "no option 'ssl_ca': .*, ssl_ca_file, "),
        ("rabbit://u:s3cret@h/?ssl=1&ssl_enforce_fips_mode=true", "no option 'ssl_enforce_fips_mode'"),
        ("rabbit://u:s3cret@h/?ssl=1&ssl_version=TLSv1_3", "leave ssl_version out"),
        ("rabbit://u:s3cret@h/?ssl=1&ssl_version=1.3", "leave ssl_version out"),
    ],
)
def test_what_can_only_mean_tls_is_never_taken_for_none(url: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault) as refused:
        parse(url)
    assert "s3cret" not in str(refused.value)


def test_tls_settings_of_the_url_come_before_the_configured_ones() -> None:
    bus = parse("rabbit://h/v?ssl_ca_file=/a&ssl_cert_file=/c", tls=TlsSettings("/b", "/d", "/e"))
    assert bus.brokers[0].tls == TlsSettings("/a", "/c", "/e")


def test_a_url_takes_options_by_the_names_that_oslo_messaging_has_for_them() -> None:
    (broker,) = parse("rabbit://h/v?rabbit_login_method=EXTERNAL&heartbeat_timeout_threshold=0").brokers
    assert (broker.login_method, broker.heartbeat) == ("EXTERNAL", 0)


def test_a_url_that_asks_for_tls_takes_the_configured_files() -> None:
    trust = TlsSettings("/ca", "/cert", "/key")
    assert parse("rabbit://h/v?ssl=1", trust=trust).brokers[0].tls == trust
    assert parse("rabbit://h/v", trust=trust).brokers[0].tls is None
    assert parse("rabbit://h/v?ssl=0", tls=trust).brokers[0].tls is None
    (broker,) = parse(
        "rabbit://h/v?ssl=1&ssl_enforce_hostname_verification=false&ssl_strict_certificates=true"
    ).brokers
    assert broker.tls == TlsSettings(verify_host=False, strict=True)


def test_each_broker_gets_a_context_and_a_server_name_of_its_own() -> None:
    one, two = (broker.ssl_options() for broker in parse("amqps://u:p@h1,h2/v").brokers)
    assert isinstance(one, dict)
    assert isinstance(two, dict)
    assert (one["server_hostname"], two["server_hostname"]) == ("h1", "h2")
    assert one["context"] is not two["context"]


@pytest.mark.parametrize("url", ["filesystem://", "sqla+sqlite:///bus.sqlite", "sqlalchemy+sqlite:///b"])
def test_a_url_of_a_transport_that_needs_no_server_is_a_virtual_one(url: str) -> None:
    bus = parse(url)
    assert bus.virtual_url == url
    assert not bus.brokers


@pytest.mark.parametrize(
    "name",
    sorted({"kafka", *TRANSPORT_ALIASES} - {"amqp", "amqps", "pyamqp", "filesystem"}),
)
def test_a_url_that_only_kombu_or_oslo_messaging_reads_is_refused_by_its_scheme(name: str) -> None:
    for scheme in (name, f"{name}+s3cret") if name not in ("sqla", "sqlalchemy") else (name,):
        with pytest.raises(ConfigError, match=f"^transport_url: nothing is read from {name}://: ") as refused:
            parse(f"{scheme}://u:s3cret@h:9092/")
        assert "s3cret" not in str(refused.value)


def test_no_text_of_a_bus_holds_the_password() -> None:
    bus = parse("rabbit://u:s3cret@h/v")
    assert "s3cret" not in f"{bus!r} {bus} {bus.name} {bus.brokers[0]!r} {bus.brokers[0]}"


@pytest.mark.parametrize(
    "url",
    [
        "h:5672",
        "rabbit://u:s3cret@h:port/v",
        "rabbit://u:s3cret@h/v?heartbeat=soon",
        "rabbit://u:s3cret@h/v?ssl=2",
        "rabbit://u:s3cret/more@h:5672/v",
        "rabbit://u:a@s3cret/more@h:5672/v",
        "rabbit://u:s3cret?more@h/v",
        "rabbit://s3cret/@h",
        "rabbit://u/s3cret:p@h/v",
        "rabbit:/u:s3cret@h1;amqp://u:s3cret@h2/",
        "rabbit:u:s3cret@h1,rabbit://h2/",
        "u:s3cret@h1,rabbit://h2/",
        " rabbit://u:s3cret@h1/",
        "1s3cret://h/",
        "://u:s3cret@h/",
        "rabbit://s3cret:1234,5@h/v",
        "rabbit://u:p@h1,s3cret:1234,5:6@h2/v",
        "rabbit://u:a@s3cret,b@h/v",
        "rabbit://u:a;s3cret://b@h/v",
        "amqp://u:s3cret@h:99999/",
        "amqp://u:s3cret@h:0/",
        "amqp://u:s3cret@h:-1/",
        "amqp://u:s3cret@[::1/nova",
        "s3cret://u:p@h/",
        f"amqp://u:s3cret@h/{'v' * 256}",
        "amqp://u:s3cret@h/v?heartbeat=65536",
        "amqp://u:s3cret@h/v?heartbeat=-5",
        "amqp://u:s3cret@h/v?login_method=plain",
        "amqp://u:s3cret@rabbit..example.com/v",
        "amqp://u:s3cret@h1,u:s3cret@.example.com/v",
        f"amqp://u:s3cret@{'h' * 64}.example.com/v",
        "amqp://u:p@s3cret..com/v",
    ],
)
def test_a_url_that_names_no_bus_is_refused_without_showing_its_password(url: str) -> None:
    with pytest.raises(ConfigError, match="transport_url") as refusal:
        parse(url)
    assert "s3cret" not in str(refusal.value)


CHARACTERS = string.ascii_letters + string.digits + "@:/;?#[]%&=+$!, "


@given(st.text(CHARACTERS, min_size=1), st.text(CHARACTERS, min_size=1))
def test_any_user_and_password_that_are_quoted_arrive_and_show_nowhere(user: str, password: str) -> None:
    bus = parse(f"rabbit://{quote(user, safe='')}:{quote(password, safe='')}@h1,h2:5673/v")
    assert [(b.user, b.password, b.host) for b in bus.brokers] == [(user, password, h) for h in ("h1", "h2")]
    assert bus.name == "h1:5672,h2:5673/v"


@given(st.text(CHARACTERS))
def test_no_part_of_a_password_that_is_not_quoted_ends_in_a_name(noise: str) -> None:
    try:
        shown = parse(f"rabbit://u:XYZZY{noise}XYZZY@h:5672/v").name
    except ConfigError as error:
        shown = str(error)
    assert "XYZZY" not in shown
