"""Which writer serves a database: the one of the module beside this one that is named as its URLs begin."""

import importlib
import importlib.util

import sqlalchemy as sa

from panko_ingest.storage.recording.writers.portable import PortableWriter
from panko_ingest.storage.settings import StorageSettings


def writer_for(connection: sa.Connection, settings: StorageSettings) -> PortableWriter:
    """Return the fastest writer that serves the database behind a connection."""
    module = f"{__package__}.{connection.dialect.name}"
    if importlib.util.find_spec(module) is None:
        return PortableWriter()
    writer: PortableWriter = importlib.import_module(module).writer_for(connection, settings)
    return writer
