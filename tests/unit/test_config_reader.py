"""What of a configuration is read, as it was meant, and what is refused rather than passed over."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from oslo_config import cfg

from panko_ingest import config, config_reader
from panko_ingest.errors import ConfigError
from panko_ingest.workers import from_config

NOBODY = 65534


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that any user may look into, unlike those of pytest."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@contextlib.contextmanager
def as_another_user() -> Iterator[None]:
    """Be nobody, where we are root, whom no folder is closed to."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def read(path: Path, text: str) -> cfg.ConfigOpts:
    path.write_text(text)
    return config_reader.read(["--config-file", str(path)])


@pytest.mark.parametrize(
    "text",
    [
        "compute.*,!compute.instance.exists",
        '"compute.*", "!compute.instance.exists"',
        "'compute.*','!compute.instance.exists'",
    ],
)
def test_lists_may_be_quoted_as_in_yaml(tmp_path: Path, text: str) -> None:
    conf = read(tmp_path / "x.conf", f"[event]\ntypes = {text}\n")
    assert conf.event.types == ["compute.*", "!compute.instance.exists"]


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("[event]\ntypes =", "types: is empty"),
        ("[event]\ntypes = !*", "types: !* leaves out all"),
        ('[event]\ntypes = ["*"]', "types: is no list of names"),
        ("[event]\ntypes = compute.*;identity.*", "types: is no list of names"),
        ("[event]\ntypes = [compute.*, identity.*]", "types: is no list of names"),
        ("[event]\ntypes = [compute.*]", "types: is no list of names"),
        (
            "[notification]\nnotification_control_exchanges = [nova, neutron]",
            "exchanges: is no list of names",
        ),
        (
            "[notification]\npool = audit\nnotification_control_exchanges =",
            "notification_control_exchanges: is empty",
        ),
        ("[event]\ntypes = compute.* identity.*", "types: is no list of names"),
        ("[event]\nstore_raw = *", "store_raw: there is no priority *"),
        ("[event]\nstore_raw = warning", "store_raw: there is no priority warning"),
        ("[oslo_messaging_notifications]\ntopics = a;b", "topics: is no list of names"),
    ],
)
def test_what_would_store_nothing_or_not_what_was_meant_is_refused(
    tmp_path: Path, option: str, said: str
) -> None:
    with pytest.raises(ConfigError) as refusal:
        read(tmp_path / "x.conf", f"{option}\n")
    assert said in str(refusal.value)


def test_a_glob_may_hold_brackets(tmp_path: Path) -> None:
    conf = read(tmp_path / "x.conf", "[event]\ntypes = compute.[a-i]*, [k-z]*[ab]\n")
    assert conf.event.types == ["compute.[a-i]*", "[k-z]*[ab]"]


def test_names_that_take_a_line_each_may_also_have_commas_between_them(tmp_path: Path) -> None:
    conf = read(
        tmp_path / "x.conf",
        "[event]\nstore_raw = info, ERROR\nstore_raw = audit\n"
        "[notification]\nnotification_control_exchanges = nova,keystone\n",
    )
    assert config.raw_priorities(conf) == ["info", "ERROR", "audit"]
    assert config.control_exchanges(conf) == ["nova", "keystone"]


@pytest.mark.parametrize("mode", [0o000, 0o711])
def test_a_folder_that_is_closed_to_us_is_refused(folder: Path, mode: int) -> None:
    main, closed = folder / "x.conf", folder / "x.conf.d"
    main.write_text("[database]\nevent_time_to_live = 90d\n")
    closed.mkdir()
    (closed / "10.conf").write_text("[database]\nevent_time_to_live = 2555d\n")
    closed.chmod(mode)
    with as_another_user(), pytest.raises(ConfigError, match=f"{closed}: Permission denied"):
        config_reader.read(["--config-file", str(main), "--config-dir", str(closed)])
    closed.chmod(0o755)
    conf = config_reader.read(["--config-file", str(main), "--config-dir", str(closed)])
    assert conf.database.event_time_to_live == 2555 * 86400


def test_the_usual_folder_is_refused_where_it_is_closed_to_us_and_none_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "FOLDER", folder)
    monkeypatch.setenv("HOME", "/nowhere")
    config_reader.read([])
    folder.chmod(0o600)
    with as_another_user():
        with pytest.raises(ConfigError, match=f"{folder}: Permission denied"):
            config_reader.read([])
        config_reader.read(["--config-file", "/dev/null"])


def test_credentials_of_root_alone_are_gone_without_and_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder))
    credentials = folder / ".panko-ingest" / "panko-ingest.credentials.d"
    credentials.mkdir(parents=True)
    (credentials / "10.conf").write_text("[notification]\nworkers = 5\n")
    assert config_reader.read([]).notification.workers == 5
    assert config_reader.closed_credentials() == []
    credentials.chmod(0o600)
    with as_another_user():
        assert config_reader.read([]).notification.workers != 5
        assert config_reader.closed_credentials() == [str(credentials)]


