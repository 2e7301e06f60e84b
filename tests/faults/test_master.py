"""What could end the master, or leave it without workers: nothing does but being told to stop."""

import contextlib
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path

import psutil
import pytest

from panko_ingest.workers.endpoint import MAX_THREADS
from tests.bus import Bus
from tests.daemon import COMMAND, Daemon, configuration
from tests.ledger import Ledger, load
from tests.notify_socket import NotifySocket
from tests.services.server import find_program, free_port
from tests.spoiled import spoiled
from tests.waiting import wait_until

pytestmark = pytest.mark.rabbitmq

AS_STRANGER = ("--reuid=54321", "--regid=54321", "--clear-groups")
READ_ONLY = """
for folder in /dev/shm "$TMPDIR" /run; do mount -t tmpfs -o ro none $folder; done
exec "$0" "$@"
"""


@pytest.fixture(autouse=True)
def _schema(sqlite_url: str) -> None:
    Ledger(sqlite_url).close()


def reader_pids(service: Daemon) -> list[int]:
    """Return the process of each ingest worker that said in the log that it reads, and lives."""
    return [worker.pid for worker in service.workers]


def reads_again(service: Daemon, bus: Bus, workers: int, gone: set[int]) -> Callable[[], bool]:
    """Return whether so many read, none of those that are gone, which the broker may still count."""

    def read() -> bool:
        pids = set(reader_pids(service))
        return bus.consumers() == workers == len(pids) and not gone & pids

    return read


@pytest.mark.parametrize(
    ("content", "refused"),
    [
        (b"debug = True  # for a day", r"\[DEFAULT\] debug: is neither true nor false"),
        (b"debug =", r"\[DEFAULT\] debug: is neither true nor false"),
        (b"# caf\xe9", "is no UTF-8"),
        (b"[notification]\nbatch_size = PLANTED-SECRET", r"\[notification\] batch_size: is no number"),
        (b"[DEFAULT]\nlog_config_append = /nowhere.conf", r"\[DEFAULT\] log_config_append: .*/nowhere.conf"),
        (
            b"[DEFAULT]\nlog_file = /nowhere/at/all.log",
            r"\[DEFAULT\] log_file, .*: /nowhere/at/all.log: No such",
        ),
    ],
)
def test_a_start_with_what_a_library_cannot_read_ends_with_exit_code_2_and_names_it(
    tmp_path: Path, broker_url: str, sqlite_url: str, content: bytes, refused: str
) -> None:
    conf = configuration(tmp_path, broker_url, sqlite_url, "[DEFAULT]")
    conf.write_bytes(conf.read_bytes() + content + b"\n")
    with Daemon(conf).running() as service:
        assert service.wait(30) == 2
        assert re.search(refused, service.log)
        assert "Traceback" not in service.log


@pytest.mark.parametrize(
    ("mounted", "what"), [("ro", "Read-only file system"), ("nr_inodes=1", "No space left on device")]
)
def test_a_start_without_a_log_that_the_host_has_no_room_for_ends_with_a_code_after_which_it_is_tried_again(
    tmp_path: Path, broker_url: str, sqlite_url: str, mounted: str, what: str
) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    conf = configuration(tmp_path, broker_url, sqlite_url, f"[DEFAULT]\nlog_file = {logs}/log")
    made = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    script = f'mount -t tmpfs -o {mounted} none {logs} && exec "$0" "$@"'
    command = (find_program("unshare", "util-linux"), *made, "--mount", "sh", "-c", script, *COMMAND)
    with Daemon(conf, command=command).running() as service:
        assert service.wait(30) == 3
        assert f"[DEFAULT] log_file, log_dir, use_syslog: {logs}/log: {what}" in service.log
        assert "Traceback" not in service.log


