"""What can go wrong in a store, told apart by what the caller does next."""

from panko_ingest.errors import PankoIngestError


class StorageError(PankoIngestError):
    """An event (or a request) that this store will never accept: try something else."""


class InvalidMarker(StorageError):
    """A page was asked for after an event that is not stored."""


class StorageUnavailable(PankoIngestError):
    """The store is away, or refuses for reasons of its own; nothing was committed: keep the data, try later.

    ``operator`` says that no retry helps before somebody acts (schema missing, permission denied).
    """

    def __init__(self, message: str, *, operator: bool = False) -> None:
        super().__init__(message)
        self.operator = operator
