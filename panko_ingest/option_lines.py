"""The configuration files line by line: where each option stands, and which can't be used.

Told before a library reads them, so that whichever of them would stumble, the operator reads file, line
and option, and never a value, which may be a password.
"""

import argparse
import codecs
import io
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from oslo_config import cfg, iniparser, types

from panko_ingest.errors import ConfigError

_STANDS_FOR_ANOTHER = (
    "holds a $, which stands for the value of another option; write $$ for one that does not"
)
_OF_REFERENCES = (
    cfg.NoSuchOptError,
    cfg.NoSuchGroupError,
    cfg.TemplateSubstitutionError,
    RecursionError,
)
_LINE_ENDS = re.compile(r"\r\n?|\n")
"""What ends a line in a file that is opened as text, unlike ``splitlines``."""

_FILE_OPTIONS = ("--config-file", "--config-dir")
_SHORTEST = len("--config-f")


class Option(NamedTuple):
    """An option as it stands in a file; ``value`` is line after line."""

    line: int
    group: str
    name: str
    value: list[str]


class _Reader(cfg.ConfigParser):
    """Reads what was read of a file as oslo.config does; notes down behind which line each option ends."""

    def __init__(self, path: str, content: bytes) -> None:
        super().__init__(path, {})
        self._content = content
        self.found: list[Option] = []

    def parse(self) -> None:  # type: ignore[override]
        """Parse it, and not what the file holds by now."""
        iniparser.BaseParser.parse(self, io.TextIOWrapper(io.BytesIO(self._content)).readlines())

    def assignment(self, key: str, value: list[str]) -> None:
        super().assignment(key, value)
        self.found.append(Option(self.lineno, self.section or "", key, value))


def options(path: str) -> Iterator[Option]:
    """Yield the options in a file.

    :raises ConfigError: naming the line that can't be read.
    """
    if Path(path).is_fifo():
        raise ConfigError(f"{path}: is a pipe, which can be read only once: write a file")
    content = Path(path).read_bytes()
    try:
        lines = _LINE_ENDS.split(content.decode())
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: is no UTF-8: write the file in that encoding") from None
    if content.startswith(codecs.BOM_UTF8):
        raise ConfigError(f"{path}:1: begins with a byte order mark: write the file without one")
    reader = _Reader(path, content)
    try:
        reader.parse()
    except iniparser.ParseError as error:
        raise ConfigError(f"{path}:{error.lineno}: {error.msg}") from None
    except ValueError as error:  # the locale's encoding is another
        raise ConfigError(f"{path}: {type(error).__name__}: run it in a locale of UTF-8") from None
    start = 0
    for end, group, name, value in reader.found:
        # Behind the one before it, as the next one may begin with the same name.
        start = next((number for number in range(start + 1, end) if lines[number - 1].startswith(name)), end)
        yield Option(start, "DEFAULT" if group == "DEFAULT" else group.lower(), name, value)


def read_by(conf: cfg.ConfigOpts) -> Iterator[str]:
    """Yield the paths of the configuration files that were read."""
    yield from _paths(conf.config_file or (), conf.config_dirs or conf.config_dir or ())


def spelled_out(arguments: Sequence[str]) -> list[str]:
    """Return a command line that names its configuration files in full, and first.

    oslo.config takes ``--config-f ~/a.conf``, too, but reads the default files beside it, and takes none of
    them behind a command.
    """
    files, others = [], []
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        whole = [option for option in _FILE_OPTIONS if option.startswith(name) and len(name) >= _SHORTEST]
        if word == "--":
            others += [word, *words]
        elif not whole:
            others.append(word)
        elif equals:
            files.append(f"{whole[0]}={_at_home(value)}")
        elif (following := next(words, None)) is not None:
            files += [whole[0], _at_home(following)]
        else:
            others.append(whole[0])  # what parses it says what is missing
    return files + others


def _at_home(path: str) -> str:
    if not path.startswith("~"):
        return path
    try:
        return str(Path(path).expanduser())
    except RuntimeError:  # nobody of that name has a home
        return path


