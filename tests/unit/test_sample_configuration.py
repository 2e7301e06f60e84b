"""etc/panko-ingest.conf, as oslo-config-generator makes it, judged by oslo-config-validator."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.libraries import needs_options_of_today

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "etc" / "panko-ingest.conf"
GENERATOR = ROOT / "etc" / "panko-ingest-config-generator.conf"


def oslo_config(tool: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", f"oslo_config.{tool}", "--config-file", GENERATOR, *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


def settings(text: str) -> list[tuple[str, str]]:
    """Return group and name of every option of a sample, set or not."""
    found, group = [], ""
    for line in text.splitlines():
        if line.startswith("["):
            group = line.strip("[]")
        elif " = " in line or line.endswith(" ="):
            name = line.lstrip("#").partition(" =")[0]
            if name.replace("_", "").isalnum():
                found.append((group, name))
    return found


@needs_options_of_today()
def test_the_sample_is_current(tmp_path: Path) -> None:
    fresh = tmp_path / "panko-ingest.conf"
    done = oslo_config("generator", "--output-file", fresh)
    assert done.returncode == 0, done.stderr
    assert SAMPLE.read_text() == fresh.read_text(), "run `make sample-config`"


def test_the_sample_is_the_same_on_every_machine() -> None:
    text = SAMPLE.read_text()
    assert socket.gethostname() not in text
    assert str(Path.home()) not in text
    assert "#workers = <number of processors that may be used, 16 at most>\n" in text


def test_deployment_tools_can_set_any_option_by_its_plain_line() -> None:
    text = SAMPLE.read_text()
    assert [line for line in text.splitlines() if line and line[0] not in "#["] == []
    options = settings(text)
    several = {option for option in options if options.count(option) > 1}
    assert several == {("notification", "notification_control_exchanges")}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        pytest.param(SAMPLE.read_text(), 0, id="the sample as it ships"),
        pytest.param("[database]\nevent_time_to_live = 90d\n", 0, id="a good one"),
        pytest.param("[database]\nevent_time_to_liv = 90d\n", 1, id="a misspelt name"),
    ],
)
def test_the_validator_knows_our_options(tmp_path: Path, text: str, code: int) -> None:
    path = tmp_path / "panko-ingest.conf"
    path.write_text(text)
    done = oslo_config("validator", "--input-file", path)
    assert done.returncode == code, done.stdout + done.stderr
