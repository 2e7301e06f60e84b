"""A configuration that can't be read is refused by file and line, whichever way it came, and never quoted."""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import pytest

from panko_ingest.cli import aliases, main, upgrade_check

SECRET = "S3cretPart"

TEXTS = {
    "an indented line": (
        f"[database]\n  connection = postgresql://panko:{SECRET}@h/d\n",
        "{}:2: Unexpected continuation line",
    ),
    "a line torn in its password": (
        f"[database]\nconnection = postgresql://panko:first\n{SECRET}\n",
        "{}:3: No ':' or '=' found in assignment",
    ),
    "a line before any section": (
        f"connection = postgresql://panko:{SECRET}@h/d\n",
        "{}:1: Section must be started before assignment",
    ),
    "a section without an end": (
        f"[DEFAULT]\n[database = {SECRET}\n",
        "{}:2: Invalid section (must end with ])",
    ),
    "a password with a $": (
        f"[database]\nconnection = postgresql://panko:x${SECRET}@h/d\n",
        "{}:2 [database] connection: holds a $",
    ),
    "a password with a ${": (
        f"[DEFAULT]\ntransport_url = rabbit://u:x${{{SECRET}}}@h/v\n",
        "{}:2 [DEFAULT] transport_url: holds a $",
    ),
    "an option that stands for a password": (
        f"[DEFAULT]\ntransport_url = rabbit://u:{SECRET}@h/v\ndebug = $transport_url\n",
        "{}:3 [DEFAULT] debug: stands for an option that may hold a password",
    ),
    "an option of the command line that stands for another": (
        f"[DEFAULT]\nlog_file = {SECRET}\ndebug = $log_file\n",
        "[DEFAULT] debug: can't be used",
    ),
    "options that stand for one another": (
        f"[DEFAULT]\nlog_file = {SECRET}$log_dir\nlog_dir = $log_file\n",
        "options stand for one another without end",
    ),
    "a time for which RabbitMQ has no number": (
        "[notification]\nconsumer_timeout = 99999999999999999999\n",
        "{}:2 [notification] consumer_timeout: is longer than 4294967 s",
    ),
    "a wrong line behind blanks that end no line": (
        f"[DEFAULT]\n# a\x0cb\u2028c\n[notification]\nworkers = {SECRET}\n",
        "{}:4 [notification] workers: is no number",
    ),
    "a wrong value before a good one": (
        f"[notification]\nworkers = {SECRET}\nworkers = 3\n",
        "{}:2 [notification] workers: is no number",
    ),
    "a number that is left blank": (
        "[notification]\nbatch_size =\n",
        "{}:2 [notification] batch_size: is no number of 1 or more and up to 32767",
    ),
    "a number that is left blank, and stands for another": (
        "[notification]\nbatch_size = $pool\npool =\n",
        "[notification] batch_size: is no number of 1 or more and up to 32767",
    ),
    "a time that is no number": (
        "[database]\nlock_timeout = nan\n",
        "{}:2 [database] lock_timeout: is no number of 0 or more and up to 86400",
    ),
    "a time that no clock can count": (
        "[database]\nstatement_timeout = inf\n",
        "{}:2 [database] statement_timeout: is no number of 0 or more and up to 86400",
    ),
    "a byte order mark": (
        f"\ufeff[database]\nconnection = postgresql://panko:{SECRET}@h/d\n",
        "{}:1: begins with a byte order mark: write the file without one",
    ),
    "levels of the log that there are not": (
        f"[DEFAULT]\ndefault_log_levels = amqp={SECRET}\n",
        "[DEFAULT] default_log_levels: is no list of logger=LEVEL",
    ),
    "a topic that makes a name too long": (
        f"[oslo_messaging_notifications]\ntopics = {'é' * 127}\n",
        "[oslo_messaging_notifications] topics: a name of 260 bytes, of which AMQP takes 255",
    ),
    "a pool with a name too long": (
        f"[notification]\npool = {'p' * 256}\n",
        "[notification] pool: a name of 256 bytes, of which AMQP takes 255",
    ),
    "an exchange with a name too long": (
        f"[notification]\nnotification_control_exchanges = {'e' * 256}\n",
        "[notification] notification_control_exchanges: a name of 256 bytes",
    ),
    "a heartbeat that AMQP has no room for": (
        "[oslo_messaging_rabbit]\nheartbeat_timeout_threshold = 65536\n",
        "{}:2 [oslo_messaging_rabbit] heartbeat_timeout_threshold: ",
    ),
}

WAYS = {
    "a file": ["--config-file", "{home}/x.conf"],
    "a file behind =": ["--config-file={home}/x.conf"],
    "a file at home": ["--config-file", "~/x.conf"],
    "a file at home behind =": ["--config-file=~/x.conf"],
    "an abbreviation": ["--config-f", "~/x.conf"],
    "an abbreviation with =": ["--config-fil={home}/x.conf"],
    "a folder": ["--config-dir", "{home}/folder"],
    "a folder at home, abbreviated": ["--config-d", "~/folder"],
    "the default file": [],
    "the default folder": [],
    "the folder of credentials": [],
}

