"""What is aimed at, beside what was measured."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks import ratios
from benchmarks.results import Step

Found = Callable[[Step], float]


@dataclass(frozen=True)
class Aim:
    """A figure of one step that is to be reached.

    :param words: how the figure is written.
    :param most: whether it is to be reached from above.
    """

    title: str
    step: str
    want: float
    words: str
    found: Found
    most: bool = False

    def row(self, steps: Mapping[str, Step]) -> list[str]:
        """Return title, aim, what was measured, the verdict, and the revision that was measured."""
        found = self._measured(steps)
        wanted = f"{'at most' if self.most else 'at least'} {self.words.format(self.want)}"
        if found is None:
            return [self.title, wanted, "(not measured)", "", ""]
        met = found <= self.want if self.most else found >= self.want
        by = abs(found / self.want - 1)
        verdict = "met" if met else f"**missed by {by:.0%}**"
        return [self.title, wanted, self.words.format(found), verdict, steps[self.step].revision]

    def _measured(self, steps: Mapping[str, Step]) -> float | None:
        try:
            return self.found(steps[self.step])
        except KeyError:  # not this step, or not this part of it
            return None


_RATE, _TIMES, _SHARE, _MICRO, _DELAY = "{:,.0f} events/s", "{:.2f} times", "{:.2f}", "{:.0f} µs", "{:.1f} ms"


def _rate(name: str) -> Found:
    return lambda step: step.series(name).rate


def _over(name: str, other: str) -> Found:
    return lambda step: ratios.rate(step, name, other)


def _more(figure: str, name: str, other: str) -> Found:
    return lambda step: ratios.more(step, figure, name, other)


def _of_the_best(step: Step) -> float:
    return ratios.share(step, "workers_2")


def _daemon(step: Step) -> float:
    return step.series("workers_2").micro("ours")


def _by_hand(tables: str) -> Found:
    return lambda step: min(ratios.rate(step, "ours", f"{tables}_{number}") for number in (1, 2))


def _full_store(step: Step) -> float:
    return ratios.rate(step, list(step.rounds[0])[-1], "stored_0")


def _median(name: str, figure: str) -> Found:
    return lambda step: step.series(name).median(figure)


AIMS = (
    Aim("PostgreSQL, to the release before", "postgresql", 1.6, _TIMES, _over("workers_2", "release")),
    Aim("PostgreSQL", "postgresql", 11_000, _RATE, _rate("workers_2")),
    Aim("PostgreSQL, of the best", "postgresql", 0.85, _SHARE, _of_the_best),
    Aim("PostgreSQL, CPU of the daemon an event", "postgresql", 65, _MICRO, _daemon, most=True),
    Aim("PostgreSQL, PSS of a worker to the release before", "postgresql", 1.0, _TIMES,
        _more("pss_bytes", "workers_2", "release"), most=True),
    Aim("partitioned, to the release before", "partitioned", 1.2, _TIMES, _over("workers_2", "release")),
    Aim("partitioned", "partitioned", 12_500, _RATE, _rate("workers_2")),
    Aim("partitioned, of the best", "partitioned", 0.85, _SHARE, _of_the_best),
    Aim("MariaDB, to the release before", "mariadb", 1.15, _TIMES, _over("workers_2", "release")),
    Aim("MariaDB", "mariadb", 7_700, _RATE, _rate("workers_2")),
    Aim("MariaDB, of the best", "mariadb", 0.8, _SHARE, _of_the_best),
    Aim("SQLite, of the best", "sqlite", 0.8, _SHARE, _of_the_best),
    Aim("the script by hand at its best, Panko's tables", "by-hand", 1.3, _TIMES, _by_hand("panko")),
    Aim("the same where it has the same grant", "by-hand", 1.0, _TIMES, _by_hand("granted")),
    Aim("the script by hand at its best, searchable", "by-hand", 1.0, _TIMES, _by_hand("searchable")),
    Aim("the script by hand at its best, bare", "by-hand", 1.0, _TIMES, _by_hand("bare")),
    Aim("the incumbent, as shipped", "incumbent", 75, _TIMES, _over("ours", "shipped")),
    Aim("the incumbent, tuned", "incumbent", 32, _TIMES, _over("ours", "tuned")),
    Aim("a quorum queue, to a classic one", "queues", 1.0, _TIMES, _over("quorum", "classic")),
    Aim("a backlog while 500/s arrive, to a lone one", "backlog", 0.9, _TIMES, _over("arriving", "backlog")),
    Aim("12 buses, to one", "buses", 0.95, _TIMES, _over("buses_12", "buses_1")),
    Aim("12 buses, to one, other programs on each core", "buses", 0.95, _TIMES, _over("busy_12", "busy_1")),
    Aim("12 buses, PSS of a worker to that with one", "buses", 1.25, _TIMES,
        _more("pss_bytes", "buses_12", "buses_1"), most=True),
    Aim("12 buses at 5/s each, p99 to that of one at 60/s", "bus-delays", 1.0, _TIMES,
        _more("p99", "buses_12", "buses_1"), most=True),
    Aim("12 buses at 5/s each, transactions to those of one at 60/s", "bus-delays", 1.0, _TIMES,
        _more("transactions_an_event", "buses_12", "buses_1"), most=True),
    Aim("p50 at 1/s", "latency", 10, _DELAY, _median("rate_1", "p50"), most=True),
    Aim("p50 at 100/s, to the release before", "latency", 1.0, _TIMES,
        _more("p50", "rate_100", "release_100"), most=True),
    Aim("p99 at 100/s, to the release before", "latency", 1.0, _TIMES,
        _more("p99", "rate_100", "release_100"), most=True),
    Aim("a full store, to an empty one", "stored", 0.85, _TIMES, _full_store),
)  # fmt: skip
