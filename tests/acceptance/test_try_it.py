"""What `make run` shows, run from the installed wheel."""

import contextlib
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.acceptance.installation import CHECKOUT, Installation
from tests.waiting import wait_until

SAMPLES = CHECKOUT / "etc" / "samples.jsonl"


@pytest.fixture(params=["embedded", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """What `make run` puts into run/."""
    if request.param == "rabbitmq":
        broker = request.getfixturevalue("broker_url")
    else:
        broker = f"sqla+sqlite:///{tmp_path}/bus.sqlite"
    (tmp_path / "panko-ingest.conf").write_text(
        f"[DEFAULT]\ntransport_url = {broker}\n"
        f"[database]\nconnection = sqlite:///{tmp_path}/events.sqlite\n"
        "[notification]\nworkers = 1\n"
        "[monitor]\nport = 0\n"
    )
    return tmp_path


def test_samples_show_up_and_so_does_what_is_published_later(installed: Installation, folder: Path) -> None:
    ingest = installed.command("panko-ingest")
    log = folder / "shown.log"
    with log.open("w") as output:
        run = subprocess.Popen(
            # Whoever runs the tests in the background made Ctrl-C mean nothing to them.
            ["env", "--default-signal=INT", "bash", CHECKOUT / "docs" / "try-it.sh", ingest, folder],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        wait_until(lambda: "Ctrl-C ends it" in log.read_text(), timeout=60, what="the events")
        shown = log.read_text()
        assert "compute.instance.create.end" in shown
        assert "identity.authenticate" in shown

        published = installed.run(
            "panko-ingest", "--config-file", folder / "panko-ingest.conf", "publish", "--count", "2", SAMPLES
        )
        assert published.returncode == 0, published.stderr
        wait_until(lambda: "The newest events now" in log.read_text(), timeout=60, what="the later events")

        run.send_signal(signal.SIGINT)
        assert run.wait(30) == 0, log.read_text()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    assert "has stopped" in (folder / "serve.log").read_text()
