"""One thing measured over another: each ratio is of one round, and the median of all rounds counts."""

import statistics
from collections.abc import Callable

from benchmarks import parts
from benchmarks.results import Step
from benchmarks.rig import Sample


def best(step: Step) -> float:
    """Return the median of what the cores could do."""
    return statistics.median(parts.best(one, int(step.machine["cores"])) for one in step.rounds)


def share(step: Step, name: str) -> float:
    """Return a rate over the best."""
    cores = int(step.machine["cores"])
    return statistics.median(one[name].rate / parts.best(one, cores) for one in step.rounds)


def rate(step: Step, name: str, other: str) -> float:
    """Return one rate over another."""
    return _ratio(step, name, other, lambda sample: sample.rate)


def more(step: Step, figure: str, name: str, other: str) -> float:
    """Return another figure of one thing over that of another."""
    return _ratio(step, name, other, lambda sample: sample.more[figure])


def _ratio(step: Step, name: str, other: str, figure: Callable[[Sample], float]) -> float:
    return statistics.median(figure(one[name]) / figure(one[other]) for one in step.rounds)
