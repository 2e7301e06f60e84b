"""Runs the program in processes that begin with its libraries loaded, as that takes most of a second.

``python -m tests.preloaded`` loads them once, and then forks for each process that it is asked for, which has
words, environment, files and a session of its own. Where Python itself is to start otherwise, by its
variables or behind another program, a test starts the program as operators do.
"""

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, NoReturn, Self, TextIO

import panko_ingest
from panko_ingest import __main__

_PR_SET_PDEATHSIG = 1
_BEYOND_OURS = 256  # descriptors: there are a handful
_DRIVERS = ("alembic.command", "kombu.transport.pyamqp", "psycopg", "pymysql")


class Process:
    """The program, which dies with the tests; what :class:`subprocess.Popen` has by these names is alike.

    :param stdout: where its output goes; a pipe by default, and so do errors.
    """

    def __init__(
        self,
        words: Sequence[str | Path],
        *,
        stdout: IO[bytes] | None = None,
        stderr: IO[bytes] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.args = list(map(str, words))
        self.returncode: int | None = None
        self._keeper, theirs = socket.socketpair()
        self._told = b""
        with theirs:
            socket.send_fds(_forking(), [b"\n"], [theirs.fileno()])
        request = {
            "words": self.args,
            "environment": {**os.environ, **(environment or {})},
            "directory": str(Path.cwd()),
        }
        self.stdout: IO[str] | None = None
        self.stderr: IO[str] | None = None
        with contextlib.ExitStack() as ends:
            if not stdout:
                self.stdout, stdout = _pipe(ends)
            if not stderr:
                self.stderr, stderr = _pipe(ends)
            files = [stdout.fileno(), stderr.fileno()]
            socket.send_fds(self._keeper, [json.dumps(request).encode() + b"\n"], files)
            self.pid = self._line(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self.stdout, self.stderr):
            if file:
                file.close()
        self.wait()

    def poll(self) -> int | None:
        """Return its exit code, less than 0 for a signal; None while it runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, and return its exit code.

        :raises subprocess.TimeoutExpired: it goes on after so many seconds.
        """
        if self.returncode is None:
            try:
                self.returncode = self._line(timeout)
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(self.args, timeout or 0) from None
            self._keeper.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Return what it writes into its pipes until its end.

        :raises subprocess.TimeoutExpired: it goes on after so many seconds, and is killed.
        """
        assert self.stdout
        assert self.stderr
        with self, ThreadPoolExecutor(2) as readers:
            texts = [readers.submit(file.read) for file in (self.stdout, self.stderr)]
            try:
                self.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
            out, err = (text.result() for text in texts)
        return out, err

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _line(self, timeout: float | None) -> int:
        self._keeper.settimeout(timeout)
        while b"\n" not in self._told:
            told = self._keeper.recv(64)
            assert told, f"nobody can tell any more what became of {self.args}"
            self._told += told
        line, _, self._told = self._told.partition(b"\n")
        return int(line)


def _pipe(ends: contextlib.ExitStack) -> tuple[IO[str], IO[bytes]]:
    read, write = os.pipe()
    return open(read, encoding="utf-8"), ends.enter_context(open(write, "wb"))  # noqa: PTH123


def run(words: Sequence[str | Path], timeout: float = 60) -> "subprocess.CompletedProcess[str]":
    """Run the program to its end, and return its exit code, output and errors.

    :raises subprocess.TimeoutExpired: it goes on after so many seconds, and is killed.
    """
    process = Process(words)
    out, err = process.communicate(timeout)
    return subprocess.CompletedProcess(process.args, process.wait(), out, err)


def run_with(conf: Path, *words: str, module: str = "panko_ingest") -> "subprocess.CompletedProcess[str]":
    """Run a command with a configuration to its end; one of another module without preloaded libraries."""
    arguments = ["--config-file", str(conf), *words]
    if module == "panko_ingest":
        return run(arguments)
    program = [sys.executable, "-m", module, *arguments]
    return subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)


def can_run(environment: Mapping[str, str]) -> bool:
    """Tell whether variables mean nothing to Python, which has read its own by the time of the fork."""
    return not any(name.startswith(("PYTHON", "LC_", "LANG")) for name in environment)


_asked: list[socket.socket] = []


def _forking() -> socket.socket:
    """Return the way to ask for a process."""
    if not _asked:
        ours, theirs = socket.socketpair()
        with theirs:
            # It ends when nobody can ask any more, not with the thread that asked first.
            process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

        def end() -> None:
            ours.close()
            process.wait()

        atexit.register(end)
        _asked.append(ours)
    return _asked[0]


def _load() -> None:
    for module in pkgutil.walk_packages(panko_ingest.__path__, "panko_ingest."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in _DRIVERS:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


def _serve(asked: socket.socket) -> socket.socket:
    """Fork for each that asks, until nobody can; return in the fork, with the way to whom it is for."""
    while True:
        data, descriptors, _, _ = socket.recv_fds(asked, 1, 1)
        if not data:
            sys.exit()
        if os.fork() == 0:
            return socket.socket(fileno=descriptors[0])
        os.close(descriptors[0])
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                continue


def _become(request: Mapping[str, object], descriptors: Sequence[int]) -> None:
    """Turn this process into one that has just started the program."""
    os.setsid()
    for standard, descriptor in enumerate(descriptors, 1):
        os.dup2(descriptor, standard)
    os.closerange(3, _BEYOND_OURS)
    os.chdir(str(request["directory"]))
    os.environ.clear()
    os.environ.update(request["environment"])  # type: ignore[call-overload]
    # What these are files of is looked at when they are opened.
    sys.stdout = _opened(1, sys.stdout)
    sys.stderr = _opened(2, sys.stderr)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = [__main__.__file__, *request["words"]]  # type: ignore[misc]


def _opened(standard: int, before: TextIO) -> TextIO:
    file = os.fdopen(standard, "w", encoding=before.encoding, errors=before.errors, closefd=False)
    file.reconfigure(line_buffering=standard > 1 or file.isatty())
    return file


def _tell(end: socket.socket, pid: int) -> NoReturn:
    """Tell who a process is, and its exit code when it has ended."""
    end.sendall(b"%d\n" % pid)
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(BrokenPipeError):  # nobody waits for it
        end.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
    os._exit(0)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> int:
    """Load everything, and be the program for whoever asks."""
    _load()
    end = _serve(socket.socket(fileno=int(sys.argv[1])))
    _die_with_parent()
    text = b""
    descriptors: list[int] = []
    while not text.endswith(b"\n"):
        data, sent, _, _ = socket.recv_fds(end, 65536, 2)
        if not data:
            os._exit(1)
        text, descriptors = text + data, descriptors + sent
    if pid := os.fork():
        _tell(end, pid)
    _die_with_parent()
    _become(json.loads(text), descriptors)
    return __main__.main()


if __name__ == "__main__":
    sys.exit(main())
