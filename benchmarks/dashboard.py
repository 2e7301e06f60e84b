"""Draws the dashboard from what Prometheus says of a real run with an outage in it: ``make docs-pictures``.

Servers of its own; notifications all the while, a few of them duplicates or no notifications at all. After
a while the database is stopped for long enough to raise its alert, then started again.
"""

import argparse
import contextlib
import datetime
import json
import math
import random
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from benchmarks.make_load import lines
from panko_ingest.storage.impl_sqlalchemy import Connection
from tests.bus import Bus
from tests.daemon import Daemon, configuration
from tests.prometheus import DASHBOARD, Prometheus
from tests.services import PostgreSQL, RabbitMQ
from tests.services.server import free_port
from tests.waiting import wait_until

_RATE = 50
_TICK = 0.25
_RATE_INTERVAL = "10s"
_COLUMNS = 3
_UNITS = {"cps": "a second", "s": "seconds", "bytes": "MB", "short": ""}
_LABEL = re.compile(r"\{\{(\w+)\}\}")
_COLOURS = ("#3366aa", "#ee7733", "#228855", "#aa3377", "#777777", "#66ccee")


class Times(NamedTuple):
    """When a run began and ended, and when the database was away, as Unix times; notifications a second."""

    rate: float
    start: float
    away: float
    back: float
    end: float
    alert: float | None


@dataclass
class Publisher:
    """Publishes what services do, at about one rate, with a wave and some noise in it."""

    bus: Bus
    start: float
    published: int = 0

    def until(self, end: float) -> None:
        """Publish until a Unix time."""
        while (now := time.time()) < end:
            wanted = _wave(now - self.start)
            bodies = [line.encode() for line in lines(wanted, self.published + 1, _utc(now), 0.0)]
            if random.random() < 0.1:
                bodies.append(bodies[0])
            if random.random() < 0.1:
                bodies.append(b"{no notification " + str(self.published).encode())
            self.published += self.bus.publish(bodies)
            time.sleep(max(0.0, now + _TICK - time.time()))


