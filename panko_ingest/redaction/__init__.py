"""Credentials that publishers leave in notifications, kept out of all that is stored or logged.

What is hidden is told by the name that stands beside it, in contexts, payloads, headers and text alike.
A value becomes ``***``, and so do the passwords and signatures in URLs, and private keys; true, false,
null and what is empty stay.
"""

from panko_ingest.redaction.bodies import NotText, redact_body
from panko_ingest.redaction.documents import redact
from panko_ingest.redaction.names import is_secret
from panko_ingest.redaction.steps import TooMuchText
from panko_ingest.redaction.text import overwrite

__all__ = ["NotText", "TooMuchText", "is_secret", "overwrite", "redact", "redact_body"]
