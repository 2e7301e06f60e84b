"""What README and docs print: configurations are accepted, commands exist, links lead somewhere."""

import argparse
import ast
import contextlib
import importlib
import io
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from panko_ingest import config_reader, ineffective_options, metrics, option_lines
from panko_ingest.cli.main import COMMANDS
from panko_ingest.converter import EventConverter
from tests.documents import ROOT, Block, anchors, blocks, commands, links, pages
from tests.faults import report

LANGUAGES = {"bash", "ini", "json", "mermaid", "python", "sql", "text", "toml", "yaml"}


def the(block: Block) -> str:
    return str(block)


def test_every_block_is_in_a_language_that_is_checked() -> None:
    assert [str(block) for block in blocks() if block.language not in LANGUAGES] == []


@pytest.mark.parametrize("block", blocks("ini"), ids=the)
def test_every_documented_configuration_is_accepted(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "panko-ingest.conf"
    path.write_text(block.text)
    conf = config_reader.read(["--config-file", str(path)])
    assert ineffective_options.find(conf) == []


def test_the_validator_accepts_every_configuration(tmp_path: Path) -> None:
    # In one file, for it takes a second to start.
    path = tmp_path / "all.conf"
    path.write_text("\n".join(block.text for block in blocks("ini")))
    command: list[str | Path] = [sys.executable, "-W", "ignore", "-m", "oslo_config.validator"]
    command += ["--config-file", ROOT / "etc" / "panko-ingest-config-generator.conf", "--input-file", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def printed_commands() -> list[tuple[str, str]]:
    """Return every command line of ours, with where it stands."""
    found = [(str(block), line.partition(" > ")[0]) for block in blocks("bash") for line in commands(block)]
    for page in pages():  # also those that are indented, or in the text
        text = page.read_text()
        name = str(page.relative_to(ROOT))
        found += [(name, line) for line in re.findall(r"^    (panko-ingest .*)$", text, re.MULTILINE)]
        found += [(name, line) for line in re.findall(r"`(panko-ingest [^`]+)`", text)]
    return [(where, line) for where, line in found if line.split()[0].endswith("panko-ingest")]


def parser(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("panko-ingest")
    parser.add_argument("--config-file")
    parser.add_argument("--config-dir")
    subparsers = parser.add_subparsers(dest="command")
    importlib.import_module(COMMANDS[command]).add_parser(subparsers)
    return parser


def names_a_group_of_commands(words: list[str]) -> bool:
    """Whether prose names several at once: `panko-ingest events`, `panko-ingest events list|show`."""
    return len(words) == 1 or "|" in words[-1] or words[-1] == "FILE..."


def test_every_documented_command_is_one_that_we_have() -> None:
    wrong = []
    for where, line in printed_commands():
        words = shlex.split(line.replace("FILE...", "FILE"))[1:]
        if names_a_group_of_commands(words) and words[0] in COMMANDS:
            continue
        command = next((word for word in words if word in COMMANDS), None)
        numbered = ["1" if word == "ID" else word for word in option_lines.spelled_out(words)]
        try:
            with contextlib.redirect_stderr(io.StringIO()) as said:
                parser(command or "serve").parse_args(numbered)
        except SystemExit:
            fault = said.getvalue().splitlines()[-1]
            in_prose = ":" not in where
            if not (in_prose and " required" in fault):  # prose may name a command by its words alone
                wrong.append(f"{where}: {line}: {fault}")
    assert wrong == []


@pytest.mark.parametrize("block", blocks("yaml"), ids=the)
def test_every_event_definition_loads(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "event_definitions.yaml"
    part = not block.text.startswith("-")
    path.write_text(f"- event_type: some\n  traits:\n{block.text}" if part else block.text)
    EventConverter.from_file(str(path))


def test_every_example_in_other_languages_can_be_read() -> None:
    for block in blocks("python"):
        compile(block.text, str(block), "exec")
    for block in blocks("toml"):
        tomllib.loads(block.text)
    for block in blocks("json"):
        json.loads(block.text)


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = []
    for target in links(page):
        if re.match(r"\w+://", target):
            continue
        name, _, anchor = target.partition("#")
        there = page.parent / name if name else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            broken.append(target)
    assert broken == []


def test_every_page_is_in_the_index() -> None:
    docs = ROOT / "docs"
    listed = {(docs / target.partition("#")[0]).resolve() for target in links(docs / "README.md")}
    assert [page.name for page in docs.rglob("*.md") if page not in listed and page.name != "README.md"] == []


def texts_of_the_source() -> list[str]:
    return [
        node.value
        for path in (ROOT / "panko_ingest").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


def test_the_runbook_quotes_what_the_log_says() -> None:
    quoted = re.findall(r"\*\*`([^`]+)`", (ROOT / "docs" / "runbook.md").read_text())
    assert quoted
    texts = texts_of_the_source()
    pieces = [piece.strip() for quote in quoted for piece in quote.removeprefix("panko-ingest:").split("…")]
    assert [piece for piece in pieces if not any(piece in text for text in texts)] == []


def test_generated_documents_are_current() -> None:
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        generate = importlib.import_module("generate")
    finally:
        sys.path.pop(0)
    for path, fresh in (
        (generate.OPTIONS_PAGE, generate.options_page),
        (generate.INDEX_PAGE, generate.index_page),
        (generate.METRICS_PAGE, lambda _page: generate.metrics_page()),
        (generate.MANUAL_PAGE, lambda _page: generate.manual.page()),
    ):
        page = path.read_text()
        assert fresh(page) == page, "run `make docs`"


def test_the_website_is_built_without_a_complaint(tmp_path: Path) -> None:
    for command in (
        [ROOT / "docs" / "website.py", tmp_path],
        ["-m", "mkdocs", "build", "--strict", "--config-file", tmp_path / "mkdocs.yml"],
    ):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", *command], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "html" / "index.html").exists()
    assert "2-install-beside-it" in (tmp_path / "html/docs/runbook-move-from-ceilometer.html").read_text()


def test_every_test_that_the_page_on_security_names_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs" / "security.md").read_text())
    assert len(named) > 20
    missing = [
        name
        for path, name in named
        if not re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.MULTILINE)
    ]
    assert missing == []


def test_what_faults_cost_is_told_as_the_fault_tests_write_it_and_by_metrics_that_exist() -> None:
    page = (ROOT / "docs" / "faults.md").read_text()
    assert page.startswith(report.HEAD), "the text of tests/faults/report_head.md"
    costs = re.split(r"^## ", page, flags=re.MULTILINE)[1]
    known = {declared.name.removeprefix("panko_ingest_") for declared in metrics.Metrics().declared}
    told = [row.split("|")[4] for row in costs.splitlines() if row.startswith("| ")][1:]
    named = {name for cell in told for name in re.findall(r"`([a-z]+_[a-z_]+)`", cell)}
    assert len(named) > 10
    assert named <= known
