"""A Debian of the test's own that a real systemd runs, in a container of systemd-nspawn."""

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

import psutil

from tests.services.server import DIES_WITH_PARENT, NotInstalledError, find_program
from tests.waiting import wait_until

_TESTS = Path(__file__).parents[1]
_PACKAGES = ["systemd", "systemd-sysv", "dbus", "python3-venv", "procps", "curl"]


def debian_cache() -> Path:
    """Return where ``tests/debian_tree.sh`` keeps what it has fetched."""
    return Path(os.environ.get("PANKO_INGEST_CHROOTS", "/var/tmp/panko-ingest-chroots"))


class Machine:
    """A fresh Debian, made by ``tests/debian_tree.sh``; it shares the host's network.

    :param tree: a folder that does not exist yet, for its root.
    :raises NotInstalledError: this machine can't make or run it.
    """

    def __init__(self, tree: Path, suite: str = "bookworm") -> None:
        if os.geteuid() != 0:
            raise NotInstalledError("a container needs root")
        find_program("systemd-nspawn", "systemd-container")
        self.suite = suite
        self.tree = tree
        self.console = tree.with_suffix(".console")
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0
        subprocess.run([_TESTS / "debian_tree.sh", suite, tree, *_PACKAGES], check=True)

    def path(self, inside: str) -> Path:
        """Return where a file of it is from outside."""
        return self.tree / inside.removeprefix("/")

    def boot(self) -> None:
        """Start it, and return when systemd has started everything."""
        boot = _TESTS / "systemd" / "boot.sh"
        with self.console.open("ab") as console:
            self._process = subprocess.Popen(
                [*DIES_WITH_PARENT, "unshare", "--mount", boot, self.tree, self.tree.name],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        self._leader = wait_until(self._first_process, 60, f"systemd; see {self.console}", interval=0.1)
        wait_until(self._is_running, 120, f"the end of the start; see {self.console}", interval=0.2)

    def _first_process(self) -> int | None:
        assert self._process is not None
        assert self._process.poll() is None, self.console.read_text(errors="replace")
        for process in psutil.Process(self._process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
                status = Path(f"/proc/{process.pid}/status").read_text()
                if process.name() == "systemd" and "\t1\n" in status.partition("NSpid:")[2]:
                    return process.pid
        return None

    def _is_running(self) -> bool:
        return self.try_to("systemctl is-system-running").stdout.strip() in {"running", "degraded"}

    def run(self, script: str, timeout: float = 900) -> str:
        """Run lines of shell in it as root, and return what they print; each must succeed."""
        done = self.try_to(script, timeout)
        assert done.returncode == 0, f"{script}: {done.stdout}{done.stderr}"
        return done.stdout

    def try_to(self, script: str, timeout: float = 900) -> subprocess.CompletedProcess[str]:
        """Run lines of shell in it as root to the first that fails."""
        enter = ["nsenter", f"--target={self._leader}", "--mount", "--uts", "--ipc", "--pid", "--cgroup"]
        environment = ["HOME=/root", "LANG=C.UTF-8", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]
        environment += self.path("/etc/environment").read_text().split()
        return subprocess.run(
            [*enter, "env", "-i", *environment, "bash", "-euc", f"cd /srv\n{script}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def host_pid(self, inside: int) -> int:
        """Return the process id that a process of it has outside."""
        for process in psutil.Process(self._leader).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
                status = Path(f"/proc/{process.pid}/status").read_text()
                if status.partition("NSpid:")[2].partition("\n")[0].split()[-1] == str(inside):
                    return process.pid
        raise AssertionError(f"no process {inside}")

    def shut_down(self) -> None:
        """Stop all services in good order, and end it."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(180)
            finally:
                self._process.kill()

    def remove(self) -> None:
        """End it, and delete its files."""
        try:
            self.shut_down()
        finally:
            shutil.rmtree(self.tree, ignore_errors=True)
