"""What alembic runs around the revisions; `panko-ingest db sync` and alembic's own command alike."""

from alembic import context
from sqlalchemy import Connection

from panko_ingest import config, config_reader
from panko_ingest.errors import ConfigError
from panko_ingest.storage import tables
from panko_ingest.storage.schema import revisions
from panko_ingest.storage.schema.migration_connection import migrating


def main() -> None:
    """Run on the connection of db sync, else on the database of -x url=... or of our configuration."""
    if context.is_offline_mode():
        raise ConfigError("--sql: these revisions look at the database they change, so it must be there")
    connection = context.config.attributes.get("connection")
    if connection is not None:
        _migrate(connection)
        return
    url = context.get_x_argument(as_dictionary=True).get("url")
    url = url or config.database_url(config_reader.prepare_service([])).url
    with migrating(url) as connection:
        _migrate(connection)


def _migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=tables.Base.metadata,
        version_table=revisions.VERSION_TABLE,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


main()
