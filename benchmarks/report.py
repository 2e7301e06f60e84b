"""Writes docs/performance from results: ``python -m benchmarks.report``.

Every figure of the pages comes from docs/performance/results.json, which holds the newest results of
each step. The text around them is in benchmarks/pages, with the names of figures in double braces.
"""

import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks import figures, incumbent, ratios, results
from benchmarks.aims import AIMS
from benchmarks.buses import MANY
from benchmarks.results import Series, Step

FOLDER = Path("docs/performance")
TEMPLATES = Path(__file__).parent / "pages"
RESULTS = "results.json"
NAMES = {
    "postgresql": "PostgreSQL",
    "partitioned": "PostgreSQL, partitioned",
    "mariadb": "MariaDB",
    "sqlite": "SQLite",
}
OFFERED = (10_000, 100_000, 1_000_000)
"""Events/s that the page on sizing reckons with."""

HEADROOM = 0.7
"""Share of a core that is planned to be busy."""

_MISSING = "(not measured)"
_NAME = re.compile(r"\{\{(\w+)\}\}")
Steps = Mapping[str, Step]


def write(folder: Path = FOLDER) -> None:
    """Write pages, pictures and results."""
    folder.mkdir(parents=True, exist_ok=True)
    steps = results.read_all(folder / RESULTS) | results.kept()
    results.write_all(folder / RESULTS, steps)
    # Rounded as they were written, so that pages made from the file are the same.
    steps = results.read_all(folder / RESULTS)
    draw(folder, steps)
    for name, text in pages(steps).items():
        (folder / name).write_text(text)


def pages(steps: Steps) -> dict[str, str]:
    """Return the text of each page, by its name."""
    values = {name: make(steps) for name, make in VALUES.items()}

    def value(match: re.Match[str]) -> str:
        return values[match[1]]

    return {path.name: _NAME.sub(value, path.read_text()) for path in sorted(TEMPLATES.glob("*.md"))}


def draw(folder: Path, steps: Steps) -> None:
    """Draw the pictures that there are results for."""
    measured = [kind for kind in NAMES if kind in steps]
    if measured:
        figures.rates(folder / "rates.png", {NAMES[kind]: _rates(steps[kind]) for kind in measured})
        figures.shares(folder / "shares.png", {NAMES[kind]: spent(steps[kind]) for kind in measured})
    if "latency" in steps:
        rates = _offered(steps["latency"])
        found = {
            what: [steps["latency"].series(f"rate_{rate}").median(what) for rate in rates]
            for what in ("p50", "p99")
        }
        figures.lines(folder / "latency.png", rates, found, ("events/s offered", "ms"), log=True)
    if "stored" in steps:
        levels = _levels(steps["stored"])
        found = {"events/s": [steps["stored"].series(f"stored_{level}").rate for level in levels]}
        figures.lines(folder / "stored.png", levels, found, ("events stored", "events/s"), log=False)


def spent(step: Step, name: str = "workers_2") -> dict[str, float]:
    """Return where the processor time of an event goes, in microseconds."""
    whole, convert, record = step.series(name), step.series("convert"), step.series("record")
    decode = convert.median("decode_micro")
    rest = whole.micro("ours") - convert.micro("ours") - record.micro("ours")
    return {
        "broker": whole.micro("broker"),
        "daemon: broker client, batches, acks": max(0.0, rest),
        "daemon: decode": decode,
        "daemon: convert": max(0.0, convert.micro("ours") - decode),
        "daemon: client side of the database": record.micro("ours"),
        "database": whole.micro("database"),
    }


def _rates(step: Step) -> dict[str, float]:
    return {
        "best of these cores": ratios.best(step),
        "1 worker": step.series("workers_1").rate,
        "2 workers": step.series("workers_2").rate,
    }


