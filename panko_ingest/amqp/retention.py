"""Whether a queue must have a consumer of ours also while the store is away."""

from panko_ingest.delivery import Delivery

# A delivery limit may be as low.
_COUNTED = 3


class Retention:
    """What is known of that over all sessions.

    A queue may be deleted, with all that it holds, after some time without a consumer. The broker may tell so
    of an argument, and never of a policy. So each queue has a consumer, which holds one message. That costs
    nothing but where the queue counts towards a limit how often that message comes back: it is left alone as
    soon as this is found out, unless it is known to expire, for rather one is worn out than all are deleted.
    """

    def __init__(self) -> None:
        self.expires = False
        """Whether the broker tells that the queue is deleted after some time without a consumer."""
        self._counts = False
        self._held = (b"", 0, 0)

    @property
    def needs_consumer(self) -> bool:
        """Whether the queue must, or may have to, have a consumer."""
        return self.expires or not self._counts

    def note(self, held: Delivery) -> bool:
        """Look at the count of a message that is held; return whether it grew since it was held last.

        One that never grows is its publisher's.
        """
        (digest, returns, failures), self._held = self._held, (held.digest(), held.returns, held.failures)
        is_the_same = digest == self._held[0]
        if held.failures >= _COUNTED or (is_the_same and failures < held.failures):
            self._counts = True
        return is_the_same and returns < held.returns

    def forget(self) -> None:
        """Forget what is known: the queue may be another one when it is found next."""
        self.expires = self._counts = False
        self._held = (b"", 0, 0)
