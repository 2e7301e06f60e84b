"""What every private server has in common: a folder, a port, a process and its end."""

import contextlib
import os
import platform
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

import psutil

from tests.waiting import wait_until


class NotInstalledError(Exception):
    """The server's programs are not on this machine; the text names the Debian package."""


class Server(ABC):
    """A server of the test's own.

    :param settings: server settings on top of the defaults, in the server's own names.
    :param directory: an existing, empty folder for its data; a temporary one by default.
    :param tree: the root of another Debian that its programs are taken from; by default this machine's, or
        the one that the variable of :data:`TREE` names.
    """

    name: str
    system_user: str
    start_timeout = 180.0
    _stop_signal = signal.SIGTERM

    def __init__(
        self,
        settings: Mapping[str, str] | None = None,
        directory: Path | None = None,
        tree: Path | None = None,
    ) -> None:
        self.settings = dict(settings or {})
        self._tree = tree or tree_of_servers()
        self._find_programs()
        self._owner = _owner(self.system_user, self._tree)
        self._removed_at_close = directory is None
        self.directory = directory or Path(tempfile.mkdtemp(prefix=f"{self.name}-of-tests-"))
        self.give_away(self.directory)
        self.log_file = self.directory / "server.log"
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._prepared = False

    @abstractmethod
    def _find_programs(self) -> None:
        """Note where its programs are.

        :raises NotInstalledError: they are not on this machine.
        """

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients find it."""

    @abstractmethod
    def _prepare(self) -> None:
        """Make the data folder, once."""

    @abstractmethod
    def _command(self) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        """Return the command that runs the server in the foreground, and its environment."""

    @abstractmethod
    def _is_ready(self) -> bool:
        """Whether it serves a client now."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        assert self._process is not None, f"{self.name} is not running"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, and return when it serves clients; settings changed since the last start take effect.

        :raises RuntimeError: it ended or was not ready in time; the text ends with its log.
        """
        if self.running:
            return
        if not self._prepared:
            self._prepare()
            self._prepared = True
        command, environment = self._command()
        self._process = self.spawn(command, environment)
        deadline = time.monotonic() + self.start_timeout
        while not self._is_ready():
            if not self.running or time.monotonic() > deadline:
                state = "is not ready" if self.running else f"ended with {self._process.returncode}"
                self.kill()
                raise RuntimeError(f"{self.name} {state}:\n{self.log_tail()}")
            time.sleep(0.05)

    def stop(self, timeout: float = 60.0) -> None:
        """Stop it in good order, as an administrator would."""
        if self._process is not None and self.running:
            with _all_processes(self._process.pid):
                self._process.send_signal(self._stop_signal)
                self._process.wait(timeout)

    def kill(self) -> None:
        """SIGKILL the server and all its children."""
        if self._process is not None and self.running:
            with _all_processes(self._process.pid):
                self._process.kill()
            self._process.wait()

    def restart(self) -> None:
        """Stop it in good order and start it again: same port, same data."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze every process of it (SIGSTOP): connections stay open and nobody answers."""
        family = _family(self.pid)
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):  # such as one of PostgreSQL's that has just ended
                process.suspend()
        # A thread stops only once it gets a processor, and until then may serve a client.
        wait_until(lambda: all(map(_is_stopped, family)), what=f"{self.name} to freeze")

    def resume(self) -> None:
        """Let it go on after :meth:`pause`."""
        for process in _family(self.pid):
            with contextlib.suppress(psutil.NoSuchProcess):  # one whose client has gone ends at once
                process.resume()

    def close(self) -> None:
        """End it at once, and remove its folder unless the caller gave one."""
        self.kill()
        if self._removed_at_close:
            shutil.rmtree(self.directory, ignore_errors=True)

    def log_tail(self, lines: int = 30) -> str:
        """Return the end of the server's log."""
        if not self.log_file.exists():
            return "(no log)"
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-lines:])

    def give_away(self, path: Path) -> None:
        """Make the server's user the owner of a file or folder, where it runs as another."""
        if self._owner:
            os.chown(path, *self._owner)

    def spawn(
        self, command: Sequence[str | Path], environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a program as the server's user; it dies when the thread that called this does."""
        with self.log_file.open("ab") as log:
            return subprocess.Popen(
                self._placed([*DIES_WITH_PARENT, *map(str, command)]),
                env={**os.environ, "HOME": str(self.directory), **(environment or {})},
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _program(self, name: str, package: str, folders: Sequence[str] = ()) -> Path:
        return find_program(name, package, folders, self._tree)

    def _placed(self, command: Sequence[str]) -> list[str]:
        """Return a command as the server's user runs it, within the tree where the server is of one."""
        if self._owner:
            user, group = self._owner
            command = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--", *command]
        if self._tree is None:
            return list(command)
        namespace = ["unshare", "--mount", "--", "sh", "-euc", _ENTER, "sh"]
        return [*namespace, str(self._tree), tempfile.gettempdir(), str(self.directory), *command]

    def run(self, command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> None:
        """Run a program as the server's user to its end.

        :raises RuntimeError: it failed; the text ends with the log.
        """
        process = self.spawn(command, environment)
        if process.wait(self.start_timeout):
            raise RuntimeError(f"{command[0]} failed with {process.returncode}:\n{self.log_tail()}")


# Runs a command in another Debian, which has the processes, devices and temporary files of this one.
_ENTER = """
tree=$1 temporary=$2 folder=$3
shift 3
mount --rbind /proc "$tree/proc"
mount --rbind /dev "$tree/dev"
mount --rbind "$temporary" "$tree$temporary"
exec chroot "$tree" env --chdir="$folder" "$@"
"""

TREE = "PANKO_INGEST_SERVERS"
"""Names a variable: the root of a Debian (``tests/debian_tree.sh``) that all servers are to be of."""


FORKY = Path(os.environ.get("PANKO_INGEST_CHROOTS", "/var/tmp/panko-ingest-chroots"), "forky")
"""Where `make forky` puts the root of a Debian forky with all servers."""


def debian() -> str:
    """Return the code name of this machine's Debian, or of what else it is."""
    return platform.freedesktop_os_release().get("VERSION_CODENAME", "")


def tree_of_servers() -> Path | None:
    """Return the root of the Debian that all servers are to be of, None for this machine's own."""
    named = os.environ.get(TREE)
    return Path(named) if named else None


DIES_WITH_PARENT = ["setpriv", "--pdeathsig", "KILL", "--"]


def _owner(user: str, tree: Path | None) -> tuple[int, int] | None:
    """Return the ids of a server's user and group, None where the tests can't be but themselves."""
    if os.geteuid() != 0:
        return None
    for line in (tree or Path("/")).joinpath("etc/passwd").read_text().splitlines():
        name, _, uid, gid, *_ = line.split(":")
        if name == user:
            return int(uid), int(gid)
    raise NotInstalledError(f"no system user {user}: its Debian package is not installed")


def _family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


@contextlib.contextmanager
def _all_processes(pid: int) -> Iterator[None]:
    """Once the body has ended the parent, end what it left behind."""
    family = _family(pid)
    yield
    for process in family[1:]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    deadline = time.monotonic() + 10
    while any(map(_lives, family[1:])) and time.monotonic() < deadline:
        time.sleep(0.01)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _is_stopped(process: psutil.Process) -> bool:
    """Tell whether each of its threads has stopped or ended."""
    states = []
    for thread in Path(f"/proc/{process.pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):
            states.append(thread.read_text().rpartition(")")[2].split()[0])
    return all(state in {"T", "Z", "X"} for state in states)


# Not the shared generator: Hypothesis seeds that, alike in every worker.
_RANDOM = random.SystemRandom()


def free_port() -> int:
    """Return a TCP port that nobody listens on.

    It lies below the range from which the kernel takes the ports of outgoing connections: else a client
    that tries to reach a server that is down may end up connected to itself.
    """
    while True:
        port = _RANDOM.randint(15000, 31999)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def find_program(name: str, package: str, folders: Sequence[str] = (), tree: Path | None = None) -> Path:
    """Return the path of a server's program, from the folders or the usual places.

    :param tree: the root of the Debian to look in, below which the path is; this machine's by default.
    :raises NotInstalledError: it is nowhere.
    """
    root = str(tree or "")
    places = [root + place for place in (*folders, *os.get_exec_path(), "/usr/sbin", "/usr/bin")]
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        where = f" in {tree}" if tree else ""
        raise NotInstalledError(
            f"{name} is not installed{where}: apt-get install {package}, or make services"
        )
    return Path(found.removeprefix(root))


def open_to_servers(folder: Path) -> None:
    """Let servers, which run as other users, find what is in a folder of a test's."""
    made_by_others = {Path(tempfile.gettempdir()), Path.home(), Path("/")}
    for above in (folder, *folder.parents):
        if above in made_by_others:
            return
        above.chmod(above.stat().st_mode | 0o055)
