"""A log that can't be written as the options say is refused, before it is a log of tracebacks."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from oslo_config import cfg
from oslo_log import handlers

from panko_ingest import log_setup
from panko_ingest.cli import check
from panko_ingest.cli.main import read
from panko_ingest.errors import ConfigError
from panko_ingest.findings import FAILURE

FAULTS = {
    "logging_default_format_string = %(SECRET)s %(message)s": "logging_default_format_string: no line",
    "logging_debug_format_suffix = %(SECRET)d": "logging_debug_format_suffix: no line",
    "logging_exception_prefix = %(SECRET)s": "logging_exception_prefix: no line",
    "use_syslog = true\nsyslog_log_facility = SECRET": "syslog_log_facility: there is no facility",
    "use_journal = true": "use_journal: Python's module systemd is missing",
}


def configured(folder: Path, options: str) -> cfg.ConfigOpts:
    path = folder / "panko-ingest.conf"
    path.write_text(
        f"[DEFAULT]\ntransport_url = rabbit://one/\n{options}\n[database]\nconnection = sqlite://\n"
    )
    return read(["--config-file", str(path), "serve"])


@pytest.mark.parametrize("options", FAULTS)
def test_options_of_the_log_that_can_not_be_used_are_refused_and_found_by_check(
    options: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers, "journal", None)
    conf = configured(tmp_path, options)
    before = logging.getLogger().handlers[:]
    with pytest.raises(ConfigError) as refused:
        log_setup.set_up_logging(conf)
    assert f"[DEFAULT] {FAULTS[options]}" in str(refused.value)
    assert "SECRET" not in str(refused.value)
    (found,) = check.log(conf)
    assert (found.level, found.text) == (FAILURE, str(refused.value))
    assert logging.getLogger().handlers == before


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("class = NullHandler", "class = nowhere.Handler"),
        ("class = NullHandler", "class = handlers.NoHandler"),
        ("class = NullHandler", "level = INFO"),
        ("class = NullHandler", "class = NullHandler\nlevel = SECRET"),
        ("args = ()", "args = (/var/log/daemon.log,)"),
        ("args = ()", "args = ()\nkwargs = {'filename': %(absent)s}"),
        ("handlers = one", "handlers = two"),
        ("keys = one", "keys = one, two"),
        ("[logger_root]", "[logger_other]"),
        ("keys =\n", "keys = none\n"),
    ],
)
def test_what_a_configuration_of_the_log_names_and_is_not_there_is_told_by_its_file_and_by_check(
    tmp_path: Path, right: str, wrong: str
) -> None:
    appended = tmp_path / "logging.ini"
    text = (
        "[loggers]\nkeys = root\n[handlers]\nkeys = one\n[formatters]\nkeys =\n"
        "[logger_root]\nhandlers = one\n[handler_one]\nclass = NullHandler\nargs = ()\n"
    )
    assert right in text
    appended.write_text(text.replace(right, wrong))
    conf = configured(tmp_path, f"log_config_append = {appended}")
    before = logging.getLogger().handlers[:]
    with pytest.raises(ConfigError, match=rf"log_config_append: .*{appended}") as refused:
        log_setup.set_up_logging(conf)
    (found,) = check.log(conf)
    assert (found.level, found.text) == (FAILURE, str(refused.value))
    assert logging.getLogger().handlers == before


def test_check_opens_nothing_that_a_configuration_of_the_log_names_and_keeps_the_log(tmp_path: Path) -> None:
    appended, path = tmp_path / "logging.ini", tmp_path / "daemon.log"
    appended.write_text(
        "[loggers]\nkeys = root, other\n[handlers]\nkeys = one, two\n[formatters]\nkeys = one\n"
        "[logger_root]\nhandlers = one\n[logger_other]\nqualname = other\nhandlers = two\npropagate = 0\n"
        f"[handler_one]\nclass = handlers.WatchedFileHandler\nargs = ('{path}',)\nformatter = one\n"
        "[handler_two]\nclass = logging.StreamHandler\nargs = (sys.stdout,)\nlevel = ERROR\n"
        "[formatter_one]\nclass = oslo_log.formatters.ContextFormatter\n"
    )
    configured(tmp_path, f"log_config_append = {appended}")
    look = (
        "import logging, sys\nfrom panko_ingest.cli import check\nfrom panko_ingest.cli.main import read\n"
        "conf, kept = read(sys.argv[1:]), logging.getLogger().handlers[:]\n"
        "assert not [*check.log(conf)]\n"
        "assert logging.getLogger().handlers == kept\n"
        "assert logging.getLogger('other').propagate and not logging.getLogger('other').handlers\n"
    )
    subprocess.run(
        [sys.executable, "-c", look, "--config-file", tmp_path / "panko-ingest.conf", "check"],
        timeout=60,
        check=True,
    )
    assert not path.exists()


def test_a_format_of_a_configuration_of_the_log_is_left_to_its_handlers(tmp_path: Path) -> None:
    appended = tmp_path / "logging.ini"
    appended.write_text(
        "[loggers]\nkeys = root\n[handlers]\nkeys = one\n[formatters]\nkeys = one\n"
        "[logger_root]\nhandlers = one\n[handler_one]\nclass = NullHandler\nformatter = one\nargs = ()\n"
        "[formatter_one]\nformat = %(what_the_handler_adds)s\n"
    )
    configured(tmp_path, f"log_config_append = {appended}")
    # Elsewhere, as it changes the loggers of libraries, too.
    set_up = (
        "import sys\nfrom panko_ingest.config_reader import prepare_service\nprepare_service(sys.argv[1:])"
    )
    subprocess.run(
        [sys.executable, "-c", set_up, "--config-file", tmp_path / "panko-ingest.conf"],
        timeout=60,
        check=True,
    )


def handlers_and_filters() -> list[tuple[object, list[object]]]:
    root = logging.getLogger()
    return [(one, [*one.filters]) for one in (root, *root.handlers)]


def test_check_leaves_the_log_as_it_is_and_makes_no_file(tmp_path: Path) -> None:
    path = tmp_path / "daemon.log"
    conf = configured(tmp_path, f"log_file = {path}\nrate_limit_burst = 1\nrate_limit_interval = 60")
    before = handlers_and_filters()
    log_setup.check(conf)
    assert handlers_and_filters() == before
    assert not path.exists()
    assert conf.log_file == str(path)