def _median(values: Iterable[float]) -> float:
    found = sorted(values)
    return (found[(len(found) - 1) // 2] + found[len(found) // 2]) / 2


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _spread(series: Series) -> str:
    return f"{series.rate:,.0f} ({series.lowest:,.0f}..{series.highest:,.0f})"


_SMALL = {"p50": 1, "p99": 1, "transactions_an_event": 2}


def _costs(series: Series) -> list[str]:
    return [f"{series.micro(party):.0f}" for party in ("ours", "broker", "database")]


def whole_way(steps: Steps) -> str:
    """Return the table of end-to-end rates."""
    headings = ["", "workers", "events/s", "of the best", "CPU µs an event: daemon", "broker", "database"]
    rows = []
    for kind, title in NAMES.items():
        names = {name: name.removeprefix("workers_") for name in ("workers_1", "workers_2")}
        names["release"] = "2, the release before"
        for name, workers in names.items() if kind in steps else ():
            if name not in steps[kind].rounds[0]:
                continue
            series = steps[kind].series(name)
            costs = _costs(series)
            if kind == "sqlite":
                costs[2] = "in the daemon"
            pss = f"{series.most('pss_bytes') / 1e6:.0f} MB"
            part = f"{ratios.share(steps[kind], name):.2f}"
            rows.append([title, workers, _spread(series), part, *costs, pss])
    return _table([*headings, "PSS of a worker"], rows) if rows else _MISSING


def per_core(steps: Steps) -> str:
    """Return the table of rates as other sinks publish theirs."""
    rows = []
    for kind, title in NAMES.items():
        if kind in steps and "rows_an_event" in steps[kind].rounds[0]["record"].more:
            series = steps[kind].series("workers_2")
            stored = steps[kind].series("record").median("rows_an_event")
            alone = 1e6 / series.micro("ours")
            cores = int(steps[kind].machine["cores"])
            figures_of_it = (
                series.rate,
                series.rate * stored,
                series.rate / cores,
                series.rate * stored / cores,
            )
            rows.append([title, *(f"{figure:,.0f}" for figure in figures_of_it), f"{alone:,.0f}"])
    headings = [
        "",
        "events/s",
        "rows/s",
        "events/s a core",
        "rows/s a core",
        "events/s a core of the daemon's",
    ]
    return _table(headings, rows) if rows else _MISSING


def limits(steps: Steps) -> str:
    """Return the table of the parts and the best."""
    titles = {"drain": "drain only (py-amqp)", "convert": "decode and convert only", "load": "load only"}
    rows = []
    for kind, title in NAMES.items():
        if kind not in steps:
            continue
        for name, what in titles.items():
            series = steps[kind].series(name)
            rows.append([title, what, _spread(series), *_costs(series)])
        rows.append([title, "**best of these cores**", f"**{ratios.best(steps[kind]):,.0f}**", "", "", ""])
    headings = ["", "", "events/s", "CPU µs an event: client", "broker", "database"]
    return _table(headings, rows) if rows else _MISSING


def where(steps: Steps) -> str:
    """Return the table beside the stacked bars."""
    found = {NAMES[kind]: spent(steps[kind]) for kind in NAMES if kind in steps}
    if not found:
        return _MISSING
    parties = list(next(iter(found.values())))
    rows = ([party, *(f"{row[party]:.0f}" for row in found.values())] for party in parties)
    return _table(["µs an event", *found], rows)


def hand(steps: Steps) -> str:
    """Return the table of the hand-written script."""
    if "by-hand" not in steps:
        return _MISSING
    step = steps["by-hand"]
    titles = {
        "bare_1": "bare table, one process",
        "bare_2": "bare table, two processes",
        "searchable_1": "searchable table, one process",
        "searchable_2": "searchable table, two processes",
        "panko_1": "Panko's tables, one process",
        "panko_2": "Panko's tables, two processes",
        "granted_1": "Panko's tables with the grant, one process",
        "granted_2": "Panko's tables with the grant, two processes",
        "ours": "panko_ingest, defaults",
    }
    headings = ["", "events/s", "CPU µs an event: client", "broker", "database", "panko_ingest is"]
    rows = []
    for name, title in titles.items():
        if name not in step.rounds[0]:
            continue
        series = step.series(name)
        times = "" if name == "ours" else f"{ratios.rate(step, 'ours', name):.2f} times as fast"
        rows.append([title, _spread(series), *_costs(series), times])
    return _table(headings, rows)


def peer(steps: Steps) -> str:
    """Return the table of the incumbent, measured or recorded."""
    headings = ["", "events/s", "CPU µs an event: client", "broker", "database", "panko_ingest is"]
    rows = []
    if "incumbent" in steps:
        step = steps["incumbent"]
        for name, title in incumbent.WORDS.items():
            series = step.series(name)
            times = f"{ratios.rate(step, 'ours', name):.0f} times as fast"
            lost = series.samples[0].more["offered"] - series.samples[0].more["stored"]
            rows.append(
                [title + (f", lost {lost:.0f}" if lost else ""), _spread(series), *_costs(series), times]
            )
        ours = step.series("ours")
        rows.append(["panko_ingest, defaults", _spread(ours), *_costs(ours), ""])
        return _table(headings, rows)
    for name, title in incumbent.WORDS.items():
        rate = incumbent.RECORDED[name]
        times = ""
        if "postgresql" in steps:
            times = f"{steps['postgresql'].series('workers_2').rate / rate:.0f} times as fast"
        rows.append([f"{title} (**recorded on another machine**)", f"{rate:,.0f}", "", "", "", times])
    return _table(headings, rows)


def speed_of_machine(steps: Steps) -> str:
    """Return how fast this machine is beside the one that the absolute aims are for, by the incumbent."""
    if "incumbent" not in steps:
        return _MISSING
    found = {name: steps["incumbent"].series(name).rate for name in incumbent.RECORDED}
    rates = " and ".join(
        f"{found[name]:,.0f} instead of {rate:,.0f}" for name, rate in incumbent.RECORDED.items()
    )
    slower = _median(rate / found[name] for name, rate in incumbent.RECORDED.items())
    return f"{rates} events/s: it is {slower:.1f} times as slow"


def _offered(step: Step) -> list[int]:
    return sorted(int(name.removeprefix("rate_")) for name in step.rounds[0] if name.startswith("rate_"))


def delay(steps: Steps) -> str:
    """Return the table of latencies."""
    if "latency" not in steps:
        return _MISSING
    step = steps["latency"]
    names = {f"{rate:,}": f"rate_{rate}" for rate in _offered(step)}
    rows = []
    for title, name in {**names, "floor: one INSERT and COMMIT, 100": "floor"}.items():
        series = step.series(name)
        p50, p99 = ([sample.more[what] for sample in series.samples] for what in ("p50", "p99"))
        rows.append([
            title,
            f"{_median(p50):.1f} ({min(p50):.1f}..{max(p50):.1f})",
            f"{_median(p99):.1f} ({min(p99):.1f}..{max(p99):.1f})",
            f"{series.most('longest'):.0f}",
            f"{series.most('publisher_late_ms'):.1f}",
        ])  # fmt: skip
    return _table(["events/s offered", "p50 ms", "p99 ms", "longest", "publisher late by at most"], rows)


def _levels(step: Step) -> list[int]:
    return sorted(int(name.removeprefix("stored_")) for name in step.rounds[0])


def growth(steps: Steps) -> str:
    """Return the table of rates by what is stored."""
    if "stored" not in steps:
        return _MISSING
    step = steps["stored"]
    rows = []
    for level in _levels(step):
        series = step.series(f"stored_{level}")
        of_empty = f"{series.rate / step.series('stored_0').rate:.2f}"
        rows.append([f"{level:,}", _spread(series), of_empty, *_costs(series)])
    headings = ["events stored before", "events/s", "of the empty table's", "CPU µs an event: daemon"]
    return _table([*headings, "broker", "database"], rows)


def by_workers(steps: Steps) -> str:
    """Return the table of rates by workers."""
    if "workers" not in steps:
        return _MISSING
    step = steps["workers"]
    rows = [
        [name.removeprefix("workers_"), _spread(step.series(name)), *_costs(step.series(name))]
        for name in step.rounds[0]
    ]
    return _table(["workers", "events/s", "CPU µs an event: daemon", "broker", "database"], rows)


def small_batches(steps: Steps) -> str:
    """Return the table of what small batches cost by one worker and by two."""
    if "small-batches" not in steps:
        return _MISSING
    step = steps["small-batches"]
    rows = []
    for number in (1, 2):
        series = step.series(f"workers_{number}")
        figures = (f"{series.median(what):.{places}f}" for what, places in _SMALL.items())
        rows.append([str(number), *figures, *_costs(series)])
    headings = ["workers", "p50 ms", "p99 ms", "transactions an event", "CPU µs an event: daemon"]
    return _table([*headings, "broker", "database"], rows)


def catching_up(steps: Steps) -> str:
    """Return the table of a backlog by itself and while more arrives."""
    names = {"backlog": "nothing arrives", "arriving": "500/s arrive"}
    return _compared(steps, "backlog", names, "arriving", "backlog")


def memory(steps: Steps) -> str:
    """Say how memory went over a backlog."""
    if "backlog" not in steps:
        return _MISSING
    step = steps["backlog"]
    series = step.series("backlog")
    settled, end, most = (
        series.median(name) / 1e6 for name in ("pss_settled_bytes", "pss_end_bytes", "pss_bytes")
    )
    return (
        f"A backlog of {step.sizes['backlog']:,.0f} messages was worked off at {series.rate:,.0f} events/s. "
        f"The largest worker had {settled:.0f} MB (PSS) after a fifth of it, {end:.0f} MB at the end, and "
        f"{most:.0f} MB at most."
    )


def table_of_aims(steps: Steps) -> str:
    """Return the table of aims, with what was measured."""
    return _table(["", "aim", "measured", "", "revision"], [aim.row(steps) for aim in AIMS])


def queues(steps: Steps) -> str:
    """Return the table of both kinds of queues."""
    return _compared(
        steps, "queues", {"quorum": "quorum queue", "classic": "classic queue"}, "quorum", "classic"
    )


def cluster(steps: Steps) -> str:
    """Return the table of a cluster beside one server."""
    names = {"alone": "one MariaDB", "galera": "Galera of three nodes, HAProxy"}
    return _compared(steps, "galera", names, "galera", "alone")


def many_buses(steps: Steps) -> str:
    """Return the table of many buses beside one."""
    if "buses" not in steps:
        return _MISSING
    step = steps["buses"]
    rows = []
    for kind, where_it_was in (("buses", "quiet"), ("busy", "other programs on each core")):
        for number in (1, MANY):
            name = f"{kind}_{number}"
            series = step.series(name)
            times = f"{ratios.rate(step, name, f'{kind}_1'):.2f}"
            pss = f"{series.median('pss_bytes') / 1e6:.0f} MB"
            rows.append([str(number), where_it_was, _spread(series), times, *_costs(series), pss])
    headings = [
        "buses",
        "the machine",
        "events/s",
        "of one bus's",
        "CPU µs an event: daemon",
        "broker",
        "database",
    ]
    return _table([*headings, "PSS of a worker"], rows)


def bus_delays(steps: Steps) -> str:
    """Return the table of delays with many buses."""
    if "bus-delays" not in steps:
        return _MISSING
    rows = []
    for number in (1, MANY):
        series = steps["bus-delays"].series(f"buses_{number}")
        delays = (f"{series.median(what):.1f}" for what in ("p50", "p99"))
        rows.append([
            f"{number} at {5 * MANY // number}/s each", *delays, f"{series.most('longest'):.0f}",
            f"{series.median('transactions_an_event'):.2f}",
        ])  # fmt: skip
    return _table(["buses", "p50 ms", "p99 ms", "longest", "transactions an event"], rows)


def _compared(steps: Steps, name: str, titles: Mapping[str, str], one: str, other: str) -> str:
    step = steps.get(name)
    if step is None or not titles.keys() <= step.rounds[0].keys():
        return _MISSING
    rows = []
    for kind, title in titles.items():
        times = f"{ratios.rate(step, one, other):.2f}" if kind == one else ""
        rows.append([title, _spread(step.series(kind)), times, *_costs(step.series(kind))])
    headings = ["", "events/s", "to the other", "CPU µs an event: daemon", "broker", "database"]
    return _table(headings, rows)


def conditions(steps: Steps) -> str:
    """Return what was measured where, when and by which command, step by step."""
    rows = []
    for step in steps.values():
        sizes = ", ".join(f"{name} {value:,.0f}" for name, value in step.sizes.items())
        rounds, elsewhere = str(len(step.rounds)), f"{step.elsewhere:.0%}"
        rows.append([step.name, f"`{step.command}`", rounds, sizes, step.when, step.revision, elsewhere])
    if not rows:
        return _MISSING
    machines = {tuple(step.machine.items()) for step in steps.values()}
    described = "\n".join(
        "- " + "; ".join(f"{name}: {value}" for name, value in sorted(one)) for one in sorted(machines)
    )
    headings = [
        "step",
        "command",
        "rounds",
        "sizes",
        "when (UTC)",
        "revision",
        "cores busy with other things",
    ]
    return f"{described}\n\n{_table(headings, rows)}"


def versions(steps: Steps) -> str:
    """Return the versions of servers and libraries."""
    return _names_and_values([step.versions for step in steps.values()], ("", "version"))


def settings(steps: Steps) -> str:
    """Return the settings of the servers."""
    return _names_and_values([step.settings for step in steps.values()], ("setting", ""))


def _names_and_values(tables: Iterable[Mapping[str, str]], headings: tuple[str, str]) -> str:
    found: dict[str, set[str]] = {}
    for table in tables:
        for name, value in table.items():
            found.setdefault(name, set()).add(value)
    rows = ([name, ", ".join(sorted(found[name]))] for name in sorted(found, key=str.lower))
    return _table(headings, rows) if found else _MISSING


class Costs:
    """What an event costs each party, from the steps ``postgresql`` and ``broker``."""

    def __init__(self, steps: Steps) -> None:
        whole = steps["postgresql"].series("workers_2")
        self.daemon = whole.micro("ours")
        self.deliver = whole.micro("broker")
        self.database = whole.micro("database")
        self.stored = whole.median("database_bytes_an_event")
        self.log = whole.median("wal_bytes_an_event")
        self.connections = whole.median("connections") / whole.median("workers")
        broker = steps["broker"]
        self.publish = broker.series("publish_quorum").micro("broker")
        self.drain = broker.series("drain_quorum").micro("broker")
        self.one_queue = min(broker.series("publish_quorum").rate, broker.series("drain_quorum").rate)


def units(steps: Steps) -> str:
    """Return the unit costs that sizing starts from."""
    if not {"postgresql", "broker"} <= set(steps):
        return _MISSING
    cost = Costs(steps)
    rows = [
        ["daemon", f"{cost.daemon:.0f} µs of processor", f"{1e6 / cost.daemon:,.0f} events/s a core"],
        ["RabbitMQ, taking a message (quorum queue, one replica)", f"{cost.publish:.0f} µs", ""],
        ["RabbitMQ, handing it out and its ack", f"{cost.drain:.0f} µs", ""],
        ["RabbitMQ, both", f"{cost.publish + cost.drain:.0f} µs",
         f"{1e6 / (cost.publish + cost.drain):,.0f} events/s a core"],
        ["one quorum queue, one publisher, one reader", "", f"{cost.one_queue:,.0f} events/s"],
        ["PostgreSQL", f"{cost.database:.0f} µs", f"{1e6 / cost.database:,.0f} events/s a core"],
        ["all on one machine", f"{cost.daemon + cost.deliver + cost.database:.0f} µs",
         f"{1e6 / (cost.daemon + cost.deliver + cost.database):,.0f} events/s a core"],
        ["PostgreSQL, at rest with indexes", f"{cost.stored:,.0f} bytes",
         f"{cost.stored * 86_400 * 1000 / 1e9:,.0f} GB a day at 1,000 events/s"],
        ["PostgreSQL, write-ahead log", f"{cost.log:,.0f} bytes",
         f"{cost.log * 1000 / 1e6:.1f} MB/s at 1,000 events/s"],
        ["connections to the database", f"{cost.connections:.0f} a worker under load", ""],
        ["connections to the broker", "1 a worker and bus", ""],
    ]  # fmt: skip
    return _table(["", "an event", ""], rows)


def on_paper(steps: Steps) -> str:
    """Return what high rates need by the unit costs."""
    if not {"postgresql", "broker"} <= set(steps):
        return _MISSING
    cost = Costs(steps)

    def cores(micro: float, rate: float) -> str:
        return f"{math.ceil(rate * micro / 1e6 / HEADROOM):,}"

    replicas = 3
    lines: dict[str, Callable[[float], str]] = {
        "cores for ingest workers": lambda rate: cores(cost.daemon, rate),
        f"cores for brokers, {replicas} replicas": lambda rate: cores(
            replicas * cost.publish + cost.drain, rate
        ),
        "quorum queues (at half of what one takes)": lambda rate: f"{math.ceil(rate / cost.one_queue * 2):,}",
        "cores for databases": lambda rate: cores(cost.database, rate),
        "log that the databases write and replicate": lambda rate: f"{rate * cost.log / 1e6:,.0f} MB/s",
        "disk for a day, before replicas": lambda rate: f"{rate * cost.stored * 86_400 / 1e12:,.1f} TB",
        "connections to databases": lambda rate: cores(cost.daemon * cost.connections, rate),
    }
    rows = ([title, *(line(rate) for rate in OFFERED)] for title, line in lines.items())
    return _table(["", *(f"{rate:,} events/s" for rate in OFFERED)], rows)


def first_to_give_out(steps: Steps) -> str:
    """Name the party that needs most cores."""
    if not {"postgresql", "broker"} <= set(steps):
        return _MISSING
    cost = Costs(steps)
    parties = {
        "the database": cost.database,
        "the daemon": cost.daemon,
        "the broker": cost.publish + cost.drain,
    }
    name = max(parties, key=lambda party: parties[party])
    return f"{name} ({parties[name] / sum(parties.values()):.0%} of all processor time of an event)"


def _picture(name: str, what: str) -> Callable[[Steps], str]:
    def show(steps: Steps) -> str:
        return f"![{what}]({name}.png)" if name in drawn(steps) else _MISSING

    return show


def drawn(steps: Steps) -> list[str]:
    """Return the names of the pictures that there are results for."""
    found = ["rates", "shares"] if set(NAMES) & set(steps) else []
    return [*found, *(name for name in ("latency", "stored") if name in steps)]


VALUES: dict[str, Callable[[Steps], str]] = {
    "whole_way": whole_way,
    "limits": limits,
    "per_core": per_core,
    "where": where,
    "hand": hand,
    "peer": peer,
    "delay": delay,
    "growth": growth,
    "by_workers": by_workers,
    "small_batches": small_batches,
    "memory": memory,
    "aims": table_of_aims,
    "queues": queues,
    "cluster": cluster,
    "many_buses": many_buses,
    "bus_delays": bus_delays,
    "catching_up": catching_up,
    "speed_of_machine": speed_of_machine,
    "conditions": conditions,
    "versions": versions,
    "settings": settings,
    "units": units,
    "on_paper": on_paper,
    "first_to_give_out": first_to_give_out,
    "rates_picture": _picture("rates", "events/s by database: the best, one worker, two workers"),
    "shares_picture": _picture("shares", "processor time of an event by party"),
    "latency_picture": _picture("latency", "delay by offered rate: p50 and p99"),
    "stored_picture": _picture("stored", "events/s by events stored before"),
    "headroom": lambda _steps: f"{HEADROOM:.0%}",
}


if __name__ == "__main__":
    write()
    sys.exit(0)
