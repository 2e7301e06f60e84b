"""Reading what others write, rewrite and expire at the same time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import exc

from panko_ingest.storage.database import base as databases, error_classes
from panko_ingest.storage.database.base import Database
from panko_ingest.storage.database.retry import run_transaction
from panko_ingest.storage.settings import StorageSettings

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ReadAccess:
    """Runs statements; a reader who gets in the way of others just reads again.

    Every method raises StorageUnavailable when the store can't be used, and StorageError when it refuses
    a value that it was given.
    """

    engine: sa.Engine
    settings: StorageSettings

    @property
    def database(self) -> Database:
        """What is the database's own."""
        return databases.of(self.engine)

    def read(self, work: Callable[[sa.Connection], T]) -> T:
        """Return what ``work`` finds in one transaction; it may be called more than once."""

        def once() -> T:
            with self.engine.connect() as connection:
                return work(connection)

        try:
            return run_transaction(self.settings, once)
        except exc.SQLAlchemyError as error:
            # What is the store's own has become StorageUnavailable in there.
            raise error_classes.refused(error) from error

    def rows(self, statement: sa.Executable) -> Sequence[sa.Row[*tuple[Any, ...]]]:
        """Return all rows of one statement."""
        return self.read(lambda connection: connection.execute(statement).all())

    def values(self, statement: sa.Executable) -> Sequence[Any]:
        """Return the first column of all rows of one statement."""
        return self.read(lambda connection: connection.scalars(statement).all())