def main() -> int:
    """Run and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", type=Path, help="the PNG file to write")
    parser.add_argument("--steady", type=float, default=75, help="seconds before and after the outage")
    parser.add_argument("--outage", type=float, default=150, help="seconds that the database is away")
    arguments = parser.parse_args()
    panels = json.loads(DASHBOARD.read_text())["panels"]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        Path(folder).chmod(0o755)
        broker, database = stack.enter_context(RabbitMQ()), stack.enter_context(PostgreSQL())
        port = free_port()
        more = f"event_time_to_live = 30d\n[monitor]\nport = {port}\n[notification]\nworkers = 2\n"
        more = f"[database]\n{more}[expirer]\ninterval = 15\ndead_letter_time_to_live = 45\n"
        url = database.create_database()
        with contextlib.closing(Connection(url)) as connection:
            connection.upgrade()
        conf = configuration(Path(folder), broker.url, url, more)
        prometheus = Prometheus(Path(folder), f"127.0.0.1:{port}")
        stack.callback(prometheus.close)
        bus = stack.enter_context(Bus(broker.url))
        bus.declare()
        daemon = stack.enter_context(Daemon(conf).running())
        daemon.wait_until_ready(120)
        wait_until(lambda: prometheus.result("panko_ingest_readers_consuming == 2"), 60, "a first scrape")
        times = _run(bus, database, prometheus, arguments.steady, arguments.outage)
        figures = {
            target["expr"]: prometheus.over(_query(target["expr"]), times.start, times.end)
            for panel in panels
            for target in panel["targets"]
        }
    draw(panels, figures, times, arguments.picture)
    sys.stdout.write(f"{arguments.picture}: {arguments.picture.stat().st_size // 1024} KiB\n")
    return 0


def _run(bus: Bus, database: PostgreSQL, prometheus: Prometheus, steady: float, outage: float) -> Times:
    """Publish, with the database away in the middle."""
    publisher = Publisher(bus, time.time())
    publisher.until(time.time() + 15)  # rates need a past
    start, published = time.time(), publisher.published
    publisher.until(start + steady)
    database.stop()
    away = time.time()
    publisher.until(away + outage)
    database.start()
    back = time.time()
    publisher.until(back + steady)
    end = time.time()
    fired = prometheus.over('ALERTS{alertname="PankoIngestDatabaseAway", alertstate="firing"}', start, end)
    alert = float(fired[0]["values"][0][0]) if fired else None
    return Times((publisher.published - published) / (end - start), start, away, back, end, alert)


def _wave(seconds: float) -> int:
    return max(1, round(_RATE * _TICK * (1 + 0.2 * math.sin(seconds / 9)) * random.uniform(0.85, 1.15)))


def _utc(now: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(now, datetime.UTC).replace(tzinfo=None)


def _query(expression: str) -> str:
    return expression.replace("$instance", ".*").replace("$__rate_interval", _RATE_INTERVAL)


def draw(panels: list[Any], figures: dict[str, list[Any]], times: Times, picture: Path) -> None:
    """Draw all panels into a PNG file."""
    mpl.use("Agg")
    pyplot.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    rows = math.ceil(len(panels) / _COLUMNS)
    figure, grid = pyplot.subplots(rows, _COLUMNS, figsize=(15, 2.9 * rows), layout="constrained")
    for axes, panel in zip(grid.flat, panels, strict=False):
        _draw_panel(axes, panel, figures, times)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    figure.suptitle(
        f"The database is away for {times.back - times.away:.0f} s (shaded)"
        + (", the dashed line is where its alert fires" if times.alert else "")
        + f"; about {times.rate:.0f} notifications a second are published all the while",
        fontsize=12,
    )
    figure.supxlabel("seconds since the start", fontsize=10)
    figure.savefig(picture, dpi=80, metadata={"Software": None})
    pyplot.close(figure)


def _draw_panel(axes: Axes, panel: Any, figures: dict[str, list[Any]], times: Times) -> None:
    unit = panel["fieldConfig"]["defaults"].get("unit", "short")
    scale = 1e6 if unit == "bytes" else 1.0
    colours = iter(_COLOURS * 3)
    for name, values in _series(panel, figures):
        shown = [(moment - times.start, value / scale) for moment, value in values]
        axes.plot(*zip(*shown, strict=True), label=name or None, color=next(colours), linewidth=1.4)
    axes.axvspan(times.away - times.start, times.back - times.start, color="#cc3311", alpha=0.12, linewidth=0)
    if times.alert:
        axes.axvline(times.alert - times.start, color="#cc3311", linestyle="--", linewidth=1)
    axes.set_title(panel["title"] + (f" ({_UNITS[unit]})" if _UNITS[unit] else ""), loc="left", fontsize=10)
    axes.set_xlim(0, times.end - times.start)
    axes.set_ylim(0, max(1.0, axes.get_ylim()[1]) if unit == "short" else None)
    axes.grid(visible=True, color="#dddddd", linewidth=0.6)
    if unit == "short":
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=7.5, loc="best", framealpha=0.8, borderpad=0.3, labelspacing=0.3)


def _series(panel: Any, figures: dict[str, list[Any]]) -> Iterator[tuple[str, list[Any]]]:
    """Yield name and values of what a panel shows; of what there are many, those that are not always 0."""
    found = []
    for target in panel["targets"]:
        for series in figures[target["expr"]]:
            values = [(moment, float(value)) for moment, value in series["values"]]
            found.append((_name(target["legendFormat"], series["metric"]), values))
    many = len(found) > len(_COLOURS) - 2
    yield from ((name, values) for name, values in found if not many or any(v for _, v in values))


def _name(legend: str, metric: dict[str, str]) -> str:
    """Return the name of a series; there is one instance and one bus, which need no name."""
    metric = {**metric, "instance": "", "bus": "the bus" if legend.endswith("to {{bus}}") else ""}
    words = _LABEL.sub(lambda label: metric.get(label[1], ""), legend).split()
    return " ".join(words)


if __name__ == "__main__":
    sys.exit(main())
