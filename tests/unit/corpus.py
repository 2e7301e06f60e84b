"""The corpus of real notifications, which stands beside the repository and is read from there."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

SHARED = Path(__file__).resolve().parents[3] / "shared"
CORPUS = SHARED / "notifications"
DEFINITIONS = CORPUS / "event_definitions.yaml"

needs_corpus = pytest.mark.skipif(
    not CORPUS.is_dir(), reason="the corpus of notifications is not beside the repository"
)


class Sample(NamedTuple):
    """One notification of the corpus: its bytes, and what upstream's converter makes of it."""

    name: str
    body: bytes
    golden: dict[str, Any]


def samples() -> Iterator[Sample]:
    """Yield every notification of the corpus."""
    for path in sorted((CORPUS / "golden").glob("*/*.json")):
        name = str(path.relative_to(CORPUS / "golden"))
        yield Sample(name, (CORPUS / name).read_bytes(), json.loads(path.read_text("utf-8")))
