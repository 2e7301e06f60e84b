"""A cloud that publishes, the daemon, and a database; what a test breaks it names, and all is counted."""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import sqlalchemy

from panko_ingest.storage import StorageUnavailable
from tests.bus import Bus
from tests.daemon import COMMAND, Daemon, configuration
from tests.faults.feed import Feed
from tests.faults.repeats import Repeats
from tests.ledger import Ledger, load
from tests.waiting import wait_until

RESULTS = Path(__file__).parents[2] / "test-results" / "faults.jsonl"
RATE = 300.0
# Making a body takes longer than moving one.
DIFFERENT = 3_000
MOST = 500_000

_bodies: list[bytes] = []


def bodies(count: int) -> list[bytes]:
    """Return so many bodies of the standard load, made once a process."""
    if len(_bodies) < count:
        _bodies[:] = load(count, seed=7)
    return _bodies[:count]


class Scene:
    """One run of the daemon under load, from before the fault until all is accounted for.

    :param broker_url: where the cloud publishes.
    :param database_url: where the results are looked at.
    :param through: the two URLs that the daemon uses, where a proxy is in between.
    :param more: configuration of the daemon beyond the URLs.
    :param may_fail: whether the test makes the daemon fail in a way that it can't foresee.
    :param load: what to publish; by default the standard load, again and again.
    :param look_every: seconds between two looks into the database while something is waited for.
    :param patience: seconds within which a fault must be over.
    """

    def __init__(
        self,
        folder: Path,
        broker_url: str,
        database_url: str,
        *,
        through: tuple[str, str] | None = None,
        publish_to: Sequence[str] = (),
        more: str = "",
        workers: int = 2,
        rate: float = RATE,
        quorum: bool = False,
        environment: dict[str, str] | None = None,
        command: Sequence[str | Path] = COMMAND,
        may_fail: bool = False,
        load: Sequence[bytes] | None = None,
        look_every: float = 0.05,
        patience: float = 90.0,
    ) -> None:
        self.workers = workers
        self.dead = 0
        """How many dead letters there are to be at the end."""
        self._may_fail = may_fail
        self._look_every = look_every
        self._patience = patience
        self.broker_url = broker_url
        self.quorum = quorum
        self.ledger = Ledger(database_url)
        broker, database = through or (broker_url, database_url)
        notification = f"[notification]\nworkers = {workers}\n"
        if "[notification]\n" in more:
            more = more.replace("[notification]\n", notification)
        else:
            more += notification
        conf = configuration(folder, broker, database, more)
        self.daemon = Daemon(conf, "--only", "ingester", command=command, environment=environment)
        self.feed = Feed(
            publish_to or [broker_url], load or Repeats(bodies(DIFFERENT), MOST), rate, quorum=quorum
        )
        self._faults: list[tuple[str, float]] = []

    @contextlib.contextmanager
    def running(self) -> Iterator["Scene"]:
        """Publish and ingest for a ``with`` block; its end stops both, and counts."""
        with contextlib.closing(self.ledger), self.daemon.running(), self.feed:
            self.daemon.wait_until_ready(60)
            self.wait_for_more(100)
            yield self
            self.settle()

    @contextlib.contextmanager
    def fault(self, name: str, meanwhile: Callable[[], object] = lambda: None) -> Iterator[None]:
        """Break something and mend it in a ``with`` block; then wait until events are stored again.

        :param meanwhile: called now and then while that is waited for.
        """
        yield
        mended = time.monotonic()
        self.wait_for_more(1, meanwhile)
        self._faults.append((name, time.monotonic() - mended))

    def wait_for_readers(self, count: int) -> None:
        """Wait until so many workers consume."""
        with Bus(self.broker_url) as bus:
            self.wait_for(lambda: bus.consumers() >= count, 60, f"{count} consumers")

    def stored(self) -> int:
        """Return how many events are stored, or -1 where the database does not say."""
        try:
            return self.ledger.events()
        except (sqlalchemy.exc.SQLAlchemyError, StorageUnavailable, OSError):
            return -1

    def wait_for_more(self, count: int, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Wait until so many more events are stored than now."""

        def stored() -> int:
            meanwhile()
            return self.stored()

        before = wait_until(lambda: stored() + 1, 60, "an answer of the database") - 1
        self.wait_for(
            lambda: stored() >= before + count, self._patience, f"{count} more events than {before}"
        )

    def wait_for(self, condition: Callable[[], object], timeout: float, what: str) -> None:
        """Wait for a condition; the log of the daemon is in the error."""
        try:
            wait_until(condition, timeout, what, self._look_every)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.daemon.log[-4000:]}") from None

    def settle(self) -> None:
        """Stop publishing; assert that each message ends as one event or as poison, and the daemon well."""
        # What the last fault gave back to the queue is before what comes now: once this is stored, none of
        # it waits for a worker that does not read yet.
        confirmed = self.feed.confirmed
        self.wait_for(lambda: self.feed.published_since(confirmed), 60, "more messages to be confirmed")
        published = self.feed.stop()
        self.wait_for(
            lambda: self.stored() >= len(published), 120 + self._patience, f"{len(published)} events"
        )
        self.wait_for(lambda: self.ledger.dead_letters() >= self.dead, 30, f"{self.dead} dead letters")
        assert self.daemon.stop() == 0, self.daemon.log[-4000:]
        whole_log = self.daemon.log_path.read_text(errors="replace")
        assert self._may_fail == ("Traceback" in whole_log), "something happened that nobody foresaw"
        self.assert_counts(published)

    def assert_counts(self, published: Sequence[bytes]) -> None:
        """Assert that nothing is lost, doubled or left, and note the result down."""
        dead = self.dead
        with Bus(self.broker_url) as bus:
            # A quorum queue takes a moment to count what was acknowledged.
            wait_until(lambda: bus.count() == 0, 20 if self.quorum else 0, "an empty queue")
        self.assert_holds(published)
        assert self.ledger.dead_letters() == dead
        for name, seconds in self._faults:
            record(name, seconds, len(published) + dead, self.ledger.events(), dead)

    def assert_holds(self, published: Sequence[bytes]) -> None:
        """Assert that the database holds what was published, each message once and whole."""
        self.ledger.assert_holds(published)


def record(fault: str, seconds: float, published: int, events: int, dead: int) -> None:
    """Note down what a fault did, for docs/faults.md."""
    RESULTS.parent.mkdir(exist_ok=True)
    row = {"fault": fault, "recovery": round(seconds, 1), "published": published, "events": events}
    line = json.dumps({**row, "dead_letters": dead}) + "\n"
    descriptor = os.open(RESULTS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    with os.fdopen(descriptor, "a") as file:
        file.write(line)
