"""Finds what is configured and has no effect: misspelt, or an option of others."""

import difflib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from oslo_config import cfg

from panko_ingest import config, option_lines
from panko_ingest.errors import ConfigError
from panko_ingest.upstream_options import EVENT_PIPELINE, UPSTREAM_OPTIONS, Fate, UpstreamOption

LOG = logging.getLogger(__name__)

_SURE_ENOUGH = 0.75

_NAME = re.compile(r"[\w.-]+")
_VARIABLE = re.compile(r"OS_([A-Z0-9_]+?)__([A-Z0-9_]+)")
# A URL that ends within its password: the line after it is the other part.
_TORN_URL = re.compile(r"://(?:.*,)?[^@/,\[]*:(?!\d+(?:/.*)?$)[^@]*$")

_UPSTREAM = {
    (option.group, option.name): option for option in UPSTREAM_OPTIONS if option.file != EVENT_PIPELINE
}


@dataclass(frozen=True, slots=True)
class IneffectiveOption:
    """An option that stands in a file, or in the environment (without a line), and has no effect.

    ``upstream`` tells what became of it, if it is one of Ceilometer's or Panko's; of any other,
    ``suggestion`` is the ``[group] name`` that may have been meant. ``torn`` tells that it seems to be
    a part of the value before it.
    """

    place: str
    line: int | None
    group: str
    name: str
    upstream: UpstreamOption | None
    suggestion: str | None
    torn: bool = False

    def __str__(self) -> str:
        place = self.place if self.line is None else f"{self.place}:{self.line}"
        if self.torn or not (_NAME.fullmatch(self.group) and _NAME.fullmatch(self.name)):
            # It may be a password.
            return f"{place}: no option's name; does it belong to the line before?"
        where = f"{place} [{self.group}] {self.name}"
        if self.upstream is None:
            return f"{where}: unknown" + (f", did you mean {self.suggestion}?" if self.suggestion else "")
        verb = "use" if self.upstream.fate is Fate.RENAMED else "ignored:"
        # What this ends with is true of files alone, in which such a name is none without effect.
        return f"{where}: {verb} {self.upstream.note.partition('; the old ')[0]}"


def find(conf: cfg.ConfigOpts) -> list[IneffectiveOption]:
    """Return the options in the configuration files, in their order, and the environment, that nothing reads.

    :raises ConfigError: a file changed since ``conf`` was read, and can't be read any more.
    """
    known = _known(conf)
    read = {(group, name) for group, names in known.items() for name in names}
    read |= option_lines.old_names(config.known_options()).keys()
    found = []
    for path in option_lines.read_by(conf):
        torn = False
        for line, group, name, value in _options(path):
            if (group, name) not in read:
                found.append(_describe(path, line, group, name, known, torn=torn))
            torn = bool(_TORN_URL.search(value[-1])) or (torn and "@" not in f"{name}{value[-1]}")
    return [*found, *_in_environment(known)]


def _in_environment(known: dict[str, list[str]]) -> Iterator[IneffectiveOption]:
    """Yield what looks like an option of ours; no old names are read there."""
    # Other programs have variables that begin so, too: with one underscore only what is meant for us counts.
    ours = {f"OS_{group}_{name}".upper(): (group, name) for group, names in known.items() for name in names}
    for variable in sorted(os.environ):
        if variable in ours:
            group, name = ours[variable]
            meant = f"OS_{group}__{name}".upper()
            yield IneffectiveOption(f"environment variable {variable}:", None, group, name, None, meant)
        elif match := _VARIABLE.fullmatch(variable):
            group, name = match[1], match[2].lower()
            group = group if group == "DEFAULT" else group.lower()
            if name not in known.get(group, ()):
                yield _describe(f"environment variable {variable}:", None, group, name, known)


def warn(found: Sequence[IneffectiveOption]) -> None:
    """Name them all in one line of the log, if there are any."""
    if found:
        LOG.warning("Options that have no effect: %s", "; ".join(map(str, found)))


def _options(path: str) -> list[option_lines.Option]:
    try:
        return list(option_lines.options(path))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None


def _known(conf: cfg.ConfigOpts) -> dict[str, list[str]]:
    """Return the names of the options that are registered, by group."""
    groups = [name for name in conf if isinstance(conf[name], cfg.ConfigOpts.GroupAttr)]
    plain = [name for name in conf if name not in groups]
    return {"DEFAULT": plain} | {group: list(conf[group]) for group in groups}


def _describe(
    place: str, line: int | None, group: str, name: str, known: dict[str, list[str]], *, torn: bool = False
) -> IneffectiveOption:
    upstream = _UPSTREAM.get((group, name)) or _UPSTREAM.get((group, "*"))
    suggestion = None if upstream else _suggest(group, name, known)
    return IneffectiveOption(place, line, group, name, upstream, suggestion, torn)


def _suggest(group: str, name: str, known: dict[str, list[str]]) -> str | None:
    for other, names in known.items():
        if name in names:
            return f"[{other}] {name}"
    for candidates in ({group: known.get(group, [])}, known):
        by_name = {option: other for other, names in candidates.items() for option in names}
        for close in difflib.get_close_matches(name, by_name, n=1, cutoff=_SURE_ENOUGH):
            return f"[{by_name[close]}] {close}"
    return None
