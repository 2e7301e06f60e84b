"""The files through which the processes of one daemon share their metrics.

Each process writes files of its own, named after its place in the daemon (``ingester-0``) and not
after its pid: a worker that is started again goes on with the counters of the one before it, and
there are never more files than places.
"""

import glob
import os
import shutil
import struct
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from prometheus_client import CollectorRegistry, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from panko_ingest.metrics import Metrics

_FOLDER = "metrics"
_MOMENT = 0.01
_LOOKS = 100

T = TypeVar("T")


class MetricFiles:
    """A folder of metric files, made empty by the master before it forks.

    :param runtime_directory: where to make it, such as systemd's ``RUNTIME_DIRECTORY``; a temporary
        folder by default. Only its owner may read it.
    """

    def __init__(self, runtime_directory: str | None = None) -> None:
        if runtime_directory:
            self.path = Path(runtime_directory.partition(":")[0]) / _FOLDER
            shutil.rmtree(self.path, ignore_errors=True)
            self.path.mkdir(mode=0o700)
        else:
            self.path = Path(tempfile.mkdtemp(prefix="panko-ingest-"))

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.path, ignore_errors=True)

    def join(self, place: str) -> Metrics:
        """Return the metrics of this process, which from now on are written to the files of its place.

        :param place: such as ``ingester-0``; no other living process may have it.
        """
        self.forget(place)
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(self.path)
        # prometheus_client decides at import whether it writes files, and would name them by pid.
        values.ValueClass = values.MultiProcessValue(lambda: place)  # type: ignore[no-untyped-call]
        return Metrics()

    def forget(self, place: str) -> None:
        """Drop the gauges of a process that is no more; its counters stay."""
        for path in self.path.glob(f"gauge_live*_{glob.escape(place)}.db"):
            path.unlink(missing_ok=True)

    def exposition(self) -> bytes:
        """Return the metrics of all processes in Prometheus' text format."""
        return self._read(generate_latest)

    def totals(self) -> "Totals":
        """Return what the metrics of all processes add up to."""
        samples: dict[str, dict[tuple[str, ...], float]] = {}
        for metric in self._read(lambda registry: list(registry.collect())):
            for sample in metric.samples:
                if "le" not in sample.labels:
                    labels = tuple(sample.labels.values())
                    samples.setdefault(sample.name.removeprefix("panko_ingest_"), {})[labels] = sample.value
        return Totals(samples)

    def _read(self, look: Callable[[Collector], T]) -> T:
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=str(self.path))  # type: ignore[no-untyped-call]
        for _ in range(_LOOKS):
            try:
                return look(registry)
            except struct.error:  # a process is just making a file, which is still empty
                time.sleep(_MOMENT)
        # Nobody is: it was killed while it did.
        for path in self.path.glob("*.db"):
            if not path.stat().st_size:
                path.unlink()
        return look(registry)


class Totals:
    """The values of all metrics at one moment, by name without the prefix; buckets are left out."""

    def __init__(self, samples: Mapping[str, Mapping[tuple[str, ...], float]]) -> None:
        self._samples = samples

    def __getitem__(self, name: str) -> float:
        """The sum over all labels; 0 for what was never written."""
        return sum(self._samples.get(name, {}).values())

    def by_label(self, name: str) -> Iterator[tuple[str, float]]:
        """Yield value after value of a metric with one label, with that label."""
        for labels, value in sorted(self._samples.get(name, {}).items()):
            yield labels[0], value

    def largest(self, name: str) -> float:
        """The largest over all labels; 0 for what was never written."""
        return max(self._samples.get(name, {}).values(), default=0.0)
