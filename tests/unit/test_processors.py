"""Workers are as many as the processors that may be used, not as the host has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from panko_ingest import processors

ALLOWED = len(os.sched_getaffinity(0))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def many_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))


@pytest.mark.usefixtures("many_allowed")
@pytest.mark.parametrize(
    ("memberships", "files", "usable"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, 64),
        ("0::/\n", {"cpu.max": "400000 100000\n"}, 4),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "250000 100000\n"}, 3),
        ("0::/the/host's/name\n", {"cpu.max": "200000 100000\n"}, 2),
        (
            "3:cpu,cpuacct:/a\n2:memory:/b\n",
            {"cpu,cpuacct/a/cpu.cfs_quota_us": "700000\n", "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n"},
            7,
        ),
        (
            "3:cpuacct,cpu:/docker/x\n",
            {"cpu/cpu.cfs_quota_us": "150000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            2,
        ),
        ("3:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
        ("3:cpuset:/\n", {}, 64),
    ],
)
def test_the_quota_of_the_control_group_bounds_the_number(
    tmp_path: Path, memberships: str, files: dict[str, str], usable: int
) -> None:
    write(tmp_path / "proc/self/cgroup", memberships)
    for name, content in files.items():
        write(tmp_path / "sys/fs/cgroup" / name, content)
    assert processors.usable(tmp_path) == usable


def test_without_control_groups_affinity_is_what_counts(tmp_path: Path) -> None:
    assert processors.usable(tmp_path) == ALLOWED


def default_workers(*prefix: str) -> int:
    code = (
        "from panko_ingest.config_reader import read; "
        "print(read(['--config-file', '/dev/null']).notification.workers)"
    )
    done = subprocess.run(
        [*prefix, sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return int(done.stdout)


def test_a_process_that_is_kept_to_one_processor_starts_one_worker() -> None:
    one = str(min(os.sched_getaffinity(0)))
    assert default_workers("taskset", "-c", one) == 1
    assert default_workers() == min(16, processors.usable())
