"""Reading what others write, rewrite and expire at the same time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import exc

from panko_ingest.storage import faults
from panko_ingest.storage.retry import run_transaction
from panko_ingest.storage.settings import Settings

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reader:
    """Runs statements that change nothing; a reader who gets in the way of others just reads again.

    Every method raises StorageUnavailable when the store can't be read.
    """

    engine: sa.Engine
    settings: Settings

    @property
    def dialect(self) -> str:
        """Name of the kind of database, as SQLAlchemy's."""
        return self.engine.dialect.name

    def read(self, work: Callable[[sa.Connection], T]) -> T:
        """Return what ``work`` finds in one transaction; it may be called more than once."""

        def once() -> T:
            with self.engine.connect() as connection:
                return work(connection)

        try:
            return run_transaction(self.settings, once)
        except exc.SQLAlchemyError as error:
            raise faults.unavailable(error) from error

    def rows(self, statement: sa.Executable) -> Sequence[sa.Row[*tuple[Any, ...]]]:
        """Return all rows of one statement."""
        return self.read(lambda connection: connection.execute(statement).all())

    def values(self, statement: sa.Executable) -> Sequence[Any]:
        """Return the first column of all rows of one statement."""
        return self.read(lambda connection: connection.scalars(statement).all())
