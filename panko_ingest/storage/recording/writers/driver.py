"""A pooled connection as the driver's own, for statements that do without SQLAlchemy."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from panko_ingest.storage.database import error_classes


@contextmanager
def driver_connection(connection: sa.Connection) -> Iterator[Any]:
    """Give a pooled connection as the driver's own; one that broke leaves the pool, with its like."""
    driver: Any = connection.connection.driver_connection
    try:
        yield driver
    except Exception as error:
        dialect: Any = connection.dialect
        if isinstance(error, dialect.loaded_dbapi.Error) and (
            error_classes.needs_new_connection(error) or dialect.is_disconnect(error, driver, None)
        ):
            connection.invalidate(error)
            connection.engine.dispose()
        else:
            # The driver may not know that a transaction is open.
            driver.rollback()
        raise