def test_the_log_and_check_warn_where_the_kernel_would_kill_all_for_the_memory_of_one(
    tmp_path: Path, broker_url: str, sqlite_url: str
) -> None:
    conf = configuration(tmp_path, broker_url, sqlite_url)
    made = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    script = """
        mount -t tmpfs none /sys/fs/cgroup && echo 1 > /sys/fs/cgroup/memory.oom.group && exec "$0" "$@"
    """
    command = (find_program("unshare", "util-linux"), *made, "--mount", "sh", "-c", script, *COMMAND)
    told = "the kernel kills the whole daemon, not one worker .*singleProcessOOMKill"
    with Daemon(conf, "--only", "expirer", command=command).running() as service:
        service.wait_for_log(told)
    checked = subprocess.run(
        [*command, "--config-file", conf, "check"], capture_output=True, text=True, check=False
    )
    assert re.search(told, " ".join(checked.stdout.split())), checked.stdout


def test_a_reload_with_what_a_library_cannot_read_costs_nothing_and_is_told_once(
    tmp_path: Path, broker_url: str, sqlite_url: str
) -> None:
    conf = configuration(tmp_path, broker_url, sqlite_url, "[notification]\nworkers = 1\n[DEFAULT]")
    good = conf.read_bytes()
    service = Daemon(conf)
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        wait_until(lambda: bus.consumers() == 1, 30, "a consumer")
        pids = reader_pids(service)
        for number, content in enumerate(
            (b"debug = True  # for a day", b"debug =", b"# caf\xe9", b"log_config_append = /nowhere.conf"), 1
        ):
            conf.write_bytes(good + content + b"\n")
            service.signal(signal.SIGHUP)
            wait_until(lambda: service.log.count("is refused") == number, 30, "the refusal")  # noqa: B023
        assert reader_pids(service) == pids
        conf.write_bytes(good + b"debug = true\n")
        service.signal(signal.SIGHUP)
        wait_until(reads_again(service, bus, 1, set(pids)), 30, "a worker with the good one")
        assert "Traceback" not in service.log
        assert service.stop() == 0


def test_a_file_that_an_editor_puts_away_while_it_is_read_ends_nothing(
    tmp_path: Path, broker_url: str, sqlite_url: str
) -> None:
    definitions, fifo = tmp_path / "event_definitions.yaml", tmp_path / "fifo"
    definitions.write_text("- event_type: '*'\n  traits: {}\n")
    conf = configuration(tmp_path, broker_url, sqlite_url, "[notification]\nworkers = 1\nwokers = 2\n")
    service = Daemon(conf)
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        wait_until(lambda: bus.consumers() == 1, 30, "a consumer")
        os.mkfifo(fifo)
        fifo.replace(definitions)
        service.signal(signal.SIGHUP)
        # By then the options are read; the rest is not before the definitions are written.
        writer = wait_until(lambda: opened_by_a_reader(definitions), 30, "the definitions being read")
        conf.rename(tmp_path / "panko-ingest.conf~")
        os.write(writer, b"- event_type: '*'\n  traits: {}\n")
        os.close(writer)
        service.wait_for_log("The configuration was read again")
        assert service.log.count("[notification] wokers: unknown") == 2
        assert service.stop() == 0


def opened_by_a_reader(fifo: Path) -> int | None:
    """Open a pipe for writing, if somebody has it open for reading."""
    with contextlib.suppress(OSError):
        return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    return None


@pytest.mark.parametrize("appended", [False, True], ids=["log_file", "log_config_append"])
def test_a_log_that_cannot_be_opened_refuses_a_reload_and_is_written_again_when_it_can(
    tmp_path: Path, broker_url: str, sqlite_url: str, appended: bool
) -> None:
    logs, away, other = tmp_path / "logs", tmp_path / "away", tmp_path / "logging.ini"
    logs.mkdir()
    conf = configuration(
        tmp_path, broker_url, sqlite_url, f"[DEFAULT]\nlog_file = {logs}/log\n[notification]\nworkers = 1\n"
    )
    good, service = conf.read_text(), Daemon(conf)
    if appended:
        other.write_text(LOGGING_INI.format(path=f"{logs}/other"))
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        wait_until(lambda: bus.consumers() == 1, 30, "a consumer")
        before = children(service)
        logs.rename(away)
        if appended:
            conf.write_text(f"{good}[DEFAULT]\nlog_config_append = {other}\n")
        service.signal(signal.SIGHUP)
        # To standard error, where there is no log.
        service.wait_for_log("The new configuration is refused, the old one stays in force")
        assert children(service) == before
        away.rename(logs)
        conf.write_text(good.replace("workers = 1", "workers = 2"))
        service.signal(signal.SIGHUP)
        wait_until(lambda: bus.consumers() == 2, 30, "the workers of the next reload")
        assert "The configuration was read again" in (logs / "log").read_text()
        assert service.stop() == 0


