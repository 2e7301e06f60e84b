"""What all services of the daemon have in common."""

import cotyledon
from cotyledon.types import WorkerId

from panko_ingest.progress import Board


class Worker(cotyledon.Service):
    """A service with a place in the daemon, which outlives its processes."""

    name = "worker"

    def __init__(self, worker_id: WorkerId, board: Board) -> None:
        super().__init__(worker_id)
        self._board = board
        self._generation = board.generation

    def reload(self) -> None:
        """Make way for a process with the new configuration, if the master found it good."""
        if self._board.generation != self._generation:
            super().reload()

    @classmethod
    def place(cls, worker_id: int) -> str:
        """Return what the metrics call the process that is worker number so and so."""
        return f"{cls.name}-{worker_id}"
