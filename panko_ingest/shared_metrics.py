"""The metrics of all processes of one daemon, in memory that they share.

The master makes the memory before it forks. Each place in the daemon (``ingester-0``) has a part of its
own and is the only one to write there: a worker that is started again goes on with the counters of the
one before it. No file is needed, so neither a full disk nor a folder that somebody cleans away matters.
"""

import itertools
import json
import math
import mmap
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from prometheus_client import generate_latest, values
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

from panko_ingest import guarded_log
from panko_ingest.metrics import Metrics
from panko_ingest.shared_state import MAX_WORKERS, SERVICES

LOG = guarded_log.logger_about_messages(__name__)

_PART = 256 * 1024
_PARTS = len(SERVICES) + MAX_WORKERS
_WORD = 8
"""Bytes of a length or a value, each at a multiple of as many: so none is ever read half written."""
_HEADER = mmap.PAGESIZE * -(-_PARTS * _WORD // mmap.PAGESIZE)
_MAP_NORESERVE = 0x4000
_NOT_THERE = math.nan
_SALVAGED = "panko_ingest_traits_salvaged_total"

_Labels = tuple[tuple[str, str], ...]


class _Key(NamedTuple):
    """What a value is; ``mode`` is how the processes' values of a gauge add up."""

    mode: str
    name: str
    labels: _Labels


class _Part:
    """One process' part: record after record of key and value. How much is used stands in the header."""

    def __init__(self, memory: mmap.mmap, index: int) -> None:
        self._memory = memory
        # One store each. struct.pack_into() writes zeros first, which others would read, and who is killed
        # right then leave behind.
        self._lengths = memoryview(memory).cast("Q")
        self._values = memoryview(memory).cast("d")
        self._index = index
        self._start = _HEADER + index * _PART

    def records(self) -> Iterator[tuple[bytes, int]]:
        """Yield each key with where its value is."""
        at = self._start
        end = at + self._used
        while at < end:
            length = self._lengths[at // _WORD]
            at += _WORD
            value_at = at + length + -length % _WORD
            yield self._memory[at : at + length], value_at
            at = value_at + _WORD

    def add(self, key: bytes) -> int | None:
        """Return where the value of a new key is, which is 0; None where there is no room for it."""
        at = self._start + self._used
        key_at = at + _WORD
        value_at = key_at + len(key) + -len(key) % _WORD
        end = value_at + _WORD
        if end > self._start + _PART:
            return None
        self._lengths[at // _WORD] = len(key)
        self._memory[key_at : key_at + len(key)] = key
        self.write(value_at, 0.0)
        # Last, so that nobody reads half a record.
        self._lengths[self._index] = end - self._start
        return value_at

    def read(self, at: int) -> float:
        """Return the value there."""
        return self._values[at // _WORD]

    def write(self, at: int, value: float) -> None:
        """Change the value there."""
        self._values[at // _WORD] = value

    @property
    def _used(self) -> int:
        return self._lengths[self._index]


class SharedMetrics:
    """Memory for the metrics of every process that there can be; what nobody touches costs nothing."""

    def __init__(self) -> None:
        self._declared = Metrics().declared
        self._memory = mmap.mmap(
            -1,
            _HEADER + _PARTS * _PART,
            flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | _MAP_NORESERVE,
        )
        self._keys: dict[bytes, _Key] = {}
        self._buses: frozenset[str] | None = None

    def show_only(self, buses: Iterable[str]) -> None:
        """Leave gauges of other buses out of what this process collects: a reload took those away."""
        self._buses = frozenset(buses)

    def join(self, place: str) -> Metrics:
        """Return the metrics of this process, which from now on are kept in the part of its place.

        :param place: such as ``ingester-0``; no other living process may have it.
        """
        self.forget(place)
        # prometheus_client asks this name for each value that it makes.
        values.ValueClass = _value_class(self._part(place))
        metrics = Metrics()
        for key, _ in self._part(place).records():
            _, name, labels = self._parse(key)
            if name == _SALVAGED and (names := dict(labels))["event_type"]:
                metrics.note_salvaged((names["event_type"], names["trait"]))
        return metrics

    def forget(self, place: str) -> None:
        """Drop the gauges of a process that is no more; its counters stay.

        Those of a queue or an exchange are gone, not 0, which would say that it is well: the process in this
        place may read others.
        """
        part = self._part(place)
        for key, at in part.records():
            mode, _, labels = self._parse(key)
            if mode.startswith("live"):
                part.write(at, _NOT_THERE if "name" in dict(labels) else 0.0)

    def exposition(self) -> bytes:
        """Return the metrics of all processes in Prometheus' text format."""
        return generate_latest(self)

    def collect(self, place: str | None = None) -> Iterator[Metric]:
        """Yield every metric with what its values in all processes, or in one, add up to."""
        found = self._add_up(range(_PARTS) if place is None else [_number(place)])
        for name, kind, label_names, meaning in self._declared:
            metric = Metric(name.removesuffix("_total") if kind == "counter" else name, meaning, kind)
            samples = found.get(name, {})
            if kind == "gauge" and "bus" in label_names:
                samples = self._of_buses(samples)
            if kind == "histogram":
                metric.samples = list(_histogram(name, found))
            else:
                metric.samples = [Sample(name, dict(labels), value) for labels, value in samples.items()]
            yield metric

    def _of_buses(self, samples: dict[_Labels, float]) -> dict[_Labels, float]:
        shown = self._buses
        if shown is None:
            return samples
        return {labels: value for labels, value in samples.items() if dict(labels)["bus"] in shown}

    def totals(self, place: str | None = None) -> "Totals":
        """Return what the metrics of all processes, or of one, add up to."""
        samples: dict[str, dict[tuple[str, ...], float]] = {}
        for metric in self.collect(place):
            for sample in metric.samples:
                if "le" not in sample.labels:
                    labels = tuple(sample.labels.values())
                    samples.setdefault(sample.name.removeprefix("panko_ingest_"), {})[labels] = sample.value
        return Totals(samples)

    def _part(self, place: str) -> _Part:
        return _Part(self._memory, _number(place))

    def _parse(self, key: bytes) -> _Key:
        if key not in self._keys:
            mode, name, label_names, label_values = json.loads(key)
            self._keys[key] = _Key(mode, name, tuple(zip(label_names, label_values, strict=True)))
        return self._keys[key]

    def _add_up(self, parts: Iterable[int]) -> dict[str, dict[_Labels, float]]:
        found: dict[str, dict[_Labels, float]] = {}
        for index in parts:
            part = _Part(self._memory, index)
            for key, at in part.records():
                mode, name, labels = self._parse(key)
                samples, value = found.setdefault(name, {}), part.read(at)
                if math.isnan(value):
                    continue
                before = samples.get(labels, 0.0)
                samples[labels] = max(before, value) if mode.endswith("max") else before + value
        return found


def _number(place: str) -> int:
    kind, _, number = place.partition("-")
    return SERVICES.index(kind) if kind in SERVICES else len(SERVICES) + int(number)


def _histogram(name: str, found: Mapping[str, Mapping[_Labels, float]]) -> Iterator[Sample]:
    """Yield the samples of a histogram; values count one bucket each, samples all up to it."""
    buckets = found.get(f"{name}_bucket", {})
    bounds = sorted(buckets, key=lambda labels: float(labels[-1][1]))
    counts = list(itertools.accumulate(buckets[labels] for labels in bounds))
    for labels, count in zip(bounds, counts, strict=True):
        yield Sample(f"{name}_bucket", dict(labels), count)
    if counts:
        yield Sample(f"{name}_count", {}, counts[-1])
        yield Sample(f"{name}_sum", {}, found[f"{name}_sum"][()])


def _value_class(part: _Part) -> type:
    """Return a class of values as prometheus_client wants it, which are kept in one part."""
    offsets = dict(part.records())
    lock = threading.Lock()

    class SharedValue:
        _multiprocess = True

        def __init__(
            self,
            _kind: str,
            _metric: str,
            name: str,
            labelnames: Sequence[str],
            labelvalues: Sequence[str],
            _help: str,
            multiprocess_mode: str = "",
            **_: object,
        ) -> None:
            key = json.dumps([multiprocess_mode, name, list(labelnames), list(labelvalues)]).encode()
            with lock:
                if key not in offsets and (added := part.add(key)) is not None:
                    offsets[key] = added
            self._at = offsets.get(key)
            if self._at is None:
                LOG.warning("No room for one more metric: %s %s is not shown", name, list(labelvalues))
            self._value = part.read(self._at) if self._at is not None else 0.0

        def inc(self, amount: float) -> None:
            with lock:
                self._write(self._value + amount)

        def set(self, value: float, _timestamp: float | None = None) -> None:
            with lock:
                self._write(value)

        def get(self) -> float:
            return self._value

        def set_exemplar(self, exemplar: object) -> None:
            """Nobody here gives one."""

        def get_exemplar(self) -> None:
            return None

        def _write(self, value: float) -> None:
            self._value = value
            if self._at is not None:
                part.write(self._at, value)

    return SharedValue


class Totals:
    """The values of all metrics at one moment, by name without the prefix; buckets are left out."""

    def __init__(self, samples: Mapping[str, Mapping[tuple[str, ...], float]]) -> None:
        self._samples = samples

    def __getitem__(self, name: str) -> float:
        """The sum over all labels; 0 for what was never written."""
        return sum(self._samples.get(name, {}).values())

    def by_label(self, name: str) -> dict[str, float]:
        """Return the values of a metric with one label, by that label."""
        return {labels[0]: value for labels, value in self.by_labels(name)}

    def by_labels(self, name: str) -> Iterator[tuple[tuple[str, ...], float]]:
        """Yield value after value of a metric, with all its labels."""
        yield from sorted(self._samples.get(name, {}).items())

    def absent_queues(self) -> list[tuple[str, str]]:
        """Return the bus and the name of each queue that some worker waits for."""
        return [(bus, name) for (bus, name), workers in self.by_labels("absent_queues") if workers]

    def largest(self, name: str) -> float:
        """The largest over all labels; 0 for what was never written."""
        return max(self._samples.get(name, {}).values(), default=0.0)
