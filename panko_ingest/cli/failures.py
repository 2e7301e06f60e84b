"""What a command says of an error that nobody foresaw: a line, and no traceback, which ``--debug`` logs."""

import logging

from panko_ingest.errors import PankoIngestError

LOG = logging.getLogger(__name__)


def told(error: Exception) -> tuple[str, bool]:
    """Return what failed and what to do, and whether it is that the database can't be used now."""
    # Commands that need no database don't load what it takes.
    from panko_ingest.storage.database import error_classes  # noqa: PLC0415
    from panko_ingest.storage.errors import ErrorClass  # noqa: PLC0415

    LOG.debug("A command failed", exc_info=error)
    if isinstance(error, PankoIngestError):
        return str(error), False
    if not error_classes.is_a_databases(error):
        where = "run it again with --debug, which logs where, and report that"
        return f"nobody foresaw this: {type(error).__name__}: {error} ({where})", False
    if error_classes.classify(error) is ErrorClass.PERMANENT:
        text = error_classes.describe(error)
        return f"the event database refuses it, by a rule or a trigger: {text}", False
    return str(error_classes.unavailable(error)), True