PLACES = {
    "a folder": "folder/x.conf",
    "a folder at home, abbreviated": "folder/x.conf",
    "the default file": ".panko-ingest/panko-ingest.conf",
    "the default folder": ".panko-ingest/panko-ingest.conf.d/x.conf",
    "the folder of credentials": ".panko-ingest/panko-ingest.credentials.d/x.conf",
}

PROGRAMS: dict[str, tuple[Callable[[], int], list[str]]] = {
    "panko-ingest": (main.main, ["check"]),
    "panko-ingest-status": (upgrade_check.main, ["upgrade", "check"]),
    "panko-ingest-dbsync": (aliases.dbsync, []),
    "panko-ingest-expirer": (aliases.expirer, []),
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home with nothing in it; what commands do to logging is undone."""
    monkeypatch.setenv("HOME", str(tmp_path))
    factory = logging.getLogRecordFactory()
    yield tmp_path
    logging.setLogRecordFactory(factory)


def refusal(
    program: str,
    arguments: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    *,
    behind: bool = False,
) -> str:
    """Return the one line that a program ends with; its arguments stand before its command, or behind it."""
    run, command = PROGRAMS[program]
    words = [*command, *arguments] if behind else [*arguments, *command]
    monkeypatch.setattr("sys.argv", [program, *words])
    assert run() == 2
    output, errors = capsys.readouterr()
    assert output == ""
    (line,) = errors.splitlines()
    assert SECRET not in line
    return line


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("way", WAYS)
def test_a_torn_line_is_told_by_file_and_line_whichever_way_the_file_came(
    home: Path,
    way: str,
    program: str,
    behind: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = home / PLACES.get(way, "x.conf")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(TEXTS["an indented line"][0])
    arguments = [word.format(home=home) for word in WAYS[way]]
    line = refusal(program, arguments, capsys, monkeypatch, behind=behind)
    assert line == f"panko-ingest: {path}:2: Unexpected continuation line"


@pytest.mark.parametrize(
    "command", ["serve", "db sync", "db merge", "check", "events list", "dead-letters show"]
)
def test_every_command_reads_the_files_that_are_named_behind_it_and_says_so(
    home: Path, command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = home / "x.conf"
    path.write_text(TEXTS["an indented line"][0])
    monkeypatch.setitem(PROGRAMS, command, (main.main, command.split()))
    line = refusal(command, ["--config-file", str(path)], capsys, monkeypatch, behind=True)
    assert line == f"panko-ingest: {path}:2: Unexpected continuation line"
    with pytest.raises(SystemExit):
        main.main([*command.split(), "--help"])
    assert "--config-file FILE" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["check --config-file", "check --config-dir", "check --config-file --json"])
def test_a_file_that_is_not_named_is_missed(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main.main(text.split())
    assert f"argument {text.split()[1]}: expected one argument" in capsys.readouterr().err


@pytest.mark.parametrize("program", ["panko-ingest", "panko-ingest-status"])
@pytest.mark.parametrize("text", TEXTS)
def test_no_refusal_of_a_configuration_quotes_it(
    home: Path, text: str, program: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    content, said = TEXTS[text]
    path = home / "x.conf"
    path.write_text(content)
    line = refusal(program, ["--config-file", "~/x.conf"], capsys, monkeypatch)
    assert line.startswith(f"panko-ingest: {said.format(path)}")


@pytest.mark.parametrize("program", ["panko-ingest", "panko-ingest-status"])
@pytest.mark.parametrize(
    "option",
    ["[DEFAULT] debug", "[DEFAULT] log_rotate_interval", "[oslo_reports] file_event_handler_interval"],
)
def test_no_refusal_of_what_the_environment_sets_quotes_it(
    home: Path,
    option: str,
    program: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    group, name = option.strip("[").split("] ")
    monkeypatch.setenv(f"OS_{group}__{name}".upper(), SECRET)
    line = refusal(program, ["--config-file", "/dev/null"], capsys, monkeypatch)
    variable = f"OS_{group}__{name}".upper()
    assert line.startswith(f"panko-ingest: environment variable {variable}: {option}: is n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve", "--transport-url", f"rabbit://u:{SECRET}@h/"],
        [f"postgresql://u:{SECRET}@h/d"],
        ["--config-file", "x.conf", f"--connection=mysql://u:{SECRET}@h/d", "check"],
    ],
)
def test_what_is_no_command_line_is_refused_without_the_password_of_a_url(
    home: Path, arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "x.conf").touch()
    monkeypatch.chdir(home)
    monkeypatch.setattr("sys.argv", ["panko-ingest", *arguments])
    with pytest.raises(SystemExit) as ended:
        main.main()
    output, errors = capsys.readouterr()
    assert (ended.value.code, output) == (2, "")
    assert "://***@h/" in errors
    assert SECRET not in errors


def test_another_databases_configuration_is_read_from_its_file_and_not_from_our_environment(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = home / "panko.conf"
    theirs.write_text("[database]\nconnection = nowhere://h/d\n")
    monkeypatch.setenv("OS_DATABASE__CONNECTION", f"sqlite:///{home}/ours.sqlite")
    monkeypatch.setitem(PROGRAMS, "merge", (main.main, ["db", "merge", "--from-file", str(theirs)]))
    line = refusal("merge", ["--config-file", "/dev/null"], capsys, monkeypatch)
    assert "nowhere" in line


def test_a_configuration_of_the_log_that_is_none_is_not_quoted(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = home / "x.conf", home / "other"
    path.write_text(f"[DEFAULT]\nlog_config_append = {other}\n")
    other.write_text(f"connection = postgresql://panko:{SECRET}@h/d\n")
    monkeypatch.setitem(PROGRAMS, "serve", (main.main, ["serve"]))
    line = refusal("serve", ["--config-file", str(path)], capsys, monkeypatch)
    said = f"log_config_append: {other} can't be read: MissingSectionHeaderError"
    assert line.endswith(said)
    assert main.main(["--config-file", str(path), "check"]) == 1
    found = capsys.readouterr().out
    assert said in found
    assert SECRET not in found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        *(TEXTS[name] for name in ("an indented line", "a line torn in its password", "a password with a $")),
        (TEXTS["a line before any section"][0], "{}: is neither a configuration nor a URL"),
        (f"postgresql://panko:first\n{SECRET}@h/d\n", "{}: is neither a configuration nor a URL"),
    ],
)
def test_no_refusal_of_another_databases_configuration_quotes_it(
    home: Path, text: str, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = home / "ours.conf", home / "panko.conf"
    ours.write_text(f"[database]\nconnection = sqlite:///{home}/ours.sqlite\n")
    theirs.write_text(text)
    monkeypatch.setitem(PROGRAMS, "merge", (main.main, ["db", "merge", "--from-file", str(theirs)]))
    line = refusal("merge", ["--config-file", str(ours)], capsys, monkeypatch)
    assert line.startswith(f"panko-ingest: --from-file: {said.format(theirs)}")


def test_a_url_in_place_of_the_file_that_names_another_database_is_not_quoted(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, url = home / "ours.conf", f"mysql://panko:{SECRET}@h/panko"
    ours.write_text(f"[database]\nconnection = sqlite:///{home}/ours.sqlite\n")
    monkeypatch.setitem(PROGRAMS, "merge", (main.main, ["db", "merge", "--from-file", url]))
    line = refusal("merge", ["--config-file", str(ours)], capsys, monkeypatch)
    assert line.startswith("panko-ingest: --from-file: is a URL")


def test_a_source_elsewhere_that_can_not_be_read_is_refused_and_not_quoted(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = home / "served"
    folder.mkdir()
    (folder / "their.conf").write_text(TEXTS["an indented line"][0])
    handler = partial(QuietHandler, directory=str(folder))
    path = home / "x.conf"
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_address[1]}/their.conf"
        path.write_text(f"[DEFAULT]\nconfig_source = there\n[there]\ndriver = remote_file\nuri = {uri}\n")
        line = refusal("panko-ingest", ["--config-file", str(path)], capsys, monkeypatch)
        server.shutdown()
    assert line == "panko-ingest: [DEFAULT] config_source: what it names can't be read"


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files and says nothing of it."""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def test_what_a_path_that_is_no_file_is_refused_for_is_one_line(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = refusal("panko-ingest", ["--config-file", "~"], capsys, monkeypatch)
    assert line == f"panko-ingest: {home}: Is a directory"
    os.mkfifo(home / "pipe")
    line = refusal("panko-ingest", ["--config-file", "~/pipe"], capsys, monkeypatch)
    assert line == f"panko-ingest: {home}/pipe: is a pipe, which can be read only once: write a file"


@pytest.mark.parametrize(
    "command", ["expire", "check", "serve --only expirer", "db partition --partition-by week"]
)
@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("postgres//x", "is no URL"),
        (f"postgresql://u:{SECRET}@nohost:99999/db", "99999 is no port"),
        ("foo://x/y", "no storage driver for 'foo'"),
        ("mysql://u@h/", "names no database"),
        ("postgresql://u@h/d?sslmod=require", "has no option 'sslmod'"),
    ],
)
def test_a_url_of_the_expirers_is_refused_by_the_option_that_holds_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], command: str, url: str, fault: str
) -> None:
    path = tmp_path / "panko-ingest.conf"
    path.write_text(
        f"[database]\nconnection = sqlite:///{tmp_path}/events.sqlite\nevent_time_to_live = 90d\n"
        f"[expirer]\nconnection = {url}\n"
    )
    code = main.main(["--config-file", str(path), *command.split()])
    told = "".join(capfd.readouterr())
    assert (code, "[database]" in told, SECRET in told) == (1 if command == "check" else 2, False, False)
    assert "[expirer] connection: " in told
    assert fault in told


def test_an_old_name_of_the_databases_url_is_the_one_that_is_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "panko-ingest.conf"
    path.write_text("[database]\nevent_connection = foo://x/y\n")
    assert main.main(["--config-file", str(path), "db", "check"]) == 2
    assert "[database] event_connection: no storage driver for 'foo'" in capfd.readouterr().err
