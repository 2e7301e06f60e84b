"""The pictures of docs/performance."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

mpl.use("Agg")

_WIDE = (8.0, 3.6)
_COLOURS = ("#8c8c8c", "#4c72b0", "#55a868", "#dd8452", "#c44e52", "#8172b3")


def rates(path: Path, rows: Mapping[str, Mapping[str, float]]) -> None:
    """Draw groups of bars: for each database the best, and what one and two workers do."""
    figure, axes = plt.subplots(figsize=_WIDE)
    names = list(next(iter(rows.values())))
    width = 0.8 / len(names)
    for place, name in enumerate(names):
        heights = [row[name] for row in rows.values()]
        positions = [group + (place - (len(names) - 1) / 2) * width for group in range(len(rows))]
        bars = axes.bar(positions, heights, width, label=name, color=_COLOURS[place])
        axes.bar_label(bars, [f"{height:,.0f}" for height in heights], fontsize=7)
    axes.set_xticks(range(len(rows)), list(rows))
    axes.set_ylabel("events/s")
    axes.legend(fontsize=8)
    _save(figure, path)


def shares(path: Path, rows: Mapping[str, Mapping[str, float]]) -> None:
    """Draw stacked bars: where the microseconds of an event go."""
    figure, axes = plt.subplots(figsize=_WIDE)
    names = list(next(iter(rows.values())))
    labels = list(rows)
    left = [0.0] * len(labels)
    for place, name in enumerate(names):
        widths = [row[name] for row in rows.values()]
        bars = axes.barh(labels, widths, 0.6, left=left, label=name, color=_COLOURS[place])
        axes.bar_label(
            bars, [f"{width:.0f}" if width > 6 else "" for width in widths], label_type="center", fontsize=7
        )
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("µs of processor an event")
    axes.legend(fontsize=7, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.18))
    _save(figure, path)


def lines(
    path: Path,
    x: Sequence[float],
    series: Mapping[str, Sequence[float]],
    labels: tuple[str, str],
    *,
    log: bool,
) -> None:
    """Draw lines over x; ``labels`` are those of the axes."""
    figure, axes = plt.subplots(figsize=_WIDE)
    for place, (name, values) in enumerate(series.items()):
        axes.plot(x, values, marker="o", label=name, color=_COLOURS[place + 1])
        for point in zip(x, values, strict=True):
            axes.annotate(f"{point[1]:,.3g}" if point[1] < 100 else f"{point[1]:,.0f}", point, fontsize=7)
    if log:
        axes.set_xscale("log")
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.legend(fontsize=8)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=110, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
