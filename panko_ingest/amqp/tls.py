"""TLS to the brokers: whom to trust, and why one is not trusted."""

import contextlib
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from panko_ingest.errors import ConfigError

_PATIENCE = 5.0

ANY_NAME_TAKEN = (
    "ssl_enforce_hostname_verification is off: whoever has any certificate of the authority can pose as a "
    "broker and read the password"
)


_FORGETFUL = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def forget_errors() -> None:
    """Empty OpenSSL's list of errors of this thread, which a lost connection may leave behind.

    Python 3.12 and later (python/cpython#148594) takes what is in it for an error of the next connection that
    the thread reads, though another thread shook hands over it. Python itself empties it where no cipher of
    a name is known.
    """
    with contextlib.suppress(ssl.SSLError):
        _FORGETFUL.set_ciphers("none of this name")


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """How to trust the broker and to prove who we are; paths of PEM files.

    Without ``ca_file`` the system's certificate authorities are trusted.
    """

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    verify_host: bool = True
    """Whether the certificate must be for the host that was asked for."""
    strict: bool = False
    """Whether certificates must have all that RFC 5280 wants of them."""

    def context(self) -> ssl.SSLContext:
        """Return a fresh context; the files are read again, as certificates are renewed.

        :raises OSError: a file can't be used; the text names it, and its option.
        """
        with _named(f"ssl_ca_file: {self.ca_file}"):
            context = ssl.create_default_context(cafile=self.ca_file)
        context.check_hostname = self.verify_host
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if self.strict:
            context.verify_flags |= ssl.VERIFY_X509_STRICT
        if self.cert_file:
            with _named(f"ssl_cert_file, ssl_key_file: {self.cert_file}, {self.key_file or self.cert_file}"):
                _load_certificate(context, self.cert_file, self.key_file)
        return context

    def check(self) -> None:
        """Read the files.

        :raises ConfigError: one can't be used.
        """
        try:
            self.context()
        except OSError as error:
            raise ConfigError(str(error)) from error

    def explain(self, host: str, port: int, error: BaseException) -> str:
        """Return why a broker's certificate was refused and what to do, in words; empty for another error.

        It asks the broker once or twice more, for its certificate only.
        """
        if not isinstance(error, ssl.SSLCertVerificationError):
            return ""
        lenient = replace(self, strict=False)
        if self.strict and lenient.names(host, port) is not None:
            return (
                f"its certificate is refused for its form alone ({error.verify_message}), as by Python from "
                "3.13 on: have it, or its authority's, issued anew, or set [oslo_messaging_rabbit] "
                "ssl_strict_certificates = false"
            )
        names = replace(lenient, verify_host=False).names(host, port)
        if self.verify_host and names is not None:
            return (
                f"its certificate is for {', '.join(names) or 'no name at all'}, and {host} was asked for: "
                "write one of its names into the URL, or have it issued for this one"
            )
        return f"its certificate is not trusted ({error.verify_message}): check ssl_ca_file"

    def names(self, host: str, port: int) -> list[str] | None:
        """Return the names that the certificate there is for; None where we don't accept it."""
        try:
            with (
                socket.create_connection((host, port), timeout=_PATIENCE) as plain,
                self.context().wrap_socket(plain, server_hostname=host) as encrypted,
            ):
                certificate = encrypted.getpeercert() or {}
        except OSError:
            return None
        names: Any = certificate.get("subjectAltName", ())
        return [name for _, name in names]


def _load_certificate(context: ssl.SSLContext, certificate: str, key: str | None) -> None:
    """Load a certificate and its key, but ask nobody for a passphrase, as OpenSSL would on the terminal."""
    asked = False

    def no_passphrase() -> str:
        nonlocal asked
        asked = True
        return ""

    try:
        context.load_cert_chain(certificate, key, no_passphrase)
    except ssl.SSLError as error:
        if not asked:
            raise
        text = "the key is encrypted, and there is nobody to ask for its passphrase: name one that is not"
        raise OSError(text) from error


@contextlib.contextmanager
def _named(what: str) -> Iterator[None]:
    """Have an error of a file say which file it is, as OpenSSL does not."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{what}: {error.strerror or error}") from error
