"""The event database as commands that need one find it: they make none."""

from oslo_config import cfg

from panko_ingest.storage import Connection, StorageUnavailable, get_connection_from_config


def connection_to(conf: cfg.ConfigOpts, *, expires: bool = False) -> Connection:
    """Return a connection to the event database that is configured.

    :param expires: by the expirer's own account, where ``[expirer] connection`` names one.
    :raises ConfigError: its URL can't be used.
    :raises StorageUnavailable: it is in a file that is not there, which connecting would make.
    """
    connection = get_connection_from_config(conf, expires=expires)
    refuse_missing_file(connection)
    return connection


def refuse_missing_file(connection: Connection) -> None:
    """Return if the file that an event database is in is there, or it is in none.

    :raises StorageUnavailable: it is absent.
    """
    if path := connection.missing_file():
        raise StorageUnavailable(
            f"{path} is not there: correct its name in the configuration, or run `panko-ingest db sync`, "
            "which makes it",
            operator=True,
        )
