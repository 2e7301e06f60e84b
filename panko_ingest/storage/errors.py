"""What can go wrong in a store, told apart by what the caller does next."""

import enum

from panko_ingest.errors import PankoIngestError


class StorageError(PankoIngestError):
    """An event (or a request) that this store will never accept: try something else."""


class InvalidRequest(StorageError, ValueError):
    """What the caller asks for makes no sense; the text names the field."""


class MessageIdTaken(StorageError):
    """An event comes with the message_id of another one, which is stored."""


class InvalidMarker(StorageError):
    """A page was asked for after an event that is not stored."""


class StorageUnavailable(PankoIngestError):
    """The store is away, or refuses for reasons of its own; nothing was committed: keep the data, try later.

    ``operator`` says that no retry helps before somebody acts (schema missing, permission denied).
    """

    def __init__(self, message: str, *, operator: bool = False) -> None:
        super().__init__(message)
        self.operator = operator


class ClockDoubted(StorageUnavailable):
    """The time is far beyond all that tells it: what expires by it may be of now."""


class StorageConflict(PankoIngestError):
    """Another transaction is in the way, or a node lags behind: the same one may succeed if run again."""


class ErrorClass(enum.Enum):
    """What to do about an error of a database."""

    TRANSIENT = "the same transaction may succeed when it is run again"
    AWAY = "the server or the connection to it is gone, or it has no room: keep the data"
    OPERATOR = "no retry helps before somebody acts: keep the data and say so"
    PERMANENT = "this data will never be accepted"