def named(arguments: Sequence[str], files: Iterable[str], folders: Iterable[str]) -> list[str]:
    """Return the paths of the configuration files that a command line makes us read.

    :param arguments: as :func:`spelled_out` returns them.
    :param files: those that are read when it names none; and so for ``folders``.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config-file", action="append")
    parser.add_argument("--config-dir", action="append")
    try:
        found, _ = parser.parse_known_args(list(arguments))
    except argparse.ArgumentError:  # which oslo.config will tell
        return []
    return list(_paths(found.config_file or files, found.config_dir or folders))


def _paths(files: Iterable[str], folders: Iterable[str]) -> Iterator[str]:
    yield from files
    for folder in folders:
        path = Path(_at_home(folder))
        try:
            os.listdir(path)  # noqa: PTH208 - glob passes over a folder that is closed to us
        except PermissionError:
            raise ConfigError(
                f"{path}: Permission denied: what is in this folder would not be read"
            ) from None
        except NotADirectoryError:  # which oslo.config would pass over
            raise ConfigError(f"{path}: is no folder: name a file by --config-file") from None
        except OSError:
            continue  # which oslo.config will tell
        found = sorted(path.glob("*.conf"))
        yield from (str(path) for path in found if not path.name.startswith("."))


def old_names(known: Mapping[str, Collection[cfg.Opt]]) -> dict[tuple[str, str], cfg.Opt]:
    """Return the options that have another name, too, or another group, by each of those."""
    return {
        (old.group or group, (old.name or option.dest).replace("-", "_")): option
        for group, options_there in known.items()
        for option in options_there
        for old in option.deprecated_opts
    }


def check(paths: Iterable[str], known: Mapping[str, Collection[cfg.Opt]]) -> None:
    """Look for what can't be used.

    :param known: the options that are read, by group.
    :raises ConfigError: a line for each fault, with file, line and option.
    """
    by_name = {(group, option.dest): option for group, there in known.items() for option in there}
    by_old_name = old_names(known)
    faults = []
    for path in paths:
        try:
            for line, group, name, value in options(path):
                option_there = by_name.get((group, name)) or by_old_name.get((group, name))
                fault = option_there and _fault(option_there, value, group, by_name)
                if fault:
                    faults.append(f"{path}:{line} [{group}] {name}: {fault}")
        except ConfigError as error:
            faults.append(str(error))
        except OSError as error:
            if error.filename is None:  # it could be opened, but not be read
                raise ConfigError(f"{path}: {error.strerror}") from error
            continue  # which oslo.config will tell
    if faults:
        raise ConfigError("\n".join(faults))


def _fault(
    option: cfg.Opt, lines: list[str], group: str, by_name: Mapping[tuple[str, str], cfg.Opt]
) -> str | None:
    if any("://" in line and not line.endswith(",") for line in lines[:-1]):
        return "holds a URL and the line after it, which is indented: begin that one at the left"
    value = "\n".join(lines)
    references = list(_references(value))
    for reference in references:
        other, dot, name = reference.partition(".")
        meant = by_name.get((other, name)) if dot else by_name.get((group, other))
        meant = meant or by_name.get(("DEFAULT", reference))
        if meant is None:
            return _STANDS_FOR_ANOTHER
        if meant.secret and not option.secret:
            return "stands for an option that may hold a password, which this one would show"
    if references:
        return None  # what it comes to is known when all is read
    try:
        refuse_blank(option, option.type(value.replace("$$", "$")))
    except ValueError as error:
        return reason(option, error) + (": a comment takes a line of its own" if "#" in value else "")
    return None


def refuse_blank(option: cfg.Opt, value: object) -> None:
    """Refuse what oslo.config makes of a number that is left blank.

    :raises ValueError: it is None, and the option has a default.
    """
    if value is None and option.default is not None:
        raise ValueError


def _references(value: str) -> Iterator[str]:
    """Yield the options whose values oslo.config puts into a value."""
    for match in cfg.ConfigOpts.Template.pattern.finditer(value.replace(r"\$", "$$")):
        if name := match["named"] or match["braced"]:
            yield name


def reason(option: cfg.Opt, error: Exception) -> str:
    """Return why an option's value is refused, without the value."""
    if isinstance(error, _OF_REFERENCES):
        return _STANDS_FOR_ANOTHER
    kind = option.type
    match kind:
        case types.Boolean():
            return "is neither true nor false"
        case types.String() if kind.choices:
            return f"is none of {', '.join(str(choice) for choice in kind.choices)}"
        case types.Integer() | types.Float():
            least = "" if kind.min is None else f" of {kind.min:g} or more"
            most = "" if kind.max is None else f"{' and' if least else ''} up to {kind.max:g}"
            return f"is no number{least}{most}"
        case types.HostAddress():
            return "is neither a host's name nor an address"
    return str(error) if getattr(kind, "tells_no_value", False) else f"can't be read as {type(kind).__name__}"


def told(error: cfg.Error) -> str:
    """Return why oslo.config refuses a configuration, without the line or the value that its text quotes."""
    match error:
        case cfg.ConfigFileParseError():
            torn = error.__context__
            if isinstance(torn, iniparser.ParseError):
                return f"{error.config_file}:{torn.lineno}: {torn.msg}"
            return f"{error.config_file}: can't be read"
        case (
            cfg.ConfigFilesNotFoundError()
            | cfg.ConfigFilesPermissionDeniedError()
            | cfg.ConfigDirNotFoundError()
            | cfg.RequiredOptError()
        ):
            return str(error)
    return f"{type(error).__name__}: the value of an option can't be used"
