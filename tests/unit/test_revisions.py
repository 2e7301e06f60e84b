"""The revisions of the schema that this release names are those that alembic finds."""

from alembic.config import Config
from alembic.script import ScriptDirectory

from panko_ingest import resources
from panko_ingest.storage.schema import revisions


def test_the_revisions_that_are_named_are_those_of_the_migrations() -> None:
    scripts = ScriptDirectory.from_config(Config(str(resources.path("migrations", "alembic.ini"))))
    assert tuple(one.revision for one in scripts.walk_revisions())[::-1] == revisions.RELEASED
    newest = scripts.get_revision("head")
    assert revisions.usable_revisions() == (newest.revision, newest.down_revision)