LOGGING_INI = """
[loggers]
keys = root
[handlers]
keys = file
[formatters]
keys =
[logger_root]
handlers = file
[handler_file]
class = FileHandler
args = ("{path}",)
"""


def children(service: Daemon) -> set[int]:
    return {child.pid for child in service.process.children()}


def test_workers_that_die_after_a_refused_reload_go_on_with_what_was_in_force(
    tmp_path: Path, broker_url: str, sqlite_url: str
) -> None:
    definitions = tmp_path / "event_definitions.yaml"
    definitions.write_text("- event_type: '*'\n  traits: {}\n")
    conf = configuration(tmp_path, broker_url, sqlite_url, "[notification]\nworkers = 2\n")
    service = Daemon(conf)
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        wait_until(lambda: bus.consumers() == 2, 30, "two consumers")
        definitions.write_text("- event_type: x\n  traits: [no, dict]\n")
        service.signal(signal.SIGHUP)
        service.wait_for_log("is refused, the old one stays in force: .*event_definitions.yaml")
        # And an edit that nobody has loaded.
        conf.write_text(conf.read_text().replace("workers = 2", "workers = none"))
        gone = set(reader_pids(service))
        for pid in gone:
            os.kill(pid, signal.SIGKILL)
        wait_until(reads_again(service, bus, 2, gone), 30, "two consumers again")
        assert service.log.count("ended with exit code") == 0
        assert service.stop() == 0


def test_reloads_while_workers_die_all_the_time_leave_all_of_them_at_work(
    tmp_path: Path, broker_url: str, sqlite_url: str
) -> None:
    conf = configuration(tmp_path, broker_url, sqlite_url, "[notification]\nworkers = 2\n")
    service = Daemon(conf)
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        wait_until(lambda: bus.consumers() == 2, 30, "two consumers")
        end = time.monotonic() + 4
        while time.monotonic() < end:
            for child in service.process.children():
                child.send_signal(signal.SIGKILL)
            service.signal(signal.SIGHUP)
            time.sleep(0.05)
        wait_until(lambda: bus.consumers() == 2, 40, "two consumers again")
        assert service.stop() == 0
        assert "Traceback" not in service.log


def test_a_reload_starts_workers_anew_in_turns(tmp_path: Path, broker_url: str, sqlite_url: str) -> None:
    conf = configuration(tmp_path, broker_url, sqlite_url, "[notification]\nworkers = 3\n")
    service = Daemon(conf)

    with Bus(broker_url) as bus, service.running():
        bus.declare()
        wait_until(lambda: bus.consumers() == 3, 30, "three consumers")
        before = set(reader_pids(service))
        service.signal(signal.SIGHUP)
        fewest = 3

        def all_new() -> bool:
            nonlocal fewest
            fewest = min(fewest, bus.consumers())
            return not before & set(reader_pids(service)) and bus.consumers() == 3

        wait_until(all_new, 40, "three new workers")
        assert fewest == 2
        assert service.stop() == 0


