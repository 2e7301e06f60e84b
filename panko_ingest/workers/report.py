"""The Guru Meditation report: on SIGUSR2 a process writes to standard error what it is doing.

Threads with their stacks, the configuration without its secrets, and the messages in hand. With
``systemctl kill --signal=SIGUSR2 panko-ingest`` every process of the daemon writes one.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from oslo_config import cfg
from oslo_reports.guru_meditation_report import TextGuruMeditation
from oslo_reports.models.with_default_views import ModelWithDefaultViews

from panko_ingest import __version__


class _Package:
    @staticmethod
    def vendor_string() -> str:
        return "OpenStack"

    @staticmethod
    def product_string() -> str:
        return "panko-ingest"

    @staticmethod
    def version_string_with_package() -> str:
        return __version__


class _Collected:
    """Takes what a configuration would write to a log, secrets masked."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self.options: dict[str, Any] = {}
        conf.log_opt_values(self, logging.DEBUG)

    def log(self, level: int, msg: object, *args: object) -> None:  # noqa: ARG002 - a logger's method
        """Take one line: an option is a name and a value."""
        match args:
            case (str(name), value) if name != "command":
                self.options[name] = str(value)


def install(conf: cfg.ConfigOpts, in_force: Callable[[], cfg.ConfigOpts]) -> None:
    """Make this process, and those that it forks, write a report on SIGUSR2.

    :param in_force: returns the configuration to show.
    """
    # The library's own section is about oslo's global configuration, which is not ours.
    add_section("Configuration in force", lambda: _Collected(in_force()).options)
    TextGuruMeditation.setup_autorun(_Package, service_name="panko-ingest", conf=conf)


def add_section(title: str, look: Callable[[], Mapping[str, Any]]) -> None:
    """Let the reports of this process show what ``look`` returns."""
    TextGuruMeditation.register_section(title, lambda: ModelWithDefaultViews(dict(look())))
