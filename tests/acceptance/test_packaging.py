"""The wheel and the sdist, and what they are once installed."""

import hashlib
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.acceptance.installation import CHECKOUT, Installation, build
from tests.floors import floors

SHIPPED = ["etc/samples.jsonl", "migrations/alembic.ini", "migrations/env.py"]


def names(*folders: str) -> set[str]:
    return {
        path.relative_to(CHECKOUT).as_posix()
        for folder in folders
        for path in (CHECKOUT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_the_package_with_migrations_and_samples_and_nothing_else(
    distributions: tuple[Path, Path],
) -> None:
    with zipfile.ZipFile(distributions[0]) as wheel:
        held = set(wheel.namelist())
    assert {name.split("/")[0].split("-")[0] for name in held} == {"panko_ingest"}
    expected = names("panko_ingest") | {f"panko_ingest/{name}" for name in names("etc", "migrations")}
    assert {name for name in held if name.startswith("panko_ingest/")} == expected
    assert {name.rsplit("/", 1)[1] for name in held if "/share/panko-ingest/systemd/" in name} == {
        "panko-ingest.service",
        "panko-ingest.sysusers.conf",
        "panko-ingest.tmpfiles.conf",
    }


def test_the_sdist_holds_what_it_takes_to_build_and_test(distributions: tuple[Path, Path]) -> None:
    with tarfile.open(distributions[1]) as sdist:
        held = {name.partition("/")[2] for name in sdist.getnames()}
    wanted = {"pyproject.toml", "LICENSE", "README.md", "Makefile", "constraints.txt", "tests/conftest.py"}
    assert wanted <= held


def test_building_twice_gives_the_same_bytes(distributions: tuple[Path, Path], tmp_path: Path) -> None:
    def digests(paths: tuple[Path, Path]) -> list[str]:
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]

    assert digests(build(tmp_path)) == digests(distributions)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_files_are_found_away_from_the_checkout(
    installed: Installation, tmp_path: Path, name: str
) -> None:
    code = f"from panko_ingest import resources; print(resources.path(*{name.split('/')!r}))"
    found = subprocess.run(
        [installed.python, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert Path(found.stdout.strip()).is_relative_to(installed.directory)


def test_every_entry_point_can_be_loaded(installed: Installation, tmp_path: Path) -> None:
    code = (
        "from importlib.metadata import distribution\n"
        "for entry in distribution('panko-ingest').entry_points: entry.load(); print(entry.name)"
    )
    done = subprocess.run(
        [installed.python, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert {"panko-ingest", "panko_ingest", "sqlite", "postgresql", "mysql", "split"} <= set(
        done.stdout.split()
    )


@pytest.mark.parametrize(
    ("url", "extra"),
    [
        ("postgresql://nobody@127.0.0.1:1/panko", "postgresql"),
        ("mysql://nobody@127.0.0.1:1/panko", "mysql"),
    ],
)
def test_a_missing_driver_is_refused_by_the_name_of_its_extra(
    tmp_path: Path, distributions: tuple[Path, Path], url: str, extra: str
) -> None:
    bare = Installation(tmp_path / "bare", distributions[0], without=["psycopg", "psycopg_binary", "pymysql"])
    configuration = tmp_path / "panko-ingest.conf"
    configuration.write_text(f"[database]\nconnection = {url}\n")
    done = bare.run("panko-ingest", "--config-file", configuration, "db", "sync")
    assert done.returncode == 2, done.stderr
    assert f"panko-ingest[{extra}]" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.rabbitmq
def test_refusals_of_the_broker_are_told_with_the_oldest_client_libraries_that_are_accepted(
    distributions: tuple[Path, Path], tmp_path: Path, broker_url: str
) -> None:
    oldest = [f"{name}=={floors(CHECKOUT / 'pyproject.toml')[name]}" for name in ("amqp", "kombu")]
    installed = Installation(tmp_path / "installed", distributions[0], {"amqp", "kombu"}, oldest)
    configuration = tmp_path / "panko-ingest.conf"
    configuration.write_text(
        f"[DEFAULT]\ntransport_url = {broker_url}\n"
        f"[database]\nconnection = sqlite:///{tmp_path}/events.sqlite\n"
        "[oslo_messaging_notifications]\ntopics = notifications,absent\n"
        "[notification]\ndeclare = never\n"
    )

    def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
        return installed.run("panko-ingest", "--config-file", configuration, *words)

    # It asks for an exchange that is absent.
    published = run("publish", "--create", CHECKOUT / "etc" / "samples.jsonl")
    assert published.returncode == 0, published.stderr
    assert run("db", "sync").returncode == 0
    drained = run("drain")
    assert "8 events stored" in drained.stdout, drained.stderr
    assert "absent.info" in drained.stderr
    assert "Traceback" not in drained.stderr
