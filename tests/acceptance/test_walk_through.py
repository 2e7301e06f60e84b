"""docs/walk-through.sh, with the installed wheel: it says itself what must be seen."""

from pathlib import Path

import pytest

from tests.acceptance.installation import Installation
from tests.services import PostgreSQL
from tests.services.server import find_program
from tests.walk_through import walk


@pytest.mark.rabbitmq
@pytest.mark.postgresql
@pytest.mark.long
@pytest.mark.timeout(600)
def test_an_operators_first_day_goes_as_the_walk_through_says(
    installed: Installation,
    tmp_path: Path,
    broker_url: str,
    postgresql: PostgreSQL,
    capfd: pytest.CaptureFixture[str],
) -> None:
    find_program("prometheus", "prometheus")
    find_program("curl", "curl")
    (tmp_path / "venv").symlink_to(installed.directory)
    code = walk(tmp_path, "no wheel is needed", broker_url, postgresql)
    shown = capfd.readouterr()
    assert code == 0, shown.out + shown.err
    assert "All was as it should be" in shown.out
