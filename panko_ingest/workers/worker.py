"""What all services of the daemon have in common."""

import cotyledon


class Worker(cotyledon.Service):
    """A service with a place in the daemon, which outlives its processes."""

    name = "worker"

    @classmethod
    def place(cls, worker_id: int) -> str:
        """Return what the metrics call the process that is worker number so and so."""
        return f"{cls.name}-{worker_id}"
