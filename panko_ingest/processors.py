"""How many processors this process may use: fewer than the host has, in a container as a rule."""

import math
import os
from pathlib import Path

from panko_ingest import control_groups


def usable(root: Path = control_groups.ROOT) -> int:
    """Return the number of processors by affinity and by the quota of our control groups, at least 1.

    :param root: where ``proc`` and ``sys`` are.
    """
    quotas = [
        quota for folder in control_groups.folders(root, "cpu") if (quota := _quota(folder)) is not None
    ]
    return max(1, min([len(os.sched_getaffinity(0)), *(math.ceil(quota) for quota in quotas)]))


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
