"""The control groups that this process is in: what the host, or a container, grants it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")

DIE_TOGETHER = (
    "where memory runs out, the kernel kills the whole daemon, not one worker (memory.oom.group is 1), and a "
    "message that takes too much is never found out: set singleProcessOOMKill in the kubelet's configuration "
    "(Kubernetes from 1.32 on), or OOMPolicy=continue in the unit"
)


def folders(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of our control groups that a controller may have, and those above them.

    :param root: where ``proc`` and ``sys`` are.
    :param controller: such as ``cpu`` or ``memory``.
    """
    mounted = root / "sys/fs/cgroup"
    try:
        memberships = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for membership in memberships:
        _, _, rest = membership.partition(":")
        controllers, _, name = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        tops = (
            [mounted / controllers, mounted / controller] if controllers else [mounted, mounted / "unified"]
        )
        path = Path(name.lstrip("/"))
        for top in tops:
            # In a container the name may be the host's, and the group is what is mounted.
            yield from (top / part for part in (path, *path.parents))


def die_together(root: Path = ROOT) -> bool:
    """Return whether the kernel kills all processes of a control group of ours when it kills one for memory.

    :param root: where ``proc`` and ``sys`` are.
    """
    for folder in folders(root, "memory"):
        with contextlib.suppress(OSError):
            if (folder / "memory.oom.group").read_text().strip() == "1":
                return True
    return False
