"""A pooled connection as the driver's own, for statements that do without SQLAlchemy."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from panko_ingest.storage.database import error_classes
from panko_ingest.storage.database.engine import unusable_if_interrupted
from panko_ingest.storage.database.pooling import BEGINNING


@contextmanager
def driver_connection(engine: sa.Engine) -> Iterator[Any]:
    """Give a pooled connection as the driver's own; one that broke leaves the pool, with its like."""
    with engine.connect() as connection, unusable_if_interrupted(connection):
        driver: Any = connection.connection.driver_connection
        try:
            if beginning := connection.info.get(BEGINNING):
                driver.execute(beginning)
            yield driver
        except Exception as error:
            dialect: Any = engine.dialect
            if isinstance(error, dialect.loaded_dbapi.Error) and (
                error_classes.needs_new_connection(error) or dialect.is_disconnect(error, driver, None)
            ):
                connection.invalidate(error)
                engine.dispose()
            else:
                # The driver may not know that a transaction is open.
                driver.rollback()
            raise
