"""What tests of the installed project share."""

from pathlib import Path

import pytest

from tests.acceptance.installation import Installation, build


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel and the sdist."""
    return build(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory, distributions: tuple[Path, Path]) -> Installation:
    """A virtual environment into which the wheel is installed, in a folder away from the checkout."""
    return Installation(tmp_path_factory.mktemp("installed"), distributions[0])
