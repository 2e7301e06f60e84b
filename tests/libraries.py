"""Which tests need libraries as new as those of constraints.txt."""

import re
from importlib.metadata import version
from pathlib import Path

import pytest

_CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"


def needs_options_of_today() -> pytest.MarkDecorator:
    """Skip a test of what is made from the options of oslo's libraries, where these are older.

    Options come and go with major versions.
    """
    older = [
        f"{name} {version(name)}, not {newest}"
        for name in ("oslo.config", "oslo.log", "oslo.reports", "oslo.messaging")
        if _major(version(name)) < _major(newest := _constrained(name))
    ]
    return pytest.mark.skipif(bool(older), reason=f"its options are other ones: {', '.join(older)}")


def _constrained(name: str) -> str:
    found = re.search(rf"^{re.escape(name)}==(.*)$", _CONSTRAINTS.read_text(), re.MULTILINE)
    assert found, f"constraints.txt does not name {name}"
    return found[1]


def _major(number: str) -> int:
    return int(number.partition(".")[0])
