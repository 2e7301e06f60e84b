"""The project as an operator has it: built, and installed away from the checkout."""

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Collection, Sequence
from pathlib import Path

from tests.services import NotInstalledError

CHECKOUT = Path(__file__).parents[2]


def build(destination: Path, source: Path = CHECKOUT) -> tuple[Path, Path]:
    """Build the sdist, and the wheel from the sdist; return both paths, the wheel first."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(destination), str(source)]
    done = subprocess.run(
        command,
        env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = destination.glob("*.whl")
    (sdist,) = destination.glob("*.tar.gz")
    return wheel, sdist


class Installation:
    """A virtual environment that has the wheel, and the dependencies of the one that runs the tests.

    :param directory: where to make it.
    :param without: top-level modules of the dependencies to leave out, such as a database driver.
    :param instead: requirements to install in their place.
    :raises NotInstalledError: no package index that can be reached has those.
    """

    def __init__(
        self, directory: Path, wheel: Path, without: Collection[str] = (), instead: Sequence[str] = ()
    ) -> None:
        self.directory = directory
        venv.create(directory, with_pip=False)
        self.python = directory / "bin" / "python"
        self._link_dependencies(without)
        pip = [sys.executable, "-m", "pip", "--python", str(self.python), "--quiet", "install"]
        subprocess.run([*pip, "--no-index", "--no-deps", str(wheel)], check=True)
        if instead and subprocess.run([*pip, "--no-deps", *instead], check=False).returncode:
            raise NotInstalledError(f"pip finds no {' or '.join(instead)}: it needs a package index")

    def _link_dependencies(self, without: Collection[str]) -> None:
        dependencies = self.directory / "dependencies"
        dependencies.mkdir()
        for entry in Path(sysconfig.get_path("purelib")).iterdir():
            name = entry.name.partition(".")[0].partition("-")[0].lower()
            if name not in {"panko_ingest", "_panko_ingest", *without}:
                (dependencies / entry.name).symlink_to(entry)
        (site_packages,) = self.directory.glob("lib/python3.*/site-packages")
        (site_packages / "dependencies.pth").write_text(f"{dependencies}\n")

    def command(self, name: str) -> Path:
        """Return the path of an installed command."""
        return self.directory / "bin" / name

    def run(
        self, *words: str | Path, cwd: Path | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run an installed command to its end, in its own folder by default; a failure is not raised."""
        return subprocess.run(
            [self.command(str(words[0])), *words[1:]],
            cwd=cwd or self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
