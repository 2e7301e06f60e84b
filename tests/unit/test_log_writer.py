"""The thread that writes the log: no log that can't be written ends it, or who has a line for it."""

import subprocess
import sys
from pathlib import Path

BEGIN = """
import logging, logging.handlers, os, resource, sys, threading
from pathlib import Path
from panko_ingest.workers import log_writer
from tests.waiting import wait_until

path = Path(sys.argv[1])

def begin():
    logging.basicConfig(level=logging.INFO, handlers=[logging.handlers.WatchedFileHandler(path)])
    log_writer.install()
"""

READER_GOES_AWAY = """
os.mkfifo(path)
reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
begin()
for number in range(2000):
    logging.info("%d %s", number, "x" * 200)  # more than a pipe, and the lines that wait, take
path.unlink()
os.close(reader)

def is_written():
    logging.info("All is well again")
    return path.exists() and "All is well again" in path.read_text()

wait_until(is_written, 20, "the log that goes on")
wait_until(lambda: "lines were left out" in path.read_text(), 20, "what was left out")
"""

NO_THREAD = """
begin()
threading.stack_size(1 << 30)  # for which there is no room
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
path.parent.rename(path.parent.with_name("away"))
logging.info("Nobody writes this")
path.parent.with_name("away").rename(path.parent)
logging.info("All is well again")
assert threading.active_count() == 1, "there was a thread"
"""

BEGUN_WITH_THE_DAEMON = """
logging.basicConfig(level=logging.INFO, handlers=[logging.FileHandler(path, "w")])
log_writer.install()
logging.info("Before")
logging.info("%d", "no number")
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, most))
logging.info("There is no room for this")
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
logging.info("Afterwards")
"""


FORKED_WHILE_IT_IS_STUCK = """
import fcntl
os.mkfifo(path)
pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK)
fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 4096)

def fill():
    try:
        while True:
            os.write(pipe, b"#")
    except BlockingIOError:
        pass

begin()
fill()
logging.info("Stuck")  # a second, after which the thread is left to it
child = os.fork()
if child == 0:
    logging.info("From the child")
    os._exit(0)
read = b""

def is_read():
    global read
    try:
        read += os.read(pipe, 65536)
    except BlockingIOError:
        pass
    return b"Stuck" in read and b"From the child" in read

wait_until(is_read, 20, "both lines")
os.waitpid(child, 0)
fill()
logging.info("Stuck for ever")
"""

ROTATED = """
handler = logging.handlers.RotatingFileHandler(path, maxBytes=200, backupCount=1)
logging.basicConfig(level=logging.INFO, handlers=[handler], format="%(message)s")
log_writer.install()
for number in range(4):
    logging.info("%d %s caf\u00e9", number, "x" * 100)
assert Path(f"{path}.1").read_text().startswith("2 ")
path.write_text("cleared by copytruncate")
path.write_text("")
logging.info("From the beginning")
"""

RELOADED = """
begin()
logging.root.handlers.clear()  # as oslo.log does
begin()
assert sum(os.path.samefile(path, f"/dev/fd/{number}") for number in map(int, os.listdir("/dev/fd"))
           if os.path.exists(f"/dev/fd/{number}")) == 1
logging.info("All is well again")
"""


def run(script: str, path: Path) -> str:
    path.parent.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + script, path], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def test_a_log_whose_reader_goes_away_in_the_middle_is_opened_anew(tmp_path: Path) -> None:
    assert "The log can't be written ([Errno 32] Broken pipe): " in run(
        READER_GOES_AWAY, tmp_path / "logs/log"
    )


def test_a_log_that_begins_with_the_daemon_keeps_its_lines_when_one_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "logs/log"
    assert "File too large" in run(BEGUN_WITH_THE_DAEMON, path)
    assert path.read_text().startswith("INFO:root:Before\n")
    assert path.read_text().endswith("INFO:root:Afterwards\n")


def test_a_line_that_cannot_be_written_does_not_fail_who_has_it_where_there_is_no_thread(
    tmp_path: Path,
) -> None:
    path = tmp_path / "logs/log"
    assert f"No such file or directory: '{path}'): Nobody writes this" in run(NO_THREAD, path)
    assert "All is well again" in path.read_text()


def test_a_process_that_is_forked_while_the_log_is_stuck_has_one_and_the_end_does_not_wait_for_it(
    tmp_path: Path,
) -> None:
    run(FORKED_WHILE_IT_IS_STUCK, tmp_path / "logs/log")


def test_a_file_that_is_rotated_or_cleared_is_written_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "logs/log"
    run(ROTATED, path)
    assert path.read_bytes().decode() == "From the beginning\n"


def test_a_reload_leaves_the_file_of_the_log_before_it_closed(tmp_path: Path) -> None:
    run(RELOADED, tmp_path / "logs/log")
