"""The walk-throughs of docs/, with the installed wheel: they say themselves what must be seen."""

from pathlib import Path

import pytest

from tests.acceptance.installation import Installation
from tests.services import Galera, HAProxy, PostgreSQL, broker_cluster
from tests.services.server import find_program
from tests.walk_through import walk_alone, walk_cluster


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
    code = walk_alone(tmp_path, "no wheel is needed", broker_url, postgresql)
    shown = capfd.readouterr()
    assert code == 0, shown.out + shown.err
    assert "All was as it should be" in shown.out


@pytest.mark.rabbitmq
@pytest.mark.mariadb
@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_first_day_on_clusters_goes_as_the_walk_through_says(
    installed: Installation, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    find_program("curl", "curl")
    (tmp_path / "venv").symlink_to(installed.directory)
    with broker_cluster() as brokers, Galera() as galera, HAProxy(galera) as proxy:
        code = walk_cluster(tmp_path, "no wheel is needed", galera, proxy, brokers)
    shown = capfd.readouterr()
    assert code == 0, shown.out + shown.err
    assert "All was as it should be" in shown.out
