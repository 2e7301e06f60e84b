"""A network of the test's own, in which packets get lost."""

import contextlib
import random
import subprocess
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from tests.services.server import find_program

_RANDOM = random.SystemRandom()


class Namespace:
    """A network namespace that a pair of virtual interfaces joins to ours; both ends need root.

    Its addresses are of the range that is kept for tests of networks (RFC 2544).
    """

    def __init__(self) -> None:
        self._ip = str(find_program("ip", "iproute2"))
        self._nsenter = str(find_program("nsenter", "util-linux"))
        self._iptables = str(find_program("iptables", "iptables"))
        block = _RANDOM.randrange(0, 2**17, 4)
        network = f"198.{18 + (block >> 16)}.{block >> 8 & 255}"
        self.here, self.there = f"{network}.{(block & 255) + 1}", f"{network}.{(block & 255) + 2}"
        """Our address, and the one inside."""
        self._name = f"test{block}"

    def __enter__(self) -> Self:
        name, near, far = self._name, f"near{self._name[4:]}", f"far{self._name[4:]}"
        self._run(self._ip, "netns", "add", name)
        try:
            self._run(self._ip, "link", "add", near, "type", "veth", "peer", "name", far, "netns", name)
            self._run(self._ip, "address", "add", f"{self.here}/30", "dev", near)
            self._run(self._ip, "link", "set", near, "up")
            self._inside(self._ip, "address", "add", f"{self.there}/30", "dev", far)
            self._inside(self._ip, "link", "set", far, "up")
            self._inside(self._ip, "link", "set", "lo", "up")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove it, and the interfaces with it."""
        self._run(self._ip, "netns", "delete", self._name)

    @property
    def prefix(self) -> Sequence[str]:
        """What to put before a command to run it inside."""
        # Not by `ip netns exec`, which also mounts things, and can't do so in a chroot.
        return (self._nsenter, f"--net=/run/netns/{self._name}")

    @contextlib.contextmanager
    def loss(self, port: int) -> Iterator[None]:
        """Lose every packet to and from a TCP port of ours in a ``with`` block; some must have been sent."""
        rules = [
            ("OUTPUT", "--protocol", "tcp", "--dport", str(port), "--jump", "DROP"),
            ("INPUT", "--protocol", "tcp", "--sport", str(port), "--jump", "DROP"),
        ]
        for rule in rules:
            self._inside(self._iptables, "--append", *rule)
        try:
            yield
            listing = self._inside(self._iptables, "--list-rules", "--verbose")
            dropped = [line for line in listing.splitlines() if "DROP" in line and " -c 0 " not in line]
            assert dropped, "nothing was lost"
        finally:
            for rule in rules:
                self._inside(self._iptables, "--delete", *rule)

    def _inside(self, *command: str) -> str:
        return self._run(*self.prefix, *command)

    @staticmethod
    def _run(*command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout
