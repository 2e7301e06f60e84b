"""The machine and what runs on it, as figures need it beside them."""

import hashlib
import os
import platform
import re
import shutil
import sqlite3
import subprocess
import tempfile
from importlib import metadata
from pathlib import Path

import psutil

import panko_ingest
from benchmarks.rig import BROKER_SETTINGS, Rig
from panko_ingest.storage.impl_sqlalchemy import Connection
from tests.services import MariaDB, PostgreSQL

LIBRARIES = ("kombu", "amqp", "SQLAlchemy", "psycopg", "PyMySQL", "orjson", "pika")

_POSTGRESQL = (
    "fsync", "synchronous_commit", "full_page_writes", "wal_level", "wal_compression", "shared_buffers",
    "max_wal_size", "checkpoint_timeout", "max_connections", "autovacuum", "jit",
)  # fmt: skip
_MARIADB = (
    "innodb_flush_log_at_trx_commit", "innodb_doublewrite", "innodb_buffer_pool_size", "innodb_log_file_size",
    "innodb_flush_method", "log_bin", "max_allowed_packet", "character_set_server",
)  # fmt: skip
_WRITERS = ("report.py", "figures.py", "aims.py")
"""They measure nothing."""

_SQLITE = ("journal_mode", "synchronous")


def machine() -> dict[str, str]:
    """Describe the hardware, the kernel and the place of the databases."""
    disk = tempfile.gettempdir()
    return {
        "cores": str(os.cpu_count()),
        "processor": _processor(),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", "unknown"),
        "file system": _file_system(disk),
    }


def _processor() -> str:
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.processor()


def _file_system(folder: str) -> str:
    mounts = [
        part for part in psutil.disk_partitions(all=True) if Path(folder).is_relative_to(part.mountpoint)
    ]
    return max(mounts, key=lambda part: len(part.mountpoint)).fstype if mounts else "unknown"


def free_disk() -> float:
    """Return the bytes free where the servers' data will be."""
    return float(shutil.disk_usage(tempfile.gettempdir()).free)


def versions(rig: Rig) -> dict[str, str]:
    """Return the versions of Python, servers and libraries."""
    found = {
        "Python": platform.python_version(),
        "RabbitMQ": rig.broker.api("GET", "overview")["rabbitmq_version"],
    }
    if isinstance(rig.server, PostgreSQL):
        found["PostgreSQL"] = str(rig.server.execute("SHOW server_version")[0][0])
    elif isinstance(rig.server, MariaDB):
        found["MariaDB"] = str(rig.server.execute("SELECT version()")[0][0])
    else:
        found["SQLite"] = sqlite3.sqlite_version
    return found | {name: metadata.version(name) for name in LIBRARIES}


def settings(rig: Rig) -> dict[str, str]:
    """Return the servers' settings that bear on the figures."""
    found = {
        "RabbitMQ queue": "quorum, one replica, messages persistent; classic where it says so",
        **{f"RabbitMQ {name}": value for name, value in BROKER_SETTINGS.items()},
        "RabbitMQ idle schedulers": "sleep (+sbwt none), so that idle time isn't counted as work",
    }
    if isinstance(rig.server, PostgreSQL):
        for name in _POSTGRESQL:
            found[f"PostgreSQL {name}"] = str(rig.server.execute(f"SHOW {name}")[0][0])
    elif isinstance(rig.server, MariaDB):
        for name in _MARIADB:
            found[f"MariaDB {name}"] = str(rig.server.execute(f"SELECT @@global.{name}")[0][0])
    else:
        found |= _sqlite_settings(rig)
    return found


def _sqlite_settings(rig: Rig) -> dict[str, str]:
    with rig.store() as url:
        connection = Connection(url)
        with connection.engine.connect() as session:
            found = {
                f"SQLite {name}": str(session.exec_driver_sql(f"PRAGMA {name}").scalar_one())
                for name in _SQLITE
            }
        connection.close()
    return found


def code() -> str:
    """Return a digest of the program, and of what measures it: figures of different ones are never mixed."""
    digest = hashlib.sha256()
    for package in (Path(panko_ingest.__file__).parent, Path(__file__).parent):
        for path in sorted(package.rglob("*.py")):
            if path.name not in _WRITERS:
                digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def revision(checkout: Path = Path(__file__).parent) -> str:
    """Return the commit, where this is a checkout."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or panko_ingest.__version__