def test_the_time_to_stop_in_is_that_of_the_last_reload(
    tmp_path: Path, broker_url: str, sqlite_url: str
) -> None:
    conf = configuration(tmp_path, broker_url, sqlite_url, "[notification]\nworkers = 1\n")
    longer = conf.read_text()
    conf.write_text(longer.replace("graceful_shutdown_timeout = 20", "graceful_shutdown_timeout = 1"))
    service = Daemon(conf, "--only", "ingester")
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        wait_until(lambda: bus.consumers() == 1, 30, "a consumer")
        before = set(reader_pids(service))
        conf.write_text(longer)
        service.signal(signal.SIGHUP)
        wait_until(reads_again(service, bus, 1, before), 30, "its successor")
        (worker,) = service.workers
        worker.suspend()
        service.signal(signal.SIGTERM)
        told = time.monotonic()
        wait_until(lambda: time.monotonic() > told + 8, 10, "the end of the time that held before")
        worker.resume()
        assert service.wait() == 0
        assert "Worker 0 has stopped; everything it took is committed" in service.log


def as_process_1() -> tuple[str | Path, ...]:
    """Return how to call the program in a pid namespace of its own, as the only child of what is called."""
    made = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    unshare = find_program("unshare", "util-linux")
    return (unshare, *made, "--pid", "--fork", "--kill-child", "--mount-proc", *COMMAND)


def test_process_1_ends_although_it_is_told_to_while_it_starts(
    tmp_path: Path, broker_url: str, sqlite_url: str
) -> None:
    service = Daemon(configuration(tmp_path, broker_url, sqlite_url), command=as_process_1())

    def waits_for_sigterm() -> bool:
        children = service.process.children()
        if not children or "panko_ingest" not in children[0].cmdline() or "unshare" in children[0].name():
            return False
        status = Path(f"/proc/{children[0].pid}/status").read_text()
        blocked = int(re.findall(r"^SigBlk:\s*(\w+)", status, re.MULTILINE)[0], 16)
        return bool(blocked >> (signal.SIGTERM - 1) & 1)

    with service.running():
        wait_until(waits_for_sigterm, 20, "a SIGTERM that would wait", 0.001)
        (master,) = service.process.children()
        master.send_signal(signal.SIGTERM)
        assert service.wait() == 0
        assert "has stopped because it was told to" in service.log


def test_process_1_collects_what_lost_its_parent_and_goes_on_replacing_workers(
    tmp_path: Path, broker_url: str, sqlite_url: str
) -> None:
    conf = configuration(tmp_path, broker_url, sqlite_url, "[notification]\nworkers = 1\n")
    service = Daemon(conf, command=as_process_1())
    enter = find_program("nsenter", "util-linux")
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        wait_until(lambda: bus.consumers() == 1, 30, "a consumer")
        (master,) = service.process.children()
        workers = {child.pid for child in master.children()}
        made = () if os.geteuid() == 0 else ("--user", "--preserve-credentials")
        orphans = "sleep 0.2 & sleep 0.2 & sleep 0.3 &"
        subprocess.run([enter, "--target", str(master.pid), *made, "--pid", "sh", "-c", orphans], check=True)
        assert len(master.children()) > len(workers), "nothing lost its parent"
        wait_until(lambda: {child.pid for child in master.children()} == workers, 10, "those to be collected")
        for worker in master.children():
            worker.kill()
        wait_until(
            lambda: len({child.pid for child in master.children()} - workers) == len(workers), 20, "others"
        )
        wait_until(lambda: bus.consumers() == 1, 30, "a consumer again")
        master.send_signal(signal.SIGTERM)
        assert service.wait() == 0


BLOCKING = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_signals_that_who_starts_it_has_blocked_are_heard(
    tmp_path: Path, broker_url: str, sqlite_url: str
) -> None:
    conf = configuration(tmp_path, broker_url, sqlite_url, "[notification]\nworkers = 1\n")
    service = Daemon(conf, command=(sys.executable, "-c", BLOCKING, *COMMAND))
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        wait_until(lambda: bus.consumers() == 1, 30, "a consumer")
        pids = reader_pids(service)
        os.kill(pids[0], signal.SIGKILL)
        wait_until(reads_again(service, bus, 1, set(pids)), 30, "another worker")
        assert service.stop() == 0


