"""What a reload of the configuration may change, and what it refuses."""

import logging
import os
from pathlib import Path

import pytest
from oslo_config import cfg
from oslo_log import rate_limit

from panko_ingest.cli.main import read
from panko_ingest.errors import ConfigError
from panko_ingest.log_setup import set_up_logging
from panko_ingest.workers.live_config import LiveConfig

BEFORE = """\
[DEFAULT]
transport_url = rabbit://one/
[database]
connection = postgresql://one/events
[notification]
workers = 2
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "panko-ingest.conf"
    path.write_text(BEFORE)
    return path


def prepare(path: Path) -> cfg.ConfigOpts:
    return read(["--config-file", str(path), "serve"])


@pytest.fixture
def live_config(path: Path) -> LiveConfig:
    # Without a change of this process' logging.
    return LiveConfig(prepare(path), lambda: prepare(path), lambda _: None)


def test_a_good_configuration_comes_into_force(path: Path, live_config: LiveConfig) -> None:
    path.write_text(
        BEFORE + "batch_size = 7\nmessaging_urls = rabbit://one/\nmessaging_urls = rabbit://two/\n"
    )
    assert live_config.reload()
    assert live_config.settings.conf.notification.batch_size == 7
    assert len(live_config.settings.buses) == 2
    assert live_config.version == 1


@pytest.mark.parametrize(
    ("added", "named"),
    [
        ("batch_size = 32768", ":7 [notification] batch_size: is no number"),
        ("batch_size = many", ":7 [notification] batch_size: is no number of 1 or more"),
        ("prefetch_count = 5", "[notification] prefetch_count"),
        ("workers = 0", ":7 [notification] workers: is no number of 1 or more"),
        ("[DEFAULT]\ndebug = True  # for a day", ":8 [DEFAULT] debug: is neither true nor false"),
        ("[DEFAULT]\ndebug =", ":8 [DEFAULT] debug: is neither true nor false"),
        ("# caf\xe9 with a Latin-1 byte", ":7: is no UTF-8"),
        ("no assignment", ":7: No ':' or '=' found in assignment"),
        ("[oslo_reports]\nfile_event_handler_interval = x", ":8 [oslo_reports] file_event_handler_interval"),
        (
            "[database]\nevent_connection = mysql://u:SECRET$WORD@h/d",
            ":8 [database] event_connection: holds a $",
        ),
        (
            "[database]\n  event_connection = mysql://u:SECRET@h/d",
            ":8: Unexpected continuation line",
        ),
        (
            "[DEFAULT]\ndebug = true\n  transport_url = rabbit://u:SECRET@h/",
            ":8 [DEFAULT] debug: is neither true nor false",
        ),
        (
            "[database]\nevent_connection = mysql://h/d\n  slow = SECRET",
            "[database] event_connection: holds a URL and the line after it",
        ),
        (
            "messaging_urls = rabbit://one/\n  password = SECRET",
            "[notification] messaging_urls: holds a URL and the line after it",
        ),
        ("[DEFAULT]\nlog_file = SECRET$log_dir\nlog_dir = $log_file", "options stand for one another"),
        ("[DEFAULT]\nlog_file = SECRET\ndebug = $log_file", "[DEFAULT] debug: can't be used"),
        ("[DEFAULT]\nlog_file = $transport_url", ":8 [DEFAULT] log_file: stands for an option"),
        ("[oslo_messaging_rabbit]\nssl = yes\nssl_ca_file = nowhere.pem", "nowhere.pem"),
        (
            "require_durable = true\nmessaging_urls = sqla+sqlite:///bus.sqlite",
            "sqla+sqlite:// is an embedded",
        ),
        ("messaging_urls = sqla+mysql://u:SECRET@h/d", "sqla+mysql: the driver MySQLdb is not installed"),
        ("messaging_urls = sqla+nonsense://u:SECRET@h/d", "sqla+nonsense: there is no such driver"),
        ("messaging_urls = sqla+sqlite://u:SECRET@h:p/d", "sqla+sqlite: can't be used"),
        (
            "messaging_urls = rabbit://one/\nmessaging_urls = kafka://u:SECRET@kafka1:9092/",
            "[notification] messaging_urls, number 2 of 2: nothing is read from kafka://",
        ),
        (
            "messaging_urls = rabbit://a:SECRET@one/v\nmessaging_urls = rabbit://b:SECRET@one:5672/v",
            "[notification] messaging_urls: one:5672/v is there more than once",
        ),
        ("[event]\ndefinitions_cfg_file = nowhere.yaml", "[event] definitions_cfg_file"),
    ],
)
def test_a_configuration_at_fault_is_refused_by_its_option_and_the_old_one_stays(
    path: Path, live_config: LiveConfig, caplog: pytest.LogCaptureFixture, added: str, named: str
) -> None:
    path.write_bytes(f"{BEFORE}{added}\n".encode("latin-1"))
    before = live_config.settings
    assert not live_config.reload()
    assert live_config.settings is before
    assert live_config.version == 0
    assert named in caplog.text
    assert "SECRET" not in caplog.text
    assert caplog.text.count(named) == 1
    assert "many" not in caplog.text
    assert "SECRET" not in caplog.text


def test_a_file_that_goes_away_while_it_is_read_is_a_refusal_that_names_it(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def read_then_lose() -> cfg.ConfigOpts:
        conf = prepare(path)
        path.unlink()
        return conf

    live_config = LiveConfig(prepare(path), read_then_lose, lambda _: None)
    assert not live_config.reload()
    assert f"{path}: No such file" in caplog.text


def test_a_pipe_in_place_of_the_file_is_refused_and_waited_for_by_nobody(
    path: Path, live_config: LiveConfig, caplog: pytest.LogCaptureFixture
) -> None:
    before = path.read_text()
    path.unlink()
    os.mkfifo(path)
    assert not live_config.reload()
    assert f"{path}: is a pipe" in caplog.text
    path.unlink()
    path.write_text(before)
    assert live_config.reload()


def test_a_log_file_that_cannot_be_opened_leaves_the_limit_of_lines_as_it_was(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_text(f"{BEFORE}[DEFAULT]\nlog_file = {path}/log\n")
    rate_limit.install_filter(5, 60, "CRITICAL")
    try:
        with pytest.raises(ConfigError, match="log_file"):
            set_up_logging(prepare(path))
        caplog.clear()
        for _ in range(100):
            logging.getLogger(__name__).warning("a line of many")
    finally:
        rate_limit.uninstall_filter()
    assert caplog.text.count("a line of many") == 5


@pytest.mark.parametrize("url", ["sqla+sqlite:///bus.sqlite", "filesystem:///tmp/a+b"])
def test_an_embedded_transport_is_warned_of(
    path: Path, live_config: LiveConfig, caplog: pytest.LogCaptureFixture, url: str
) -> None:
    path.write_text(f"{BEFORE}messaging_urls = {url}\n")
    assert live_config.reload()
    assert "may lose messages" in caplog.text


def test_definitions_that_changed_on_disk_are_not_read_before_a_reload(
    path: Path, tmp_path: Path, live_config: LiveConfig, caplog: pytest.LogCaptureFixture
) -> None:
    definitions = tmp_path / "definitions.yaml"
    definitions.write_text("- event_type: '*'\n  traits: {}\n")
    path.write_text(f"{BEFORE}[event]\ndefinitions_cfg_file = {definitions}\n")
    assert live_config.reload()
    before = live_config.settings.converter
    definitions.write_text("- event_type: x\n  traits: [no, dict]\n")
    assert live_config.settings.converter is before
    assert not live_config.reload()
    assert str(definitions) in caplog.text
    assert live_config.settings.converter is before


def test_definitions_of_the_operator_that_are_gone_are_not_replaced_by_those_that_ship(
    path: Path, live_config: LiveConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    definitions = tmp_path / "event_definitions.yaml"
    definitions.write_text("- {event_type: mine, traits: {a: {fields: payload.a}}}\n")
    assert live_config.reload()
    assert live_config.settings.definitions == definitions
    definitions.rename(tmp_path / "elsewhere")
    assert not live_config.reload()
    assert f"definitions_cfg_file: {definitions} is not there any more" in caplog.text
    assert live_config.settings.definitions == definitions
    (tmp_path / "elsewhere").rename(definitions)
    assert live_config.reload()
