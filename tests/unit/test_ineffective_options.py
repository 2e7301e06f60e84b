"""What stands in a configuration file and has no effect is named, with what to do about it."""

import subprocess
import sys
from pathlib import Path

import pytest
from oslo_config import cfg
from oslo_log import log
from oslo_reports import opts as reports

from panko_ingest import config, ineffective_options
from panko_ingest.amqp import TlsSettings
from panko_ingest.upstream_options import EVENT_PIPELINE, UPSTREAM_OPTIONS, Fate, UpstreamOption
from panko_ingest.workers.from_config import buses
from tests.libraries import needs_options_of_today


@pytest.fixture
def conf() -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    config.register_opts(conf)
    log.register_options(conf)
    reports.set_defaults(conf)
    return conf


def unread(conf: cfg.ConfigOpts, folder: Path, text: str) -> list[str]:
    path = folder / "panko-ingest.conf"
    path.write_text(text)
    conf([], default_config_files=[str(path)], default_config_dirs=[])
    return [str(option).removeprefix(f"{path}:") for option in ineffective_options.find(conf)]


def test_a_sound_file_has_no_ineffective_options(conf: cfg.ConfigOpts, tmp_path: Path) -> None:
    text = "[DEFAULT]\ndebug = true\n[notification]\npool = ours\n[Database]\nconnection = sqlite://\n"
    assert unread(conf, tmp_path, text) == []


def test_each_of_several_lines_is_told_by_its_own_number(conf: cfg.ConfigOpts, tmp_path: Path) -> None:
    text = "[notification]\nmessage_url = a\nmessage_urls = b\nmessage_urls = c\n  d\n\nmessage_urls = e\n"
    numbers = [told.partition(" ")[0] for told in unread(conf, tmp_path, text)]
    assert numbers == ["2", "3", "4", "7"]


def test_old_names_that_are_still_read_are_not_ineffective(conf: cfg.ConfigOpts, tmp_path: Path) -> None:
    text = "[DEFAULT]\nnotification_workers = 3\n[database]\nidle_timeout = 60\n[storage]\nmax_retries = 3\n"
    text += f"[DEFAULT]\nlogfile = {tmp_path}/log\n"
    assert unread(conf, tmp_path, text) == []
    assert (conf.notification.workers, conf.database.max_retries) == (3, 3)


def test_a_variable_of_the_environment_that_no_option_reads_is_told(
    conf: cfg.ConfigOpts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DATABASE__CONNECTION", "DEFAULT__TRANSPORT_URL", "USERNAME", "AUTH_TYPE", "TRANSPORT_URL"):
        monkeypatch.setenv(f"OS_{name}", "read, or no option's")
    for name in ("DATABASE__CONNECTON", "DATABASE__SQL_CONNECTION", "NOTIFICATIONS__WORKERS", "API__PORT"):
        monkeypatch.setenv(f"OS_{name}", "S3cret")
    for name in ("DATABASE_CONNECTION", "DEFAULT_TRANSPORT_URL"):  # with one underscore
        monkeypatch.setenv(f"OS_{name}", "S3cret")
    assert [told.removeprefix("environment variable OS_") for told in unread(conf, tmp_path, "")] == [
        "API__PORT: [api] port: ignored: for a REST API, which this project does not have",
        "DATABASE_CONNECTION: [database] connection: unknown, did you mean OS_DATABASE__CONNECTION?",
        "DATABASE__CONNECTON: [database] connecton: unknown, did you mean [database] connection?",
        "DATABASE__SQL_CONNECTION: [database] sql_connection: use [database] connection",
        "DEFAULT_TRANSPORT_URL: [DEFAULT] transport_url: unknown, did you mean OS_DEFAULT__TRANSPORT_URL?",
        "NOTIFICATIONS__WORKERS: [notifications] workers: unknown, did you mean [notification] workers?",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[notification]\nbatchsize = 3", "batchsize: unknown, did you mean [notification] batch_size?"),
        ("[DEFAULT]\nbatch_size = 3", "batch_size: unknown, did you mean [notification] batch_size?"),
        ("[datbase]\nconnection = x", "connection: unknown, did you mean [database] connection?"),
        ("[DEFAULT]\ndebugg = x", "debugg: unknown, did you mean [DEFAULT] debug?"),
        ("[flavour]\nvanilla = x", "vanilla: unknown"),
        (
            "[database]\nmetering_time_to_live = 1",
            "metering_time_to_live: ignored: for meters; only events are made here",
        ),
        ("[polling]\ncfg_file = x", "cfg_file: ignored: for polling, which this daemon does not do"),
        (
            "[oslo_messaging_rabbit]\nrabbit_qos_prefetch_count =\n  100\n",
            "rabbit_qos_prefetch_count: use [notification] prefetch_count",
        ),
    ],
)
def test_an_ineffective_option_is_told_with_its_line_and_the_remedy(
    conf: cfg.ConfigOpts, tmp_path: Path, text: str, said: str
) -> None:
    group = text.partition("\n")[0]
    assert unread(conf, tmp_path, f"# a comment\n\n{text}") == [f"4 {group} {said}"]


