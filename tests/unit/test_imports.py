"""`serve` imports what it runs, and nothing that only other commands or developers need."""

import subprocess
import sys

NOT_FOR_THE_DAEMON = {
    "aiohttp",
    "alembic",
    "hypothesis",
    "matplotlib",
    "numpy",
    "oslo_messaging",
    "pytest",
    "rich",
}
COMMANDS = {"aliases", "main", "serve"}


def test_serve_imports_nothing_that_only_other_commands_need() -> None:
    program = """
import sys
from panko_ingest.cli.main import main
from panko_ingest.storage import impl_sqlalchemy
try:
    main(["serve", "--help"])
finally:
    print(*sys.modules, file=sys.stderr)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    modules = set(run.stderr.split())
    assert "panko_ingest.workers.ingester" in modules
    assert not {module.partition(".")[0] for module in modules} & NOT_FOR_THE_DAEMON
    commands = {
        module.removeprefix("panko_ingest.cli.") for module in modules if "panko_ingest.cli." in module
    }
    assert commands <= COMMANDS
