"""What tenants and publishers wrote does nothing to terminals, logs and spreadsheets."""

import contextlib
import csv
import io
import json
import logging
import re
from collections.abc import Iterator

import pytest
from hypothesis import given, strategies as st
from oslo_log.formatters import ContextFormatter, JSONFormatter

from panko_ingest import config_reader, foreign_text, guarded_log
from panko_ingest.cli import output
from tests.unit.clock import Clock

EVIL = "a\x1b[2J\x9b2J\r\n2026-01-01 CRITICAL x\u202e\x7f\0"


@given(st.text())
def test_what_is_shown_has_no_control_characters(text: str) -> None:
    assert foreign_text.escaped(text).isprintable()
    shown = foreign_text.escaped_json(json.dumps({"a": text}, ensure_ascii=False))
    assert json.loads(shown) == {"a": text}
    assert not set(shown) & {"\x1b", "\x9b", "\x7f", "\u202e"}


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_no_form_of_output_reaches_the_terminal_with_escapes(
    form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output.rows_in(
        form, ("name",), [EVIL], as_row=lambda item: [item], as_document=lambda item: {"name": item}
    )
    output.document({"name": EVIL})
    output.write(EVIL)
    output.tell(EVIL)
    written, told = capsys.readouterr()
    assert "a\\x1b[2J" in written or "a\\u001b[2J" in written
    assert told.startswith("a\\x1b[2J")
    assert not set(written + told) & {"\x1b", "\x9b", "\r", "\x7f", "\0", "\u202e"}


def test_on_a_terminal_a_table_has_no_escapes_but_its_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    output.table(("name",), [[EVIL]])
    written = capsys.readouterr().out
    assert "[2J" in written
    assert "\x1b[2J" not in written
    assert "\x9b" not in written


def test_no_cell_of_csv_is_a_formula(capsys: pytest.CaptureFixture[str]) -> None:
    output.csv_rows(
        ("a", "b", "c"), [['=HYPERLINK("http://evil")', "@x", "+1"], ["-x", -5, "a=b"], ["\t=1", 1.5, "a;=b"]]
    )
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert rows[1:] == [
        ['\'=HYPERLINK("http://evil")', "'@x", "'+1"],
        ["'-x", "-5", "a=b"],
        ["\\t=1", "1.5", "a;'=b"],
    ]


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def logger(lines: list[str], clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[logging.Logger]:
    """A logger as those of modules that log about messages, with a clock of its own."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    before = logging.getLogRecordFactory()
    monkeypatch.setattr("panko_ingest.guarded_log._rate", guarded_log._Rate(clock))
    guarded_log.guard_log()
    logger = guarded_log.logger_about_messages("tests.foreign_text")
    monkeypatch.setattr(logger, "filters", [guarded_log._rate])
    monkeypatch.setattr(logger, "handlers", [Handler()])
    monkeypatch.setattr(logger, "propagate", False)
    yield logger
    logging.setLogRecordFactory(before)


def test_no_argument_forges_a_line_of_the_log_or_makes_it_long(
    logger: logging.Logger, lines: list[str]
) -> None:
    logger.warning("%s: trait %s", EVIL, "x" * 1_000_000)
    logger.warning("%(name)s", {"name": EVIL})
    logger.warning("refused: %s", ValueError("one\ntwo\x1b[2J"))
    assert lines[0].startswith("a\\x1b[2J\\x9b2J\\r\\n2026-01-01 CRITICAL")
    assert len(lines[0]) < 1000
    assert lines[1] == foreign_text.escaped(EVIL)
    assert lines[2] == "refused: one\n    two\\x1b[2J"


def test_no_argument_makes_a_log_in_json_long(logger: logging.Logger) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JSONFormatter())
    logger.handlers = [handler]
    logger.warning("%s: trait %s", EVIL, "x" * 1_000_000)
    logger.warning("%(name)s", {"name": "x" * 1_000_000})
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert first["message"].startswith("a\\x1b[2J\\x9b2J\\r\\n2026-01-01 CRITICAL")
    assert len(stream.getvalue()) < 6000
    assert second["args"]["name"] == second["message"]


def test_no_error_makes_the_log_long(logger: logging.Logger, lines: list[str]) -> None:
    logger.warning("refused: %s", ValueError("e" * 3_000_000))
    logger.warning("refused: %s", ["\x1b" * 3_000_000])
    assert max(map(len, lines)) < 100_000
    stream = io.StringIO()
    logger.handlers[:] = [logging.StreamHandler(stream)]
    for text in ("e" * 3_000_000, "e\n" * 1_000_000):
        logger.error("It failed", exc_info=ValueError(text))
    assert "ValueError: eee" in stream.getvalue()
    assert len(stream.getvalue()) < 100_000


@pytest.mark.parametrize(
    "formatter",
    [
        logging.Formatter("%(levelname)s %(message)s"),
        ContextFormatter(config=config_reader.read(["--config-file", "/dev/null"])),
    ],
    ids=["plain", "oslo.log"],
)
def test_no_text_of_an_exception_forges_a_line_of_the_log(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch, formatter: logging.Formatter
) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    monkeypatch.setattr(logger, "handlers", [handler])
    error = ValueError(f"{EVIL}\n2026-01-01 CRITICAL y")
    error.__cause__ = KeyError(EVIL)
    with contextlib.suppress(ValueError):
        raise error
    logger.error("It failed", exc_info=error)
    written = stream.getvalue()
    assert "ValueError" in written
    assert not set(written) & {"\x1b", "\x9b", "\r", "\x7f", "\0", "\u202e"}
    first, *rest = written.rstrip("\n").split("\n")
    assert "It failed" in first
    assert all(re.match(r"    |\S+ \S+ \d+ ERROR tests\.foreign_text", line) for line in rest), written


def test_all_lines_about_messages_together_have_a_rate(
    logger: logging.Logger, lines: list[str], clock: Clock
) -> None:
    for number in range(1000):
        logger.warning("%d", number)
    assert lines == [str(number) for number in range(60)]
    clock.advance(61)
    logger.warning("later")
    logger.warning("again")
    assert lines[60:] == ["later [940 more lines about messages were left out]", "again"]
