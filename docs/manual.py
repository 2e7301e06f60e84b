"""Makes the manual page from the commands' own descriptions."""

import argparse
import importlib
from collections.abc import Iterable, Iterator

from panko_ingest import __version__
from panko_ingest.cli.main import COMMANDS

_INTRODUCTION = """\
.SH NAME
panko\\-ingest \\- turns OpenStack notifications into a queryable event history
.SH SYNOPSIS
.B panko\\-ingest
.RB [ \\-\\-config\\-file
.IR FILE ]
.RB [ \\-\\-config\\-dir
.IR DIRECTORY ]
.I COMMAND
\\&...
.SH DESCRIPTION
Reads the notifications of an OpenStack cloud from the message bus, turns them into events by
Ceilometer's event definitions, and keeps them in a database, in the tables that Panko's API reads.
.SH OPTIONS
They may stand before the command or behind it.
.TP
.B \\-\\-config\\-file FILE
read this file of the configuration in place of the usual ones; repeatable, later files win
.TP
.B \\-\\-config\\-dir DIRECTORY
read the files *.conf in this directory, after those files, in place of the usual directories
.SH COMMANDS
"""

_REST = """\
.SH EXIT STATUS
.TP
.B 0
all is well
.TP
.B 1
something was found, or failed
.TP
.B 2
usage, or a configuration that is refused
.TP
.B 3
the database or the broker can't be reached, or the host has no room, files or memory for what the
configuration names
.PP
.B panko\\-ingest\\-status upgrade check
exits as oslo.upgradecheck's commands do: 0, 1 for warnings, 2 for failures, 255 for an error.
.SH SIGNALS
What
.B serve
does on them:
.TP
.BR SIGTERM ", " SIGINT
take nothing more, commit and acknowledge what is in hand, and end
.TP
.B SIGHUP
read the configuration again; one that is refused changes nothing
.TP
.B SIGUSR2
write a report on what each process does, without secrets
.SH FILES
.TP
.I /etc/panko\\-ingest/panko\\-ingest.conf
the configuration
.TP
.I /etc/panko\\-ingest/panko\\-ingest.conf.d/*.conf
is read after it
.TP
.I /etc/panko\\-ingest/panko\\-ingest.credentials.d/*.conf
is read last; for passwords: only root may read it, systemd hands the daemon a copy
.TP
.I event_definitions.yaml
beside the configuration: event definitions in the place of those that ship with the project
.SH SEE ALSO
.BR systemctl (1),
.BR journalctl (1)
"""


def page() -> str:
    """Return the manual page in roff."""
    parser = argparse.ArgumentParser(prog="panko-ingest")
    subparsers = parser.add_subparsers()
    for module in COMMANDS.values():
        importlib.import_module(module).add_parser(subparsers)
    commands = "".join(_commands(subparsers))
    return f'.TH PANKO\\-INGEST 8 "" "panko\\-ingest {__version__}"\n{_INTRODUCTION}{commands}{_REST}'


def _commands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> Iterator[str]:
    helps = {choice.dest: choice.help or "" for choice in subparsers._choices_actions}
    for name, parser in subparsers.choices.items():
        below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        if below:
            yield from _commands(below[0])
            continue
        yield f".SS {_roff(parser.prog)}\n{_roff(parser.description or _sentence(helps[name]))}\n"
        yield from map(_argument, _own(parser._actions))


def _own(actions: Iterable[argparse.Action]) -> Iterator[argparse.Action]:
    return (action for action in actions if not isinstance(action, argparse._HelpAction) and action.help)


def _argument(action: argparse.Action) -> str:
    value = action.metavar or ("|".join(map(str, action.choices)) if action.choices else "")
    names = ", ".join(action.option_strings)
    help_text = (action.help or "") % {"default": action.default}
    return f".TP\n.B {_roff(f'{names} {value}'.strip())}\n{_roff(help_text)}\n"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _roff(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("…", "...")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped
