"""The README's five minutes, from the installed wheel, in a folder away from the checkout.

Every block of the README that has `quickstart` behind its language is run, in order.
"""

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from tests.acceptance.installation import Installation
from tests.daemon import Daemon
from tests.documents import ROOT, Block, blocks, commands, statements
from tests.services import PostgreSQL
from tests.services.server import find_program, free_port
from tests.waiting import wait_until

BROKER = "rabbit://panko-ingest:BROKER_PASSWORD@rabbit1:5672,panko-ingest:BROKER_PASSWORD@rabbit2:5672/"
DATABASE = "postgresql://panko:DATABASE_PASSWORD@database1/panko"
SAMPLES = 8
README = ROOT / "README.md"


@dataclass
class Host:
    """A machine as the README has it, within a folder."""

    installed: Installation
    folder: Path
    broker: str
    database: str
    monitor_port: int = field(default_factory=free_port)

    @property
    def configuration(self) -> Path:
        return self.folder / "panko-ingest.conf"

    def configure(self, text: str) -> None:
        assert BROKER in text
        assert DATABASE in text
        text = text.replace(BROKER, self.broker).replace(DATABASE, self.database)
        self.configuration.write_text(f"{text}\n[monitor]\nport = {self.monitor_port}\n")

    def run(self, line: str) -> str:
        """Run a command line and return what it prints."""
        done = self._try(line)
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout

    def succeeds(self, line: str) -> bool:
        """Run a command line and return whether all is well."""
        return self._try(line).returncode == 0

    def _try(self, line: str) -> subprocess.CompletedProcess[str]:
        line = line.replace("/opt/panko-ingest", str(self.installed.directory))
        line = line.replace(":8978/", f":{self.monitor_port}/")
        # Ours, with what it would find in /etc.
        ours = self.folder / "bin" / "panko-ingest"
        ours.parent.mkdir(exist_ok=True)
        program = self.installed.command("panko-ingest")
        ours.write_text(f'#!/bin/sh\nexec {program} --config-file {self.configuration} "$@"\n')
        ours.chmod(0o755)
        return subprocess.run(
            ["bash", "-c", line],
            cwd=self.folder,
            env={"PATH": f"{ours.parent}:/usr/bin:/bin"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture(
    params=[
        "embedded",
        pytest.param("rabbitmq and postgresql", marks=[pytest.mark.rabbitmq, pytest.mark.postgresql]),
    ]
)
def host(request: pytest.FixtureRequest, installed: Installation, tmp_path: Path) -> Iterator[Host]:
    if request.param == "embedded":
        broker, database = f"sqla+sqlite:///{tmp_path}/bus.sqlite", f"sqlite:///{tmp_path}/events.sqlite"
        yield Host(installed, tmp_path, broker, database)
        return
    server: PostgreSQL = request.getfixturevalue("postgresql")
    (block,) = quickstart("sql")
    for statement in statements(block):
        server.execute(statement)
    database = DATABASE.replace("database1", f"127.0.0.1:{server.port}")
    yield Host(installed, tmp_path, request.getfixturevalue("broker_url"), database)
    server.execute("DROP DATABASE panko WITH (FORCE)")
    server.execute("REVOKE SET ON PARAMETER session_replication_role FROM panko")
    server.execute("DROP ROLE panko")


def quickstart(language: str, *words: str) -> list[Block]:
    return blocks(language, "quickstart", *words, path=README)


def rows(table: str) -> list[str]:
    return table.splitlines()[1:]


def test_the_readme_leads_to_events_that_can_be_read(host: Host) -> None:
    (configuration,) = quickstart("ini")
    host.configure(configuration.text)
    (serve,) = quickstart("bash", "background")
    assert commands(serve) == ["panko-ingest serve"]
    ready = quickstart("bash", "ready")
    before, publish, look, *reading = [block for block in quickstart("bash") if block not in (serve, *ready)]

    for line in commands(before):
        host.run(line)
    daemon = Daemon(host.configuration, command=[host.installed.command("panko-ingest")])
    with daemon.running():
        daemon.wait_until_ready()
        for block in ready:
            for line in commands(block):
                # What the daemon says of itself is a few seconds old.
                wait_until(partial(host.succeeds, line), 30, f"good news from {line}")
        for line in commands(publish):
            assert host.run(line) == f"{SAMPLES} notifications published\n"
        events, dead_letters = commands(look)
        wait_until(lambda: len(rows(host.run(events))) == SAMPLES, 60, "the events of all samples")
        assert rows(host.run(dead_letters)) == []
        for block in reading:
            for line in commands(block):
                assert host.run(line), f"{line} shows nothing"
        assert daemon.stop() == 0, daemon.log


@pytest.mark.skipif(os.geteuid() != 0, reason="making users in another root needs root")
def test_user_folders_and_unit_of_the_service_are_installed_as_the_readme_says(
    installed: Installation, tmp_path: Path
) -> None:
    (tmp_path / "etc").mkdir()
    find_program("systemd-sysusers", "systemd")
    # The first is the installation; an upgrade installs them once more.
    install, *_ = [block for block in blocks("bash", "host", path=README) if "sysusers.d" in block.text]
    text = install.text.replace("/opt/panko-ingest", str(installed.directory)).replace(
        " /etc/", " $ROOT/etc/"
    )
    text = re.sub(r"^(systemd-\w+)", r"\1 --root=$ROOT", text, flags=re.MULTILINE)
    done = subprocess.run(
        ["bash", "-euc", text],
        env={"PATH": os.environ["PATH"], "ROOT": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "etc/systemd/system/panko-ingest.service").is_file()
    assert (tmp_path / "etc/panko-ingest").is_dir()
    assert "panko-ingest:" in (tmp_path / "etc/passwd").read_text()