@pytest.mark.parametrize(
    "text",
    [
        "[DEFAULT]\ntransport_url = rabbit://u:first\nS3cret@127.0.0.1:1/v",
        "[DEFAULT]\ntransport_url = rabbit://u:first\nS3cret=@127.0.0.1:1/v",
        "[DEFAULT]\ntransport_url = rabbit://u:x@h,u:\nS3cret=\nS3cret=@127.0.0.1:1/v",
        "[database]\nconnection = postgresql://p:first\nS3cret@db1/panko?sslmode=verify-full",
        "[S3cret@h/v]\nx = y",
    ],
)
def test_what_is_no_options_name_is_not_shown_for_it_may_be_a_part_of_a_password(
    conf: cfg.ConfigOpts, tmp_path: Path, text: str
) -> None:
    *torn, last = unread(conf, tmp_path, f"{text}\n[event]\ntyp = x\n")
    assert torn
    assert all(one.endswith(": no option's name; does it belong to the line before?") for one in torn)
    assert "S3cret" not in str(torn)
    assert "[event] typ: unknown" in last


@pytest.mark.parametrize("url", ["http://[::1]:15672", "http://h:15672/path", "http://h", "https://u:p@h"])
def test_a_url_that_is_whole_hides_no_name_after_it(conf: cfg.ConfigOpts, tmp_path: Path, url: str) -> None:
    assert unread(conf, tmp_path, f"[notification]\nmanagement_urls = {url}\nbatchsize = 3\n") == [
        "3 [notification] batchsize: unknown, did you mean [notification] batch_size?"
    ]


