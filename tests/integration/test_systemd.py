"""The files in systemd/, judged by systemd's own programs."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from panko_ingest.config import DEFAULT_OPTS
from tests.services.server import find_program

SYSTEMD = Path(__file__).parents[2] / "systemd"
UNIT = SYSTEMD / "panko-ingest.service"
LARGEST_EXPOSURE = 1.5


def output_of(program: str, *words: str | Path) -> str:
    command = [find_program(program, "systemd"), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_systemd_finds_no_fault_in_the_unit(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    copy.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text(), flags=re.MULTILINE))
    assert output_of("systemd-analyze", "verify", "--man=no", copy) == ""


def test_the_unit_leaves_little_to_an_attacker() -> None:
    report = output_of("systemd-analyze", "security", "--offline=true", "--no-pager", UNIT)
    exposure = re.search(r"Overall exposure level .*: ([\d.]+)", report)
    assert exposure
    assert float(exposure[1]) <= LARGEST_EXPOSURE, report


def test_systemd_waits_longer_for_the_end_than_the_daemon_takes() -> None:
    (graceful,) = [option for option in DEFAULT_OPTS if option.name == "graceful_shutdown_timeout"]
    timeout = re.search(r"^TimeoutStopSec=(\d+)$", UNIT.read_text(), flags=re.MULTILINE)
    assert timeout
    assert int(timeout[1]) > graceful.default


def test_user_and_folders_are_made_as_the_unit_needs_them(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("making users in another root needs root")
    configuration = tmp_path / "etc" / "panko-ingest" / "panko-ingest.conf"
    configuration.parent.mkdir(parents=True)
    configuration.write_text("[database]\n")

    output_of("systemd-sysusers", f"--root={tmp_path}", SYSTEMD / "panko-ingest.sysusers.conf")
    output_of("systemd-tmpfiles", "--create", f"--root={tmp_path}", SYSTEMD / "panko-ingest.tmpfiles.conf")

    user = re.search(r"^panko-ingest:[^:]*:(\d+):(\d+):", (tmp_path / "etc/passwd").read_text(), re.MULTILINE)
    assert user
    assert "User=panko-ingest\n" in UNIT.read_text()
    status = configuration.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (0, int(user[2]), 0o640)
    state = (tmp_path / "var/lib/panko-ingest").stat()
    assert (state.st_uid, state.st_mode & 0o777) == (int(user[1]), 0o750)
