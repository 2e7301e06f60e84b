"""Files for TLS to the brokers that can't be used: each is told by its name and option."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from panko_ingest import amqp
from panko_ingest.errors import BrokerError
from panko_ingest.findings import FAILURE
from tests.services.certificates import Authority, KeyPair


@pytest.fixture
def pair(tmp_path: Path) -> KeyPair:
    return Authority(tmp_path).sign("ingest")


def encrypt(key: Path) -> None:
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"a passphrase"),
        )
    )


def test_nobody_is_asked_for_the_passphrase_of_a_key(
    pair: KeyPair, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = amqp.TlsSettings(cert_file=str(pair.certificate), key_file=str(pair.key))
    settings.check()
    encrypt(pair.key)
    with pytest.raises(OSError, match=f"ssl_key_file: .*, {pair.key}: the key is encrypted"):
        settings.context()
    assert capfd.readouterr() == ("", ""), "the terminal was asked"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("ssl_ca_file=/nowhere/ca.pem", "ssl_ca_file: /nowhere/ca.pem: No such file"),
        ("ssl_cert_file=/nowhere/our.pem", "ssl_cert_file, ssl_key_file: /nowhere/our.pem, .*: No such file"),
    ],
)
def test_a_file_that_is_not_there_is_told_by_its_name_and_no_host_is_blamed(options: str, told: str) -> None:
    bus = amqp.parse(f"rabbit://u:p@localhost:1/?ssl=1&{options}")
    with pytest.raises(BrokerError, match=f"localhost:1/: {told}"):
        amqp.reach(bus)
    management = amqp.Management.parse("https://localhost:1", bus)
    with pytest.raises(BrokerError, match=f"localhost:1: {told}"):
        management.version()
    (found, of_management) = amqp.inspect(bus, amqp.Topology(("notifications.info",)), None, management)
    assert found.level == FAILURE
    assert found.text.startswith(told.partition(",")[0])
    assert "password" not in found.text
    assert told.partition(" ")[0] in of_management.text
