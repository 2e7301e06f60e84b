"""The queries that README and docs print run on the databases that they are printed for."""

import contextlib

import pytest
import sqlalchemy as sa

from panko_ingest import storage
from tests.documents import Block, blocks, statements

QUERIES = blocks("sql", "postgresql", "mariadb")


@pytest.mark.parametrize("block", QUERIES, ids=str)
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ],
)
def test_every_printed_query_runs(request: pytest.FixtureRequest, kind: str, block: Block) -> None:
    url: str = request.getfixturevalue(f"{kind}_url")
    with contextlib.closing(storage.get_connection(url, None)) as store:
        store.upgrade()
    driver = {"postgresql": "postgresql+psycopg", "mariadb": "mysql+pymysql"}[kind]
    engine = sa.create_engine(sa.make_url(url).set(drivername=driver), poolclass=sa.NullPool)
    with engine.connect() as connection:
        for statement in statements(block):
            connection.exec_driver_sql(statement.replace("%", "%%"))
