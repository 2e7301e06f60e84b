"""Whether a queue must have a consumer of ours also while nothing is read of it."""

from panko_ingest.delivery import Delivery

# A delivery limit may be as low.
_COUNTED = 3
# A queue deals out in turn what came back: of more messages, each is held too seldom to be worn out.
# What is remembered of so many takes 250 kB.
_REMEMBERED = 1000


class ConsumerNeed:
    """What is known of that over all sessions.

    A queue may be deleted, with all that it holds, after some time without a consumer. The broker may tell so
    of an argument, and never of a policy. So each queue has a consumer, which holds one message. That costs
    something only where the queue counts towards a limit how often that message comes back. Such a queue is
    left alone as soon as this is found out, unless it is known to expire: better one message is worn out than
    all are deleted.
    """

    def __init__(self) -> None:
        self.expires = False
        """Whether the broker tells that the queue is deleted after some time without a consumer."""
        self.lost_its_consumer = False
        """Whether it went with a connection that the broker ended over another one beside it.

        A queue that is there still does not delete itself, or has readers beside us.
        """
        self._counts = False
        self._held: dict[bytes, tuple[int, int]] = {}

    @property
    def is_there(self) -> bool:
        """Whether the queue must, or may have to, have a consumer."""
        return self.expires or not self._counts

    def note(self, held: Delivery) -> bool:
        """Look at the count of a message that is held; return whether it grew since it was held last.

        One that never grows is its publisher's.
        """
        digest = held.digest()
        returns, failures = self._held.pop(digest, (held.returns, held.failures))
        self._held[digest] = held.returns, held.failures
        if len(self._held) > _REMEMBERED:
            del self._held[next(iter(self._held))]
        if held.failures >= _COUNTED or failures < held.failures:
            self._counts = True
        return returns < held.returns

    def forget(self) -> None:
        """Forget what is known: the queue may be another one when it is found next."""
        self.expires = self.lost_its_consumer = self._counts = False
        self._held.clear()
