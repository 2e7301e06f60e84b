"""Which names have a credential beside them."""

import re
from typing import Any

from panko_ingest.remembered import Remembered

HIDDEN = "***"
GIVES_NOTHING_AWAY: tuple[Any, ...] = (None, True, False, "", HIDDEN, [], {})
"""Values that stay as they are, whatever names them."""

# Names are compared in lower case, without separators and without digits at the end.
_NAMES = frozenset(
    {
        # contexts: the catalog of a token, and all that Keystone said about it
        "servicecatalog", "authtokeninfo", "tokeninfo", "xservicecatalog",
        # servers: what a user puts into one at create and rebuild
        "rootpass", "userpass", "dbpass", "pass", "passphrase",
        "userdata", "injectedfiles", "personality",
        # keys that open something: EC2, shares, VPNs, volumes, traces
        "cek", "dek", "kek", "sharedkey", "licensekey",
        # what a web server knows a browser by
        "phpsessid", "jsessionid",
    }
)  # fmt: skip
_PARTS = ("password", "passwd", "pswd", "privatekey", "privkey", "authkey", "kubeconfig")
_ENDS = (
    "token", "tokens", "tokenid", "secret", "secrets", "secretuuid", "secretid",
    "secretvalue", "secretpayload", "secretstring", "secretkeybase", "credential", "credentials", "creds",
    "secretkey", "secretkeys", "accesskey", "accesskeys", "apikey", "apikeys", "tempurlkey",
    "sslkey", "tlskey",
    "encryptionkey", "encryptedkey", "presharedkey", "signingkey", "masterkey", "hmackey", "fernetkey",
    "keyring", "psk", "pwd", "passcode", "passphrase", "otp", "cookie", "cookies", "authorization",
    "adminpass", "newpass", "configdrive",
    "providerauth", "snmpcommunity", "kgkey", "clientkeydata", "cakey", "samlresponse", "urlsignature",
    # what deployments of TripleO name so
    "cephclusterfsid", "octaviaheartbeatkey", "heartbeatkey", "cephmanilaclientkey", "cephclientkey",
    "cephadminkey", "cephrgwkey", "cephmdskey", "cephmonkey", "designaterndckey", "rndckey",
    "barbicansimplecryptokek", "swifthashsuffix", "swifthashprefix", "migrationsshkey",
)  # fmt: skip
_NOT_AT_END = (
    "expiresat", "createdat", "changedat", "updatedat", "expiry", "expires", "expiration", "count", "length",
    "policy", "required", "enabled",
)  # fmt: skip
# What gives access by standing in the query of a URL.
_IN_QUERIES = frozenset(
    {
        "tempurlsig", "signature", "sig", "xamzsignature", "xamzcredential", "xamzsecuritytoken",
        "xgoogsignature", "xgoogcredential", "awsaccesskeyid", "googleaccessid",
        "sessionid",
    }
)  # fmt: skip
_LABELS = frozenset(
    {"name", "key", "header", "field", "param", "parameter", "property", "option", "variable"}
)
_VALUES = frozenset({"value", "values", "val", "content", "default", "data"})

_SEPARATORS = str.maketrans("", "", "_-. ")
_CONTEXT = "_context_"
_DIGITS = "0123456789"
_SEPARATE_PASS = re.compile(r"(?:[_\-. ][Pp]ass|[a-z]Pass)\d*$")
_MOST_KNOWN = 4096
_LONGEST = 128

SECRET, OF_CREDENTIAL = 1, 2
"""The value beside the name is a credential; or an object about one, of which some is no secret."""
VALUE, LABEL, PATH = 4, 8, 16
"""In an object of a label, or of a path, and a value, the label tells what the value is."""


def _plain(name: str) -> str:
    return name.lower().removeprefix(_CONTEXT).translate(_SEPARATORS).rstrip(_DIGITS)


def _meaning(name: str) -> int:
    if len(name) > _LONGEST:
        name = name[-_LONGEST:]
    plain = _plain(name)
    if plain in {"credential", "credentials"}:
        return OF_CREDENTIAL
    if (
        plain in _NAMES
        or plain.endswith(_ENDS)
        or (any(part in plain for part in _PARTS) and not plain.endswith(_NOT_AT_END))
        or _SEPARATE_PASS.search(name) is not None
    ):
        return SECRET
    if plain == "path":
        return PATH
    if plain in _LABELS or plain.endswith(("name", "key")):
        return LABEL
    return VALUE if plain in _VALUES or plain.endswith("value") else 0


meaning_of = Remembered(_meaning, _MOST_KNOWN, _LONGEST).__getitem__
"""Return what a name says."""


def is_secret(name: str) -> bool:
    """Tell whether what has this name is a credential."""
    return meaning_of(name) in {SECRET, OF_CREDENTIAL}


def names_a_secret(label: str, meaning: int) -> bool:
    """Tell whether a label, or a path into a document, names a credential.

    :param meaning: ``LABEL`` or ``PATH``.
    """
    if meaning == LABEL:
        return is_secret(label)
    return any(is_secret(part) for part in label[-1000:].replace("~1", "/").split("/"))


def is_secret_in_a_query(name: str) -> bool:
    """Tell whether a credential stands behind ``name=``, as in the query of a URL."""
    return is_secret(name) or _plain(name) in _IN_QUERIES