def test_a_standard_error_that_takes_nothing_ends_nothing(
    tmp_path: Path, broker_url: str, sqlite_url: str
) -> None:
    conf = configuration(tmp_path, broker_url, sqlite_url)
    buffered = 'unset PYTHONUNBUFFERED; exec "$0" "$@" 2> /dev/full'
    service = Daemon(conf, command=("sh", "-c", buffered, *COMMAND))
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        service.wait_until_ready()
        service.signal(signal.SIGHUP)
        service.wait_for_log("The configuration was read again")
        assert service.stop() == 0
    conf.write_text("[notification]\nworkers = many\n")
    with service.running():
        assert service.wait(30) == 2


def test_workers_may_take_any_time_to_end(tmp_path: Path, broker_url: str, sqlite_url: str) -> None:
    conf = configuration(tmp_path, broker_url, sqlite_url)
    conf.write_text(
        conf.read_text().replace("graceful_shutdown_timeout = 20", "graceful_shutdown_timeout = 0")
    )
    service = Daemon(conf)
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        service.wait_until_ready()
        assert service.stop() == 0


def test_a_worker_with_the_pid_of_one_that_made_way_makes_way_as_well(
    tmp_path: Path, broker_url: str, sqlite_url: str
) -> None:
    conf = configuration(tmp_path, broker_url, sqlite_url, "[notification]\nworkers = 1\n")
    nsenter = find_program("nsenter", "util-linux")
    # Root says which pid is next in a pid namespace; in a namespace of users anybody is root.
    entered = () if os.geteuid() == 0 else ("--user", "--preserve-credentials")
    service = Daemon(conf, "--only", "ingester", command=as_process_1())

    def readers() -> list[str]:
        return re.findall(r" (\d+) INFO panko_ingest.workers.ingester \[-\] Worker 0 reads", service.log)

    def wait_for_reader(number: int) -> str:
        wait_until(lambda: len(readers()) == number, 40, f"reader {number}: {service.log[-2000:]}")
        return readers()[-1]

    with Bus(broker_url) as bus, service.running():
        bus.declare()
        first = wait_for_reader(1)
        (master,) = service.process.children()
        master.send_signal(signal.SIGHUP)
        second = wait_for_reader(2)
        last, inside = int(first) - 1, (nsenter, f"--target={master.pid}", *entered, "--pid", "--mount")
        script = f"echo {last} > /proc/sys/kernel/ns_last_pid; kill -KILL {second}"
        subprocess.run([*inside, "sh", "-c", script], check=True)
        assert wait_for_reader(3) == first
        master.send_signal(signal.SIGHUP)
        assert wait_for_reader(4) != first
        master.send_signal(signal.SIGTERM)
        assert service.wait() == 0


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that any user may write to."""
    folder = Path(tempfile.mkdtemp(prefix="panko-ingest-test-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def is_alive(port: int) -> bool:
    url = f"http://127.0.0.1:{port}/healthz"
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
        return bool(answer.status == HTTPStatus.OK)
    return False


def limit_processes(service: Daemon, number: str) -> None:
    """Let the user of a daemon have only so many, threads among them."""
    for process in (service.process, *service.process.children()):
        limiter = (find_program("prlimit", "util-linux"), f"--pid={process.pid}", f"--nproc={number}:")
        subprocess.run([find_program("setpriv", "util-linux"), *AS_STRANGER, *limiter], check=True)


@pytest.fixture
def strangers_folder(open_folder: Path) -> Path:
    """A folder for a daemon that runs as a user whose processes are limited."""
    # The kernel lets nobody else become another user, and does not count root's own processes.
    if os.geteuid() != 0:
        pytest.skip("needs root, to run the daemon as a user whose processes are limited")
    return open_folder


def test_a_fork_that_fails_is_tried_again_until_it_does_not(strangers_folder: Path, broker_url: str) -> None:
    conf = configuration(
        strangers_folder,
        broker_url,
        f"sqlite:///{strangers_folder}/events.sqlite",
        "[notification]\nworkers = 1\n",
    )
    conf.chmod(0o644)
    service = Daemon(conf, command=(find_program("setpriv", "util-linux"), *AS_STRANGER, *COMMAND))
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        service.wait_for_log("Worker 0 reads")
        limit_processes(service, "1")
        gone = set(reader_pids(service))
        for pid in gone:
            os.kill(pid, signal.SIGKILL)
        service.wait_for_log("No process can be started for ingester-0, trying again: Resource temporarily")
        limit_processes(service, "1000")
        wait_until(lambda: set(reader_pids(service)) - gone, 30, "a worker in its place")
        assert service.stop() == 0


def test_process_1_collects_what_lost_its_parent_while_no_fork_succeeds(
    strangers_folder: Path, broker_url: str
) -> None:
    url = f"sqlite:///{strangers_folder}/events.sqlite"
    conf = configuration(strangers_folder, broker_url, url, "[notification]\nworkers = 1\n")
    conf.chmod(0o644)
    as_stranger = (find_program("setpriv", "util-linux"), *AS_STRANGER)
    *unshare, _, _, _ = as_process_1()
    service = Daemon(conf, "--only", "ingester", command=(*unshare, *as_stranger, *COMMAND))
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        service.wait_for_log("Worker 0 reads")
        (master,) = service.process.children()
        (worker,) = master.children()
        enter = (find_program("nsenter", "util-linux"), f"--target={master.pid}", "--pid", *as_stranger)
        subprocess.run([*enter, "sh", "-c", "sleep 1000 & sleep 1000 &"], check=True)
        orphans = set(master.children()) - {worker}
        limiter = (*as_stranger, find_program("prlimit", "util-linux"), f"--pid={master.pid}")
        subprocess.run([*limiter, "--nproc=1:"], check=True)
        worker.kill()
        service.wait_for_log("No process can be started for ingester-0, trying again")
        for orphan in orphans:
            orphan.kill()
        # They count towards the limit of a container, which may be why there is no process.
        wait_until(lambda: not master.children(), 10, "those to be collected")
        subprocess.run([*limiter, "--nproc=1000:"], check=True)
        wait_until(master.children, 30, "a worker in its place")
        master.send_signal(signal.SIGTERM)
        assert service.wait() == 0


def test_a_fork_that_fails_costs_no_file_and_no_worker_that_is_there(
    strangers_folder: Path, broker_url: str
) -> None:
    notify = NotifySocket(strangers_folder / "notify")
    notify.path.chmod(0o666)
    url = f"sqlite:///{strangers_folder}/events.sqlite"
    conf = configuration(strangers_folder, broker_url, url, "[notification]\nworkers = 2\n")
    conf.chmod(0o644)
    command = (find_program("setpriv", "util-linux"), *AS_STRANGER, *COMMAND)
    # So long after a worker's end systemd would have been told nothing more: 9 s.
    told = {"NOTIFY_SOCKET": str(notify.path), "WATCHDOG_USEC": "18000000"}
    service = Daemon(conf, "--only", "ingester", command=command, environment=told)
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        wait_until(lambda: len(service.workers) == 2, 30, "both workers")
        victim, healthy = service.workers
        files = service.process.num_fds()
        limit_processes(service, "1")
        killed = time.monotonic()
        victim.kill()
        wait_until(lambda: time.monotonic() > killed + 14, 30, "what systemd would have lost patience with")
        assert "No process can be started for ingester-" in service.log
        assert notify.longest_silence(since=killed) < 4
        assert service.process.num_fds() < files + 4, "each try left files open"
        limit_processes(service, "1000")
        wait_until(lambda: len(service.workers) == 2, 30, "a worker in its place")
        assert healthy in service.workers
        assert service.stop() == 0
    notify.close()


def test_threads_that_cannot_be_started_cost_neither_the_buses_that_are_read_nor_the_monitor(
    strangers_folder: Path, broker_url: str
) -> None:
    port, other, url = free_port(), free_port(), f"sqlite:///{strangers_folder}/events.sqlite"
    more = (
        f"port = {port}\n[DEFAULT]\ngraceful_shutdown_timeout = 3\n[notification]\nworkers = 1\n"
        f"messaging_urls = {broker_url}\nmessaging_urls = amqp://guest:guest@127.0.0.1:{other}/\n"
    )
    conf = configuration(strangers_folder, broker_url, url, more)
    ledger = Ledger(url)
    for path in strangers_folder.iterdir():
        path.chmod(0o666)
    service = Daemon(conf, command=(find_program("setpriv", "util-linux"), *AS_STRANGER, *COMMAND))
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        wait_until(lambda: bus.consumers() == 1 and is_alive(port), 30, "a consumer and the monitor")
        (worker,) = service.workers
        limit_processes(service, "1")
        service.wait_for_log(rf"127.0.0.1:{other}/: OSError: no thread can be started .*TasksMax=")
        assert all(is_alive(port) for _ in range(3 * MAX_THREADS))
        bus.publish(load(50))
        wait_until(lambda: ledger.events() == 50, 30, "the events")
        limit_processes(service, "1000")
        with socket.create_server(("127.0.0.1", other)) as broker:
            wait_until(lambda: select.select([broker], [], [], 0)[0], 40, "another try")
        assert all(is_alive(port) for _ in range(3 * MAX_THREADS))
        assert [worker.pid for worker in service.workers] == [worker.pid]
        limit_processes(service, "1")
        assert service.stop() == 0
        assert "Worker 0 has stopped; everything it took is committed" in service.log
    ledger.close()


def test_it_needs_neither_shared_memory_files_nor_a_folder_to_write_to(
    tmp_path: Path, broker_url: str, sqlite_url: str
) -> None:
    # Only a mount makes /dev/shm read-only, which the kernel grants root alone.
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount")
    conf = configuration(tmp_path, broker_url, sqlite_url, "[notification]\nworkers = 1\n")
    command = (find_program("unshare", "util-linux"), "--mount", "sh", "-c", READ_ONLY, *COMMAND)
    read_only = tmp_path / "read-only"
    read_only.mkdir()
    environment = {"RUNTIME_DIRECTORY": "/run/none", "TMPDIR": str(read_only)}
    service = Daemon(conf, command=command, environment=environment)
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        wait_until(lambda: bus.consumers() == 1, 30, "a consumer")
        written = {
            opened.path
            for process in [service.process, *service.process.children()]
            for opened in process.memory_maps(grouped=False)
            if "w" in opened.perms and "s" in opened.perms and opened.path.startswith("/")
        }
        # A path may begin with that of a root that the mounts are out of reach of.
        assert not {path for path in written if not (str(tmp_path) in path or path.startswith("/dev/zero"))}
        assert service.stop() == 0


@pytest.mark.parametrize("kind", ["expirer", "monitor"])
def test_an_expirer_or_a_monitor_that_hangs_is_replaced(
    tmp_path: Path, broker_url: str, sqlite_url: str, kind: str
) -> None:
    conf = configuration(tmp_path, broker_url, sqlite_url).read_text()
    path = tmp_path / "panko-ingest.conf"
    path.write_text(conf.replace("port = 0", "port = 0" if kind == "expirer" else f"port = {free_port()}"))
    impatient = spoiled(f"workers.{kind}:_HANG_LIMIT=6")
    with Daemon(path, "--only", "expirer", environment=impatient).running() as service:
        wait_until(lambda: len(service.process.children()) == (1 if kind == "expirer" else 2), 30, "all")
        victim = service.process.children()[-1]
        victim.suspend()  # perhaps before it has begun, when the limit of all holds for it
        service.wait_for_log(
            f"process {victim.pid} \\({kind}(-0)?\\) made no progress for .* s: killing it", 40
        )
        victim.wait(5)
        wait_until(
            lambda: len(alive(service.process)) == (1 if kind == "expirer" else 2), 30, "one in its place"
        )
        assert service.stop() == 0


def test_a_worker_that_hangs_before_it_begins_is_replaced(
    tmp_path: Path, broker_url: str, sqlite_url: str
) -> None:
    tickets = tmp_path / "tickets"
    tickets.mkdir()
    (tickets / "1").touch()
    environment = spoiled(
        "workers.supervisor:HANG_LIMIT=6",
        FAULT_KILL="panko_ingest.workers.worker:Worker._occupy",
        FAULT_KILL_WHEN="stop",
        FAULT_KILL_CALL="1",
        FAULT_KILL_FOLDER=str(tickets),
    )
    conf = configuration(tmp_path, broker_url, sqlite_url, "[notification]\nworkers = 2\n")
    service = Daemon(conf, "--only", "ingester", environment=environment)
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        service.wait_for_log(r"Worker process \d+ \(ingester-\d\) made no progress for .* s: killing it", 30)
        wait_until(lambda: bus.consumers() == 2, 30, "both workers")
        assert service.stop() == 0


def alive(master: psutil.Process) -> list[psutil.Process]:
    return [child for child in master.children() if child.status() != psutil.STATUS_ZOMBIE]


def fill(pipe: int) -> None:
    """Write into a pipe until it takes no more."""
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(pipe, b"#")


def test_a_log_that_nobody_reads_stops_nothing_and_the_lines_left_out_are_told_later(
    tmp_path: Path, broker_url: str, sqlite_url: str
) -> None:
    port, fifo = free_port(), tmp_path / "fifo"
    os.mkfifo(fifo)
    pipe = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    fill(pipe)
    more = f"port = {port}\n[notification]\nworkers = 2\n[DEFAULT]\ndebug = true\n"
    conf = configuration(tmp_path, broker_url, sqlite_url, more)
    few = spoiled("workers.log_writer:_MOST=1")
    command = ("sh", "-c", f'exec "$@" > {fifo} 2>&1', "sh", *COMMAND)
    service, ledger, read = Daemon(conf, command=command, environment=few), Ledger(sqlite_url), b""
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        wait_until(lambda: bus.consumers() == 2 and is_alive(port), 40, "both workers and the monitor")
        victim = service.process.children()[0]
        victim.kill()
        bus.publish([*load(50), *(b"{%d" % number for number in range(20))])
        wait_until(lambda: ledger.events() == 50 and ledger.dead_letters() == 20, 30, "all messages")
        wait_until(lambda: not victim.is_running() and bus.consumers() == 2, 30, "another worker")
        assert is_alive(port)

        def told() -> bool:
            nonlocal read
            with contextlib.suppress(BlockingIOError):
                read += os.read(pipe, 65536)
            return bool(re.search(rb"could not be written for a while: \d+ lines were left out", read))

        wait_until(told, 30, "the log, which goes on")
        fill(pipe)
        service.signal(signal.SIGHUP)
        assert service.stop() == 0
    os.close(pipe)
    ledger.close()


def test_a_report_that_nobody_reads_keeps_nobody_from_ending(
    tmp_path: Path, broker_url: str, sqlite_url: str
) -> None:
    fifo, read = tmp_path / "fifo", b""
    os.mkfifo(fifo)
    pipe = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    conf = configuration(tmp_path, broker_url, sqlite_url, "[notification]\nworkers = 1\n")
    command = ("sh", "-c", f'exec "$@" > {fifo} 2>&1', "sh", *COMMAND)
    service = Daemon(conf, "--only", "ingester", command=command)
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        wait_until(lambda: bus.consumers() == 1, 30, "a consumer")
        (worker,) = service.process.children()
        fill(pipe)

        def ask() -> None:
            for process in (service.process, worker):
                process.send_signal(signal.SIGUSR2)

        def told() -> bool:
            nonlocal read
            with contextlib.suppress(BlockingIOError):
                read += os.read(pipe, 65536)
            return read.count(b"Configuration in force") == 2

        ask()
        wait_until(told, 30, "two reports, when they are read")
        fill(pipe)
        ask()
        assert service.stop() == 0
    os.close(pipe)
