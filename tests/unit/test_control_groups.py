"""Whom the kernel kills when memory runs out, as the control groups say."""

from pathlib import Path

import pytest

from panko_ingest import control_groups


@pytest.mark.parametrize(
    ("memberships", "files", "together"),
    [
        ("0::/\n", {"memory.oom.group": "1\n"}, True),
        ("0::/\n", {"memory.oom.group": "0\n"}, False),
        ("0::/a/b\n", {"a/b/memory.oom.group": "0\n", "a/memory.oom.group": "1\n"}, True),
        ("0::/the/host's/name\n", {"memory.oom.group": "1\n"}, True),
        ("0::/a\n", {"b/memory.oom.group": "1\n"}, False),
        ("4:memory:/a\n0::/\n", {"memory/a/memory.limit_in_bytes": "1\n"}, False),
        ("0::/\n", {}, False),
    ],
)
def test_the_daemon_dies_as_one_where_its_control_group_or_one_above_says_so(
    tmp_path: Path, memberships: str, files: dict[str, str], together: bool
) -> None:
    for path, content in {
        "proc/self/cgroup": memberships,
        **{f"sys/fs/cgroup/{name}": content for name, content in files.items()},
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    assert control_groups.die_together(tmp_path) is together


def test_without_control_groups_nobody_is_said_to_die_with_another(tmp_path: Path) -> None:
    assert not control_groups.die_together(tmp_path)
