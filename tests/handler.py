"""A stand-in for what takes a consumer's deliveries."""

from collections.abc import Callable, Sequence

from panko_ingest.batch import Batch
from panko_ingest.delivery import Delivery


class Handler:
    """Takes whatever comes, and never gives anything back as settled."""

    def __init__(self) -> None:
        self.allowed = 16

    def call_when_settled(self, wake: Callable[[], None]) -> None:
        pass

    def ready(self) -> bool:
        return True

    def reset(self) -> None:
        pass

    def opened(self, queue: str) -> None:
        pass

    def prefetch(self, queue: str) -> int:
        del queue
        return self.allowed

    def following(self, queue: str, prefetch: int) -> None:
        pass

    def accept(self, delivery: Delivery) -> None:
        pass

    def poll(self, *, eager: bool) -> Sequence[Batch]:
        del eager
        return ()

    def waiting(self) -> bool:
        return False

    def must_give_back(self) -> bool:
        return False

    def probing(self) -> bool:
        return False

    def flush(self) -> bool:
        return True
