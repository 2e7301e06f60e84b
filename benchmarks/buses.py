"""Many buses beside one: the same messages in vhosts of their own, as each service of a cloud has one."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

from benchmarks.end_to_end import take
from benchmarks.rig import Rig, Sample
from tests.bus import Bus
from tests.services.server import DIES_WITH_PARENT

MANY = 12
"""Vhosts that OpenStack-Ansible makes: one for each service."""

_WORKERS = 2


def spread(rig: Rig, number: int) -> Sample:
    """Take the load, spread over so many buses, into an empty database."""
    with contextlib.ExitStack() as stack:
        urls = [stack.enter_context(rig.vhost()) for _ in range(number)]
        for place, url in enumerate(urls):
            with Bus(url, quorum=True) as bus:
                bus.declare()
                bus.publish(rig.bodies[place::number])
        return take(rig, urls, stack.enter_context(rig.store()), len(rig.bodies), _WORKERS)


@contextlib.contextmanager
def busy_cores() -> Iterator[None]:
    """Have another process for each core that does nothing else but use it."""
    command: Sequence[str] = [*DIES_WITH_PARENT, sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(command) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()
