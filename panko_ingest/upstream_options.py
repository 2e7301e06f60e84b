"""What became of every option of a stock ceilometer.conf and panko.conf: ``upstream_options.yaml``, read.

docs/options-from-ceilometer.md is made from it, and `serve` tells by it what it does not read.
"""

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import yaml

CEILOMETER, PANKO, BOTH = "ceilometer.conf", "panko.conf", "both"
EVENT_PIPELINE = "event_pipeline.yaml"


class Fate(StrEnum):
    """What became of an option."""

    SAME = "same"
    RENAMED = "renamed"
    IGNORED = "ignored"


class UpstreamOption(NamedTuple):
    """One option, or with the name ``*`` every option of its group.

    ``note`` is for a renamed option where it is now, as ``[group] name`` and more; for an ignored
    one why, or what to use instead.
    """

    file: str
    group: str
    name: str
    fate: Fate
    note: str = ""


def _read() -> Iterator[UpstreamOption]:
    text = Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")
    for file, fates in yaml.safe_load(text).items():
        for group, names in fates.get("same", {}).items():
            yield from (UpstreamOption(file, group, name, Fate.SAME) for name in names)
        for group, notes in fates.get("renamed", {}).items():
            yield from (UpstreamOption(file, group, name, Fate.RENAMED, note) for name, note in notes.items())
        for note, groups in fates.get("ignored", {}).items():
            whole = {group: ["*"] for group in groups.pop("groups", ())}
            for group, names in (groups | whole).items():
                yield from (UpstreamOption(file, group, name, Fate.IGNORED, note) for name in names)


UPSTREAM_OPTIONS = tuple(_read())
