"""What keeps the house habitable: small modules, no circles, and few that ask which database it is."""

import re
from collections.abc import Iterator
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "panko_ingest"

ITS_OWN = {"storage/database", "storage/recording/writers"}
"""Rooms with a module for each database."""

ASKS = re.compile(
    r"dialect\.(name|driver)|get_backend_name|is_mariadb|with_variant|ddl_if|sqlalchemy\.dialects"
    r"|loaded_dbapi|isinstance\([^)]*\b(psycopg|pymysql|sqlite3|Postgresql|Mariadb|Mysql|Sqlite)"
)
MOST_THAT_ASK = 6
WRITES = re.compile(r"\bprint\(|sys\.(stdout|stderr)\.(buffer\.)?write")
LONGEST = 400
EXEMPT = {"config.py"}


def modules() -> Iterator[tuple[str, str]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).as_posix(), path.read_text()


def test_few_modules_ask_which_database_it_is() -> None:
    asking = [
        name
        for name, text in modules()
        if not any(name.startswith(f"{room}/") for room in ITS_OWN) and ASKS.search(text)
    ]
    assert len(asking) <= MOST_THAT_ASK, asking


def test_commands_write_by_what_escapes_the_text_of_others() -> None:
    by_themselves = [
        f"{name}: {line.strip()}"
        for name, text in modules()
        if name.startswith("cli/") and name != "cli/output.py"
        for line in text.splitlines()
        if WRITES.search(line)
    ]
    assert [line for line in by_themselves if "escaped" not in line and "{said}" not in line] == []


def test_every_thread_is_started_where_it_is_known_that_the_system_may_refuse_it() -> None:
    assert [name for name, text in modules() if "threading.Thread(" in text] == ["threads.py"]


def test_no_module_is_longer_than_one_reads_at_a_sitting() -> None:
    long = {
        name: count
        for name, text in modules()
        if (count := text.count("\n")) > LONGEST and name not in EXEMPT
    }
    assert long == {}


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = grimp.build_graph("panko_ingest", "benchmarks", cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    # A package's module counts as its parts do: what imports it may import nothing that leads back to it.
    left = dict(imports)
    while free := {module for module, its in left.items() if not its & left.keys()}:
        left = {module: its for module, its in left.items() if module not in free}
    wanted = dict(left)
    while ends := {module for module in wanted if not any(module in its for its in wanted.values())}:
        wanted = {module: its for module, its in wanted.items() if module not in ends}
    assert not wanted, f"these import each other: {sorted(wanted)}"


def test_the_map_of_the_house_names_only_what_is_there() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    named = re.findall(r"`([a-z_0-9/.]+/|[a-z_0-9/]+\.py)(?::([a-z_]+))?`(?!\*)", page)
    assert len(named) > 70
    missing = [
        f"{path}:{function}"
        for path, function in named
        if not any((root / path).exists() for root in (PACKAGE, ROOT))
        or (function and not re.search(rf"\bdef {function}\(", (PACKAGE / path).read_text()))
    ]
    assert missing == []


def test_the_map_of_the_house_names_every_room() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    rooms = [path.parent.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("__init__.py")]
    assert [room for room in rooms if room != "." and f"`{room}/`" not in page] == []
