"""The page for people, looked at in a real browser: Debian's Chromium, without a screen."""

import html.parser
import os
import re
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bus import Bus
from tests.daemon import Daemon, configuration
from tests.ledger import Ledger, load
from tests.services import PostgreSQL
from tests.services.server import find_program, free_port
from tests.waiting import wait_until

image = pytest.importorskip("matplotlib.image")

pytestmark = [pytest.mark.rabbitmq, pytest.mark.postgresql, pytest.mark.timeout(300)]

LIGHT, DARK = 1, 0
NARROW = 360


class Browser:
    """Opens one page; each time anew, for a browser that was killed keeps its folder locked."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url
        self._folder = folder
        self._program = find_program("chromium", "chromium")

    def _open(self, *words: str, width: int = 900, scheme: int = LIGHT) -> bytes:
        with tempfile.TemporaryDirectory(dir=self._folder) as profile:
            return subprocess.run(
                [
                    self._program, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                    f"--user-data-dir={profile}", f"--window-size={width},1200", "--virtual-time-budget=2000",
                    f"--blink-settings=preferredColorScheme={scheme}", *words, self._url,
                ],
                stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=90,
                env={**os.environ, "HOME": profile},
            ).stdout  # fmt: skip

    def text(self) -> str:
        """Return what is to be read on the page."""
        return words_of(self._open("--dump-dom").decode())

    def picture(self, name: str, width: int = 900, scheme: int = LIGHT) -> Path:
        path = self._folder / name
        self._open(f"--screenshot={path}", width=width, scheme=scheme)
        return path


class _Words(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self._style = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._style = tag == "style"

    def handle_data(self, data: str) -> None:
        if not self._style:
            self.words += data.split()


def words_of(page: str) -> str:
    parser = _Words()
    parser.feed(page)
    return " ".join(parser.words)


def fetch(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as response:
        assert response.headers["Content-Type"] == "text/html; charset=utf-8"
        source: bytes = response.read()
    return source.decode()


def told(port: int) -> str:
    """Return what the page says, without a browser; nothing while nobody serves it."""
    try:
        return words_of(fetch(port))
    except OSError:
        return ""


def brightness(picture: Path) -> float:
    """Return how bright the left edge is, where nothing is written: 0 to 1."""
    return float(image.imread(picture)[:, :2, :3].mean())


def reaches(picture: Path) -> int:
    """Return how far to the right something is written, in pixels."""
    pixels = image.imread(picture)[:, :, :3]
    written = (abs(pixels - pixels[0, 0]) > 0.1).any(axis=(0, 2))
    return int(written.nonzero()[0].max())


@pytest.fixture
def ledger(postgresql_url: str) -> Iterator[Ledger]:
    ledger = Ledger(postgresql_url)
    yield ledger
    ledger.close()


def test_a_browser_shows_how_the_daemon_does_in_light_and_dark_on_a_narrow_screen_and_in_an_outage(
    tmp_path: Path, broker_url: str, postgresql: PostgreSQL, ledger: Ledger
) -> None:
    port = free_port()
    conf = configuration(tmp_path, broker_url, ledger.url, "[notification]\nworkers = 2\n")
    conf.write_text(conf.read_text().replace("port = 0", f"port = {port}"))
    browser = Browser(f"http://127.0.0.1:{port}/", tmp_path)
    service = Daemon(conf)
    with Bus(broker_url) as bus, service.running():
        bus.declare()
        service.wait_until_ready()
        bus.publish([*load(500, seed=6), b"{<script>tenant"])
        wait_until(lambda: ledger.events() == 500 and ledger.dead_letters() == 1, 30, "the events")
        wait_until(lambda: "panko-ingest is ready" in browser.text(), 40, "a page that says so")
        text = wait_until(
            lambda: found if "decode DecodeError 1" in (found := browser.text()) else "",
            40,
            "the dead letter",
        )
        assert "notifications.info 0 2 0" in text
        assert "metrics · healthz · readyz" in text
        assert re.search(r"recorded [\d.]+ [\d.]+", text)
        assert "tenant" not in text

        source = fetch(port)
        assert len(source) < 20_000
        assert "<script" not in source
        assert not re.findall(r"(?:src|href)=[\"']?(?!/(?:metrics|healthz|readyz)\b)\S+", source)

        light = browser.picture("light.png")
        assert brightness(light) > 0.9
        assert brightness(browser.picture("dark.png", scheme=DARK)) < 0.2
        assert reaches(browser.picture("narrow.png", width=NARROW)) < NARROW
        if target := os.environ.get("PANKO_INGEST_PICTURE"):
            shutil.copy(light, target)

        postgresql.pause()
        try:
            bus.publish(load(10, seed=7))
            wait_until(lambda: "panko-ingest is not ready" in told(port), 60, "the outage")
            said = browser.text()
            assert re.search(r"✗ (database no answer|recording nothing written)", said)
            assert "notifications.info" in said, "what still answers is shown"
        finally:
            postgresql.resume()
        wait_until(lambda: "panko-ingest is ready" in told(port), 60, "its end")
        assert service.stop() == 0
