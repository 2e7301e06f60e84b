"""docs/compatibility.md shows what the runs of the tests noted down."""

import json
import re
import tomllib
from pathlib import Path

from packaging.version import Version

from tests.compatibility import PAGE, RESULTS, page
from tests.floors import floors

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_the_page_is_made_from_what_the_runs_noted_down() -> None:
    assert PAGE.read_text() == page(json.loads(RESULTS.read_text())), "run `python -m tests.compatibility`"


def test_the_run_with_the_lowest_versions_had_the_lowest_that_are_accepted() -> None:
    libraries = json.loads(RESULTS.read_text())["floors"]["libraries"]
    ran = {re.sub(r"[-_.]+", "-", name).lower(): Version(number) for name, number in libraries.items()}
    accepted = {
        re.sub(r"[-_.]+", "-", name).lower(): Version(number) for name, number in floors(PYPROJECT).items()
    }
    required = tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"]
    assert len(required) <= len(ran)
    assert {name: accepted[name] for name in ran} == ran
