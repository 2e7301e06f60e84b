"""Print the lowest versions that pyproject.toml accepts, as a constraints file for pip."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

_GROUPS = ("test",)


def floors(pyproject: Path) -> dict[str, str]:
    """Return the lowest version by the name of each distribution that the package or its tests need."""
    described = tomllib.loads(pyproject.read_text())
    project = described["project"]
    wanted = [
        *project["dependencies"],
        *(one for extra in project["optional-dependencies"].values() for one in extra),
        *(one for group in _GROUPS for one in described["dependency-groups"][group]),
    ]
    return {
        requirement.name: next(part.version for part in requirement.specifier if part.operator == ">=")
        for requirement in map(Requirement, wanted)
    }


if __name__ == "__main__":
    for name, version in floors(Path("pyproject.toml")).items():
        print(f"{name}=={version}")  # noqa: T201 - what it is for
