"""Which databases there are: the modules beside this one that are named as URLs begin."""

import functools
import importlib
import importlib.util
from collections.abc import Sequence
from importlib.metadata import entry_points

from panko_ingest.storage.database.base import Database

_PACKAGE = __package__ or ""
_DRIVERS = "panko_ingest.storage"


@functools.cache
def find(name: str) -> Database:
    """Return the database whose module has this name; one of plain SQL alone where there is none."""
    module = f"{_PACKAGE}.{name}"
    if name not in _names() or importlib.util.find_spec(module) is None:
        return Database()
    found: Database = importlib.import_module(module).Database()
    return found


@functools.cache
def databases() -> Sequence[Database]:
    """Return all databases that have a module of their own."""
    return [database for database in map(find, sorted(_names())) if type(database) is not Database]


@functools.cache
def _names() -> frozenset[str]:
    return frozenset(entry_point.name for entry_point in entry_points(group=_DRIVERS))
