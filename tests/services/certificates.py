"""A certificate authority of the tests' own."""

import datetime
import ipaddress
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class KeyPair(NamedTuple):
    """Paths of a certificate and its key, PEM files."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates; ``certificate`` is the file to trust.

    :param strict: whether they have all that Python wants of them from 3.13 on.
    """

    def __init__(self, folder: Path, *, strict: bool = True) -> None:
        self._folder = folder
        self._strict = strict
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("Authority of the tests")
        builder = _builder(self._name, self._name, self._key, self._key, strict)
        signed = builder.add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=strict
        ).add_extension(
            x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=True,
                crl_sign=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        self._signed = signed.sign(self._key, hashes.SHA256())
        self.certificate = folder / "authority.pem"
        self.certificate.write_bytes(self._signed.public_bytes(serialization.Encoding.PEM))

    def sign(self, common_name: str, host: str = "", *, expired: bool = False) -> KeyPair:
        """Make a key and a certificate for a person, or for a host (a name or an IP address)."""
        key = ec.generate_private_key(ec.SECP256R1())
        days = (-2, -1) if expired else (-1, 2)
        builder = _builder(_name(common_name), self._name, key, self._key, self._strict, days)
        if host:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(host)]), False)
        paths = KeyPair(self._folder / f"{common_name}.pem", self._folder / f"{common_name}.key")
        paths.certificate.write_bytes(
            builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        )
        paths.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.NoEncryption(),
            )
        )
        paths.key.chmod(0o644)  # the server runs as another user
        return paths


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuers_key: ec.EllipticCurvePrivateKey,
    strict: bool,
    days: tuple[int, int] = (-1, 2),
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=days[0]))
        .not_valid_after(now + datetime.timedelta(days=days[1]))
    )
    if not strict:
        return builder
    return builder.add_extension(
        x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False
    ).add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuers_key.public_key()), False)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
