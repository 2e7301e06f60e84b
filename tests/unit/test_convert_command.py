"""``panko-ingest convert`` shows what the definitions make of notifications."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from panko_ingest.cli.main import main
from tests.unit.definitions import MESSAGE_ID

DEFINITIONS = """
- event_type: compute.*
  traits:
    size: {type: int, fields: payload.size}
    name: {fields: [payload.name, payload.display_name]}
"""
OTHER = """
- event_type: compute.*
  traits:
    size: {fields: payload.size}
    host: {fields: payload.host}
- {event_type: volume.*, traits: {}}
"""
INNER = {
    "message_id": MESSAGE_ID,
    "publisher_id": "compute.cmp001",
    "event_type": "compute.x",
    "priority": "INFO",
    "payload": {"size": 5, "host": "h"},
    "timestamp": "2026-11-23 13:16:34",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "panko-ingest.conf").write_text("[event]\ndefinitions_cfg_file = mine.yaml\n")
    (tmp_path / "mine.yaml").write_text(DEFINITIONS)
    (tmp_path / "other.yaml").write_text(OTHER)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> int:
    return main(["--config-file", "panko-ingest.conf", "convert", *arguments])


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    code = run("--json", *arguments)
    return code, json.loads(capsys.readouterr().out)


def write(folder: Path, name: str, content: Any) -> str:
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return name


def test_convert_tells_definition_traits_and_what_matched_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, [result] = run_json(capsys, write(folder, "n.json", INNER))
    assert code == 0
    assert (result["source"], result["event_type"], result["message_id"]) == (
        "n.json",
        "compute.x",
        MESSAGE_ID,
    )
    assert result["generated"] == "2026-11-23T13:16:34"
    assert result["definition"] == {"event_type": ["compute.*"], "line": 2}
    assert result["traits"] == [
        {"name": "service", "type": "text", "value": "compute.cmp001"},
        {"name": "size", "type": "int", "value": 5},
    ]
    assert {"trait": "name", "fields": ["payload.name", "payload.display_name"]} in result["unmatched"]
    assert (result["error"], result["salvaged"]) == (None, [])


def test_convert_gives_people_a_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(write(folder, "n.json", INNER)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"n.json: compute.x {MESSAGE_ID} 2026-11-23T13:16:34"
    assert lines[1].startswith("definition: compute.* (")
    assert lines[1].endswith("mine.yaml:2)")
    assert [line.split() for line in lines[2:5]] == [
        ["trait", "type", "value"],
        ["service", "text", "compute.cmp001"],
        ["size", "int", "5"],
    ]
    assert "name (payload.name, payload.display_name)" in lines[5]


def test_a_file_may_hold_one_notification_a_list_or_one_a_line_with_or_without_envelope(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapped = {"oslo.version": "2.0", "oslo.message": json.dumps(INNER)}
    files = [
        write(folder, "one.json", json.dumps(wrapped, indent=2)),
        write(folder, "list.json", [INNER, wrapped]),
        write(folder, "lines.jsonl", f"{json.dumps(INNER)}\n\n{json.dumps(wrapped)}\n"),
    ]
    standard_input = io.TextIOWrapper(io.BytesIO(json.dumps(INNER).encode()))
    monkeypatch.setattr(sys, "stdin", standard_input)
    code, results = run_json(capsys, *files, "-")
    assert code == 0
    assert [result["source"] for result in results] == [
        "one.json", "list.json#1", "list.json#2", "lines.jsonl:1", "lines.jsonl:3", "-",
    ]  # fmt: skip
    assert all(result["message_id"] == MESSAGE_ID for result in results)


def test_notifications_that_failed_to_convert_are_told_and_show_in_the_exit_code(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad_trait = {**INNER, "payload": {"size": "lots"}}
    no_time = {key: value for key, value in INNER.items() if key != "timestamp"}
    lines = "\n".join([json.dumps(bad_trait), json.dumps(no_time), "{"])
    code, results = run_json(capsys, write(folder, "bad.jsonl", lines))
    assert code == 1
    assert results[0]["salvaged"] == [{"trait": "size", "reason": "dropped: text is no integer"}]
    assert results[1]["error"] == "timestamp is missing"
    assert results[2]["error"].startswith("the body is no JSON")
    assert run("bad.jsonl") == 1
    shown = capsys.readouterr()
    assert "size: dropped: text is no integer" in shown.out
    assert "bad.jsonl:2: cannot become an event: timestamp is missing" in shown.out
    assert "WARNING" not in shown.err


def test_a_filtered_type_is_dropped_and_no_failure(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "panko-ingest.conf").write_text("[event]\ndefinitions_cfg_file = mine.yaml\ntypes = volume.*\n")
    assert run(write(folder, "n.json", INNER)) == 0
    assert "n.json: dropped" in capsys.readouterr().out


def test_diff_shows_only_what_other_definitions_would_change(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = {**INNER, "event_type": "image.x"}
    files = [write(folder, "n.json", INNER), write(folder, "same.json", same)]
    code, changes = run_json(capsys, "--diff", "other.yaml", *files)
    assert code == 1
    assert changes == [
        {
            "source": "n.json",
            "event_type": "compute.x",
            "outcome": [],
            "traits": [
                {"name": "host", "before": None, "after": ["text", "h"]},
                {"name": "size", "before": ["int", 5], "after": ["text", "5"]},
            ],
        }
    ]
    assert run("--diff", "other.yaml", *files) == 1
    assert [line.split() for line in capsys.readouterr().out.splitlines()][:4] == [
        ["n.json:", "compute.x"],
        ["trait", "before", "after"],
        ["host", "h", "(text)"],
        ["size", "5", "(int)", "5", "(text)"],
    ]
    assert run_json(capsys, "--diff", "mine.yaml", *files) == (0, [])
    assert run("--definitions", "other.yaml", "--diff", "other.yaml", *files) == 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["none.json"], "none.json: No such file or directory"),
        (["--definitions", "none.yaml", "n.json"], "definitions_cfg_file: none.yaml can't be read"),
        (["--diff", "bad.yaml", "n.json"], "bad.yaml:1: must be a list of event definitions"),
    ],
)
def test_a_file_at_fault_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    write(folder, "n.json", INNER)
    write(folder, "bad.yaml", "a: 1")
    assert run(*arguments) == 2
    assert reason in capsys.readouterr().err


def test_definitions_that_are_nowhere_are_refused_with_the_options_name(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "panko-ingest.conf").write_text("[event]\ndefinitions_cfg_file = nowhere.yaml\n")
    assert run(write(folder, "n.json", INNER)) == 2
    assert "[event] definitions_cfg_file: nowhere.yaml is neither beside" in capsys.readouterr().err


def test_a_file_without_notifications_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder, "empty", "\n")
    for options in (["--json"], [], ["--diff", "other.yaml"]):
        assert run(*options, "empty") == 0
        assert capsys.readouterr().err == "no notifications in empty\n"