def test_ineffective_options_are_found_in_every_config_dir(conf: cfg.ConfigOpts, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    (first / "b.conf").write_text("[event]\ntype = x\n")
    (first / "a.conf").write_text("[event]\ntyp = x\n")
    (first / "a.conf.old").write_text("[event]\nty = x\n")
    (second / "a.conf").write_text("[event]\nt = x\n")
    conf(["--config-dir", str(first), "--config-dir", str(second)], default_config_files=[])
    assert [option.name for option in ineffective_options.find(conf)] == ["typ", "type", "t"]


def test_credentials_that_only_root_may_read_are_read_last_and_looked_at_too(tmp_path: Path) -> None:
    for folder, text in (
        ("panko-ingest.conf.d", "[event]\ntypes = a\n[database]\nevent_time_to_live = 1d\n"),
        ("panko-ingest.credentials.d", "[event]\ntypes = b\ntyp = x\n"),
    ):
        path = tmp_path / ".panko-ingest" / folder / "some.conf"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    code = (
        "from panko_ingest import config_reader, ineffective_options\n"
        "conf = config_reader.prepare_service([])\n"
        "print(conf.event.types, conf.database.event_time_to_live)\n"
        "print(*ineffective_options.find(conf), sep='; ')"
    )
    program = tmp_path / "panko-ingest"  # by this name, everything could be found twice
    program.write_text(code)
    done = subprocess.run(
        [sys.executable, program],
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    values, unread_one = done.stdout.splitlines()
    assert values == "['b'] 86400.0"
    assert "panko-ingest.credentials.d/some.conf:3 [event] typ: unknown" in unread_one
    assert ";" not in unread_one


def test_all_ineffective_options_are_one_line_of_the_log(
    conf: cfg.ConfigOpts, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unread(conf, tmp_path, "[event]\ntyp = x\n[api]\npaste = x\n")
    ineffective_options.warn(ineffective_options.find(conf))
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "[event] typ: unknown" in record.getMessage()
    assert "[api] paste: ignored" in record.getMessage()


def is_registered(conf: cfg.ConfigOpts, option: UpstreamOption) -> bool:
    if option.group == "DEFAULT":
        return option.name in conf
    return option.group in conf and (option.name == "*" or option.name in conf[option.group])


def test_options_that_the_table_calls_the_same_exist_and_the_others_do_not(conf: cfg.ConfigOpts) -> None:
    wrong = [
        (option.group, option.name)
        for option in UPSTREAM_OPTIONS
        if option.file != EVENT_PIPELINE and is_registered(conf, option) != (option.fate is Fate.SAME)
    ]
    assert wrong == []


def test_every_option_that_the_table_sends_the_reader_to_exists(conf: cfg.ConfigOpts) -> None:
    for option in UPSTREAM_OPTIONS:
        if option.fate is Fate.RENAMED:
            group, _, rest = option.note.removeprefix("[").partition("] ")
            assert rest.split()[0].strip(",;:") in (conf if group == "DEFAULT" else conf[group]), option


def test_no_option_is_in_the_table_of_ceilometers_options_twice() -> None:
    names = [(option.file == EVENT_PIPELINE, option.group, option.name) for option in UPSTREAM_OPTIONS]
    assert len(names) == len(set(names))


@needs_options_of_today()
@pytest.mark.parametrize("library", ["oslo.log", "oslo.messaging", "oslo.reports"])
def test_every_option_of_the_libraries_is_in_the_table_of_ceilometers_options(library: str) -> None:
    # In a process of its own, for they warn of much while they are imported.
    code = (
        "from importlib.metadata import entry_points\n"
        f"(entry,) = entry_points(group='oslo.config.opts', name={library!r})\n"
        "for group, options in entry.load()():\n"
        "    for option in options: print(group or 'DEFAULT', option.dest)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    theirs = {tuple(line.split()) for line in done.stdout.splitlines()}
    classed = {(option.group, option.name) for option in UPSTREAM_OPTIONS}
    assert theirs
    assert [option for option in theirs if not {option, (option[0], "*")} & classed] == []


def test_old_names_on_which_security_hangs_are_read(conf: cfg.ConfigOpts, tmp_path: Path) -> None:
    text = (
        "[DEFAULT]\nnotification_transport_url = rabbit://u:p@h/v\nnotification_topics = a,b\n"
        "rabbit_login_method = EXTERNAL\nsql_connection = sqlite://\nsql_max_retries = 3\n"
        "[oslo_messaging_rabbit]\nrabbit_use_ssl = True\nkombu_ssl_ca_certs = /ca\nkombu_ssl_certfile = /c\n"
        "kombu_ssl_keyfile = /k\n[DATABASE]\nsql_idle_timeout = 60\n"
    )
    assert unread(conf, tmp_path, text) == []
    (bus,) = buses(conf)
    assert bus.name == "h:5671/v"
    assert bus.brokers[0].tls == TlsSettings("/ca", "/c", "/k", strict=sys.version_info >= (3, 13))
    assert bus.brokers[0].login_method == "EXTERNAL"
    assert conf.oslo_messaging_notifications.topics == ["a", "b"]
    assert config.database_url(conf).url == "sqlite://"
    assert (conf.database.max_retries, conf.database.connection_recycle_time) == (3, 60)
