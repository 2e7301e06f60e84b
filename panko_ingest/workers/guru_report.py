"""The Guru Meditation report: on SIGUSR2 a process writes to standard error what it is doing.

Threads with their stacks, the configuration without its secrets, and the messages in hand. With
``systemctl kill --signal=SIGUSR2 panko-ingest`` every process of the daemon writes one.
"""

import logging
from collections.abc import Callable, Mapping
from types import FrameType, SimpleNamespace
from typing import Any

from oslo_config import cfg
from oslo_reports.guru_meditation_report import TextGuruMeditation
from oslo_reports.models.with_default_views import ModelWithDefaultViews

from panko_ingest import __version__
from panko_ingest.workers import log_writer

_PACKAGE = SimpleNamespace(
    vendor_string=lambda: "OpenStack",
    product_string=lambda: "panko-ingest",
    version_string_with_package=lambda: __version__,
)


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


class _Report(TextGuruMeditation):
    """The library's report, which no section can make fail: a hardened unit hides parts of /proc.

    It stops nobody's work where standard error is not read.
    """

    @classmethod
    def handle_signal(
        cls, version: Any, service_name: str | None, log_dir: str | None, frame: FrameType | None
    ) -> None:
        """Write a report."""
        if log_dir:
            super().handle_signal(version, service_name, log_dir, frame)
        else:
            log_writer.write_report(cls(version, frame).run())

    def add_section(self, heading: Any, generator: Callable[[], Any], index: int | None = None) -> None:
        """Add a section; the one about oslo's global configuration, which is not ours, is left out."""

        def look() -> Any:
            try:
                return generator()
            except Exception as error:  # noqa: BLE001 - a part of the report is better than none
                return f"not available: {type(error).__name__}: {error}"

        if heading != "Configuration":
            super().add_section(heading, look, index)


def install(conf: cfg.ConfigOpts, in_force: Callable[[], cfg.ConfigOpts]) -> None:
    """Make this process, and those that it forks, write a report on SIGUSR2.

    :param in_force: returns the configuration to show.
    """
    add_section("Configuration in force", lambda: _Collected(in_force()).options)
    _Report.setup_autorun(_PACKAGE, service_name="panko-ingest", conf=conf)


def add_section(title: str, look: Callable[[], Mapping[str, Any]]) -> None:
    """Let the reports of this process show what ``look`` returns."""
    _Report.register_section(title, lambda: ModelWithDefaultViews(dict(look())))
