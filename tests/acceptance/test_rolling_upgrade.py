"""Two releases at work on one bus and one database, with the schema changed beneath both.

The next release is made here: this tree with one more revision, which adds a column and an index.
"""

import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.acceptance.installation import CHECKOUT, Installation, build
from tests.bus import Bus
from tests.daemon import Daemon, configuration
from tests.ledger import Ledger, load
from tests.waiting import wait_until

pytestmark = [pytest.mark.rabbitmq, pytest.mark.long]

NEXT = "next"
REVISION = f'''
"""One more column, and an index on it."""

import sqlalchemy as sa
from alembic import op

revision = "{NEXT}"
down_revision = "HEAD"


def upgrade():
    op.add_column("event", sa.Column("note", sa.String(20), nullable=True))
    op.create_index("ix_event_note", "event", ["note"])


def downgrade():
    op.drop_index("ix_event_note", "event")
    op.drop_column("event", "note")
'''
LIST = 250


class Publisher(threading.Thread):
    """Publishes list after list, each when the one before has been stored, until it is told to end."""

    def __init__(self, url: str, bodies: Sequence[bytes], ledger: Ledger) -> None:
        super().__init__(daemon=True)
        self._url, self._bodies, self._ledger = url, bodies, ledger
        self._done = threading.Event()
        self.published = 0

    def run(self) -> None:
        with Bus(self._url) as bus:
            while not self._done.is_set() and self.published < len(self._bodies):
                self.published += bus.publish(self._bodies[self.published : self.published + LIST])
                while self._ledger.events() < self.published - LIST and not self._done.wait(0.02):
                    pass

    def finish(self) -> int:
        """End, and return how many bodies were published."""
        self._done.set()
        self.join(60)
        return self.published


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Installation, Installation]:
    """This release and the next one, each built and installed for itself."""
    tree = tmp_path_factory.mktemp("tree")
    files = subprocess.run(
        ["git", "ls-files", "-z"], cwd=CHECKOUT, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, files.split("\0")):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKOUT / name, tree / name)
    head = max((tree / "migrations/versions").glob("[0-9]*.py")).name.partition("_")[0]
    (tree / "migrations/versions/9999_next.py").write_text(REVISION.replace("HEAD", head))
    installations = [
        Installation(tmp_path_factory.mktemp(name), build(tmp_path_factory.mktemp("dist"), source)[0])
        for name, source in (("this", CHECKOUT), ("next", tree))
    ]
    return installations[0], installations[1]


@pytest.fixture
def ledger(request: pytest.FixtureRequest) -> Iterator[Ledger]:
    """An empty database at the revision of this release."""
    found = Ledger(request.getfixturevalue(request.param))
    yield found
    found.close()


def daemon(release: Installation, folder: Path, broker_url: str, ledger: Ledger) -> Daemon:
    folder.mkdir()
    path = configuration(folder, broker_url, ledger.url, "[notification]\nworkers = 1\n")
    return Daemon(path, command=[release.command("panko-ingest")])


def more(ledger: Ledger, count: int = 4 * LIST) -> None:
    """Wait until so many more events are stored."""
    wanted = ledger.events() + count
    wait_until(lambda: ledger.events() >= wanted, 60, "more events")


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "ledger",
    [
        pytest.param("postgresql_url", marks=pytest.mark.postgresql),
        pytest.param("mariadb_url", marks=pytest.mark.mariadb),
    ],
    indirect=True,
)
def test_two_releases_share_a_database_while_its_schema_is_upgraded(
    releases: tuple[Installation, Installation], tmp_path: Path, broker_url: str, ledger: Ledger
) -> None:
    bodies = load(60_000)
    this, following = releases
    old, new = (
        daemon(release, tmp_path / name, broker_url, ledger)
        for release, name in ((this, "old"), (following, "new"))
    )
    with Bus(broker_url) as bus:
        bus.declare()
    publisher = Publisher(broker_url, bodies, ledger)
    with old.running(), new.running():
        old.wait_until_ready()
        new.wait_until_ready()  # on the schema of the release before it
        publisher.start()
        more(ledger)

        synced = following.run("panko-ingest", "--config-file", new.conf, "db", "sync")
        assert synced.returncode == 0, synced.stderr
        more(ledger)

        # The old one is on a schema that it does not know, and goes on alone.
        assert new.stop() == 0
        more(ledger)
        new.start()
        new.wait_until_ready()

        # Started there it waits, alive and taking nothing, and says why.
        assert old.stop() == 0
        old.start()
        old.wait_for_log(f"{NEXT}, which this release does not know")
        more(ledger)
        assert old.stop() == 0

        published = publisher.finish()
        wait_until(lambda: ledger.events() >= published, 60, "all events")
        assert new.stop() == 0
    ledger.assert_holds(bodies[:published])
    assert ledger.dead_letters() == 0
