"""The published panko package, in an environment of its own, which ``make test-panko`` makes.

``PANKO_INGEST_PANKO_PYTHON`` names a Python (3.8 fits) with what requirements.txt lists.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

PYTHON = os.environ.get("PANKO_INGEST_PANKO_PYTHON", "")
SIDE = Path(__file__).with_name("panko_side.py")

WITH_PANKO = [
    pytest.mark.long,
    pytest.mark.skipif(not PYTHON, reason="PANKO_INGEST_PANKO_PYTHON names no Python with panko in it"),
]


def panko(*arguments: str) -> str:
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "PYTHONPATH": ""}
    answer = subprocess.run(
        [PYTHON, str(SIDE), *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=environment,
    )
    assert answer.returncode == 0, answer.stderr[-2000:]
    return answer.stdout


def url_for_panko(url: str) -> str:
    """Return the URL for the drivers of Panko's days."""
    parsed = sa.make_url(url)
    return parsed.set(drivername=parsed.get_backend_name()).render_as_string(hide_password=False)


def plain(events: Any) -> list[dict[str, Any]]:
    """Return events as JSON has them; traits in one order, since Panko leaves those of one name unordered."""
    documents = json.loads(json.dumps([event.serialize() for event in events], default=str))
    return [ordered(document) for document in documents]


def ordered(document: dict[str, Any]) -> dict[str, Any]:
    return {**document, "traits": sorted(document["traits"])}
