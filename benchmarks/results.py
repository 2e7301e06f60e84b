"""Results of the suite as JSON files: one for each step while it is measured, one of all beside the pages."""

import dataclasses
import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.rig import Sample

FOLDER = Path("test-results/bench")


@dataclass
class Series:
    """What the rounds of a step found for one thing."""

    samples: list[Sample]

    @property
    def rate(self) -> float:
        """Median of events a second."""
        return statistics.median(sample.rate for sample in self.samples)

    @property
    def lowest(self) -> float:
        """The lowest rate."""
        return min(sample.rate for sample in self.samples)

    @property
    def highest(self) -> float:
        """The highest rate."""
        return max(sample.rate for sample in self.samples)

    def micro(self, party: str | None = None) -> float:
        """Return the median of microseconds of processor an event."""
        return statistics.median(sample.micro(party) for sample in self.samples)

    def median(self, what: str) -> float:
        """Return the median of another figure."""
        return statistics.median(sample.more[what] for sample in self.samples)

    def most(self, what: str) -> float:
        """Return the largest of another figure."""
        return max(sample.more[what] for sample in self.samples)


@dataclass
class Step:
    """A step, with all that its figures need beside them.

    :param key: of the program and the sizes that were measured.
    :param command: that measured it.
    """

    name: str
    key: str
    when: str
    command: str
    revision: str
    machine: dict[str, str]
    versions: dict[str, str]
    settings: dict[str, str]
    sizes: dict[str, float]
    rounds: list[dict[str, Sample]]

    def series(self, name: str) -> Series:
        """Return what all rounds found for one thing."""
        return Series([one[name] for one in self.rounds])

    @property
    def elsewhere(self) -> float:
        """Median share of the cores that was busy with what no party did: other programs, and the kernel."""
        cores = int(self.machine["cores"])
        samples = [sample for one in self.rounds for sample in one.values() if sample.busy]
        shares = (one.busy - sum(one.cpu.values()) / one.wall / cores for one in samples)
        return statistics.median(shares) if samples else 0.0

    def as_json(self) -> dict[str, Any]:
        """Return it as what JSON knows, with no more digits than mean something."""
        found: dict[str, Any] = _rounded(dataclasses.asdict(self))
        return found

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Step":
        """Return the step that was written."""
        rounds = [{name: Sample(**sample) for name, sample in one.items()} for one in found["rounds"]]
        return cls(**{**found, "rounds": rounds})


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list) else value


def key(code: str, sizes: Mapping[str, float]) -> str:
    """Return what must be equal for rounds to belong together."""
    return " ".join([code, *(f"{name}={value:g}" for name, value in sizes.items())])


def save(step: Step) -> None:
    """Keep a step as far as it is."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{step.name}.json"
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(step.as_json(), indent=1) + "\n")
    fresh.replace(path)


def load(name: str) -> Step | None:
    """Return a step that was kept."""
    path = FOLDER / f"{name}.json"
    return Step.from_json(json.loads(path.read_text())) if path.exists() else None


def kept() -> dict[str, Step]:
    """Return all steps that were kept, by name."""
    found = (Step.from_json(json.loads(path.read_text())) for path in sorted(FOLDER.glob("*.json")))
    return {step.name: step for step in found}


def read_all(path: Path) -> dict[str, Step]:
    """Return the steps that a file of all holds; none where there is no file."""
    if not path.exists():
        return {}
    return {name: Step.from_json(found) for name, found in json.loads(path.read_text()).items()}


def write_all(path: Path, steps: Mapping[str, Step]) -> None:
    """Write a file of all."""
    path.write_text(json.dumps({name: step.as_json() for name, step in steps.items()}, indent=1) + "\n")
