"""The installed daemon as containers run it: process 1, any user, nothing to write to, little memory."""

import contextlib
import http.client
import os
import re
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.acceptance.installation import CHECKOUT, Installation
from tests.bus import Bus
from tests.daemon import Daemon, configuration
from tests.ledger import Ledger, load
from tests.services.server import find_program, free_port
from tests.waiting import wait_until

pytestmark = [pytest.mark.rabbitmq, pytest.mark.postgresql]

MEMORY = 256 * 1024 * 1024
"""What one worker and the rest of the daemon must do with."""

INSIDE = """
mount --make-rprivate /
mount --bind / / && mount -o remount,bind,ro /
for folder in /tmp /run /var/tmp /dev/shm; do
    if mountpoint -q $folder; then mount -o remount,bind,ro $folder; fi
done
mount -t proc proc /proc
exec setpriv --reuid=54321 --regid=54321 --clear-groups --bounding-set=-all --no-new-privs "$0" "$@"
"""


@contextlib.contextmanager
def memory_group(limit: int) -> Iterator[Path | None]:
    """Make a control group that bounds memory, and give its folder; None where that can't be had."""
    for root, file in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        group = Path(root, f"panko-ingest-{uuid.uuid4().hex[:8]}")
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if (group / file).exists():
                (group / file).write_text(str(limit))
                yield group
                return
        finally:
            wait_until(lambda: not (group / "cgroup.procs").read_text(), 20, "an empty group")  # noqa: B023
            group.rmdir()
    yield None


def largest(group: Path) -> int:
    files = [group / name for name in ("memory.max_usage_in_bytes", "memory.peak") if (group / name).exists()]
    return int(files[0].read_text())


@pytest.fixture(scope="module")
def installed(distributions: tuple[Path, Path]) -> Iterator[Installation]:
    """An installation that any user may read: pytest closes its own folders to others now and then."""
    folder = Path(tempfile.mkdtemp(prefix="panko-ingest-container-"))
    folder.chmod(0o755)
    yield Installation(folder / "installed", distributions[0])
    shutil.rmtree(folder)


@pytest.fixture
def container(
    installed: Installation, broker_url: str, postgresql_url: str
) -> Iterator[tuple[Daemon, Path | None, int]]:
    # Not every kernel lets others make a user namespace, in which they might.
    if os.geteuid() != 0:
        pytest.skip("a namespace with a root of its own needs root")
    port = free_port()
    conf = configuration(
        installed.directory.parent, broker_url, postgresql_url, "[notification]\nworkers = 1\n"
    )
    conf.write_text(conf.read_text().replace("port = 0", f"host = 0.0.0.0\nport = {port}"))
    conf.chmod(0o644)
    with memory_group(MEMORY) as group:
        enter = f'echo $$ > {group}/cgroup.procs; exec "$0" "$@"' if group else 'exec "$0" "$@"'
        command = (
            "sh", "-c", enter,
            find_program("unshare", "util-linux"), "--mount", "--pid", "--fork", "--kill-child",
            "sh", "-c", INSIDE, installed.command("panko-ingest"),
        )  # fmt: skip
        yield Daemon(conf, command=command), group, port


def first_process(service: Daemon) -> psutil.Process:
    """Return process 1 of the container, seen from outside."""
    return wait_until(lambda: next(iter(service.process.children()), None), 20, "process 1")


def get(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.2", port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def test_it_runs_as_process_1_of_any_user_with_a_read_only_root_and_256_mb(
    container: tuple[Daemon, Path | None, int], installed: Installation, postgresql_url: str, broker_url: str
) -> None:
    service, group, port = container
    ledger = Ledger(postgresql_url)
    bodies = load(6000, seed=9)
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        service.wait_until_ready(60)
        init = first_process(service)
        assert init.uids().real == 54321
        assert re.search(r"^NSpid:\t\d+\t1$", Path(f"/proc/{init.pid}/status").read_text(), re.MULTILINE)
        bus.publish(bodies)
        wait_until(lambda: ledger.events() == len(bodies), 60, "the events")
        wait_until(lambda: (get(port, "/healthz"), get(port, "/readyz")) == (200, 200), 30, "the probes")
        status = installed.run("panko-ingest", "--config-file", service.conf, "status")
        assert status.returncode == 0, status.stdout
        before = len(init.children())
        victim = init.children()[0]
        victim.kill()
        wait_until(lambda: victim.pid not in {p.pid for p in init.children()}, 20, "its collection")
        wait_until(lambda: len(init.children()) == before, 20, "one in its place")
        wait_until(lambda: service.log.count("Worker 0 reads from") == 2, 20, "its beginning")
        init.send_signal(signal.SIGTERM)
        assert service.wait(60) == 0
        if group:
            assert largest(group) < MEMORY, "it came near its limit"
    assert "Traceback" not in service.log
    ledger.assert_holds(bodies)
    ledger.close()


def test_in_a_container_a_refused_configuration_is_told_with_exit_code_2(
    container: tuple[Daemon, Path | None, int],
) -> None:
    service, _, _ = container
    service.conf.write_text(service.conf.read_text() + "batch_size = none\n")
    with service.running():
        assert service.wait(60) == 2
    assert re.search(r"panko-ingest.conf:\d+ \[notification\] batch_size: is no number", service.log)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_image_is_built_from_the_wheel_on_any_base_and_runs(
    tmp_path: Path, distributions: tuple[Path, Path]
) -> None:
    buildah = shutil.which("buildah")
    # A long test: no builder is among what `make services` installs, and debootstrap works for root alone.
    if buildah is None or os.geteuid() != 0:
        pytest.skip("needs buildah, and root to make a base image")
    tree = tmp_path / "tree"
    subprocess.run([CHECKOUT / "tests" / "debian_tree.sh", "bookworm", tree, "python3-venv"], check=True)
    context = tmp_path / "context"
    (context / "dist").mkdir(parents=True)
    shutil.copy(distributions[0], context / "dist")
    for name in ("Containerfile", "constraints.txt"):
        shutil.copy(CHECKOUT / name, context)
    store: list[str | Path] = [
        buildah, "--root", tmp_path / "images", "--runroot", tmp_path / "run", "--storage-driver", "vfs",
    ]  # fmt: skip

    def run(*words: str | Path) -> str:
        done: subprocess.CompletedProcess[str] = subprocess.run(
            [*store, *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return str(done.stdout).strip()

    environment = [f"--env={line}" for line in (tree / "etc/environment").read_text().split() if "=" in line]
    empty = run("from", "scratch")
    run("copy", "--quiet", empty, tree, "/")
    run("config", *environment, empty)
    run("commit", "--quiet", empty, "base")
    isolated = ["--isolation", "chroot", "--pull-never"]
    run("build", *isolated, "--build-arg", "BASE=localhost/base", "--tag", "panko-ingest", context)
    made = run("from", "--pull-never", "localhost/panko-ingest")
    told = run("run", "--isolation", "chroot", "--user", "4711", made, "--", "panko-ingest", "--version")
    assert re.search(r"\d+\.\d+", told)
    wanted = run("inspect", "--format", "{{.OCIv1.Config.Entrypoint}} {{.OCIv1.Config.User}}", made)
    assert wanted == "[panko-ingest] 10001"