@pytest.mark.parametrize(
    ("name", "text", "read_as"),
    [
        (
            "OS_NOTIFICATION__MESSAGING_URLS",
            "rabbit://a:b@one/\n  rabbit://a:b@two/\n\n",
            ["rabbit://a:b@one/", "rabbit://a:b@two/"],
        ),
        ("OS_NOTIFICATION__MESSAGING_URLS", "rabbit://a:$$@one/", ["rabbit://a:$@one/"]),
        ("OS_NOTIFICATION__MESSAGING_URLS", "", ["rabbit://file/"]),
        ("OS_NOTIFICATION__NOTIFICATION_CONTROL_EXCHANGES", "nova,glance\nheat", ["nova", "glance", "heat"]),
        ("OS_EVENT__STORE_RAW", "error, info", ["error", "info"]),
    ],
)
def test_an_option_of_several_values_in_the_environment_is_read_as_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, read_as: list[str]
) -> None:
    monkeypatch.setenv(name, text)
    text_of_file = "[DEFAULT]\ntransport_url = rabbit://file/\n[event]\nstore_raw = audit\n"
    conf = read(tmp_path / "x.conf", text_of_file)
    readers = {
        "MESSAGING_URLS": lambda conf: [one.url for one in config.bus_urls(conf)],
        "NOTIFICATION_CONTROL_EXCHANGES": config.control_exchanges,
        "STORE_RAW": config.raw_priorities,
    }
    assert readers[name.partition("__")[2]](conf) == read_as


def test_a_fault_of_several_values_in_the_environment_is_told_with_the_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OS_NOTIFICATION__MESSAGING_URLS", "rabbit://a:SECRET$nothing@one/")
    with pytest.raises(ConfigError, match=r"\[notification\] messaging_urls: holds a \$") as refused:
        read(tmp_path / "x.conf", "")
    assert "SECRET" not in str(refused.value)


def test_a_blank_list_of_buses_leaves_the_one_of_transport_url(tmp_path: Path) -> None:
    conf = read(
        tmp_path / "x.conf",
        "[DEFAULT]\ntransport_url = rabbit://file/\n[notification]\nmessaging_urls =\nmanagement_urls =\n",
    )
    assert config.names_a_bus(conf)
    (bus,) = from_config.buses(conf)
    assert bus.name == "file:5672/%2F"
    assert from_config.management_interfaces(conf, [bus]) == [None]


def test_a_blank_among_several_buses_is_refused(tmp_path: Path) -> None:
    """Else a template without the value for a region would leave it unread."""
    conf = read(
        tmp_path / "x.conf", "[notification]\nmessaging_urls = rabbit://SECRET@one/\nmessaging_urls =\n"
    )
    with pytest.raises(ConfigError, match="messaging_urls, number 2 of 2: is blank") as refused:
        from_config.buses(conf)
    assert "SECRET" not in str(refused.value)


@pytest.mark.parametrize(("configured", "kept"), [(1024, 16 * 2**20), (17 * 2**20, 17 * 2**20)])
def test_as_much_of_a_body_is_read_as_can_be_an_event_or_kept_in_a_dead_letter(
    configured: int, kept: int
) -> None:
    conf = cfg.ConfigOpts()
    config.register_opts(conf)
    conf([])
    conf.set_override("max_message_size", configured, "notification")
    assert from_config.topology(conf).largest_body == kept


def test_a_file_that_grows_while_its_lines_are_read_is_told_of_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "panko-ingest.conf"
    path.write_text("[notification]\nbatch_size = lots\n")
    whole = Path.read_bytes

    def read_before_others_write(file: Path) -> bytes:
        content = whole(file)
        file.write_text("\n" * 10 + "[notification]\nbatch_size = 5\n")
        return content

    monkeypatch.setattr(Path, "read_bytes", read_before_others_write)
    with pytest.raises(ConfigError, match=r"panko-ingest\.conf:2 \[notification\] batch_size: "):
        config_reader.read(["--config-file", str(path)])


def test_a_file_in_the_place_of_a_folder_is_not_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "panko-ingest.conf"
    path.write_text("[notification]\nbatch_size = 5\n")
    with pytest.raises(ConfigError, match=r"panko-ingest\.conf: is no folder: name a file by --config-file"):
        config_reader.read(["--config-dir", str(path)])


def test_a_file_that_a_disk_can_not_read_is_named() -> None:
    unreadable = "/proc/self/mem"  # its first page is nobody's, which reads as a fault of the disk does
    with pytest.raises(ConfigError, match=f"{unreadable}: Input/output error"):
        config_reader.read(["--config-file", unreadable])
