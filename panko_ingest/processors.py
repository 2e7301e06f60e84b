"""How many processors this process may use: fewer than the host has, in a container as a rule."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")


def usable(root: Path = _ROOT) -> int:
    """Return the number of processors by affinity and by the quota of our control groups, at least 1.

    :param root: where ``proc`` and ``sys`` are.
    """
    quotas = [quota for folder in _groups(root) if (quota := _quota(folder)) is not None]
    return max(1, min([len(os.sched_getaffinity(0)), *(math.ceil(quota) for quota in quotas)]))


def _groups(root: Path) -> Iterator[Path]:
    """Yield the folders of our control groups that may bound processors, and those above them."""
    mounted = root / "sys/fs/cgroup"
    try:
        memberships = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for membership in memberships:
        _, _, rest = membership.partition(":")
        controllers, _, name = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        tops = [mounted / controllers, mounted / "cpu"] if controllers else [mounted, mounted / "unified"]
        path = Path(name.lstrip("/"))
        for top in tops:
            # In a container the name may be the host's, and the group is what is mounted.
            yield from (top / part for part in (path, *path.parents))


def _quota(folder: Path) -> float | None:
    """Return how many processors a control group may use; None for no bound."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):  # no such file, or "max"
        return None
