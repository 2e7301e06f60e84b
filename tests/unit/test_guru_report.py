"""The report that a process writes on SIGUSR2."""

import subprocess
import sys

SCRIPT = """
import os, signal
from panko_ingest import config_reader
from panko_ingest.workers import guru_report

conf = config_reader.prepare_service(["--config-file", "/dev/null"])
conf.set_override("connection", "sqlite:////SECRET.sqlite", group="database")
guru_report.install(conf, lambda: conf)
guru_report.add_section("In hand from here", lambda: {"messages": 3})
guru_report.add_section("Broken", lambda: {}["nothing"])
os.kill(os.getpid(), signal.SIGUSR2)
"""


def test_the_guru_report_shows_what_is_in_hand_and_no_secret_even_if_a_section_fails() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=True
    )
    report = done.stderr
    assert "database.connection = ****" in report
    assert "messages = 3" in report
    assert "not available: KeyError: 'nothing'" in report
    assert "Thread #" in report
    assert "SECRET" not in report
