"""Where the files that ship with the project are, from a wheel and from a checkout alike."""

from pathlib import Path

from panko_ingest.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parent


def path(*parts: str) -> Path:
    """Return the path of a shipped file or folder, for example ``path("etc", "event_definitions.yaml")``.

    A wheel carries ``etc/`` and ``migrations/`` inside the package; a checkout (also an editable
    install) has them beside it.

    :raises ConfigError: when it is in neither place: the installation is broken.
    """
    for root in (_PACKAGE, _PACKAGE.parent):
        candidate = root.joinpath(*parts)
        if candidate.exists():
            return candidate
    raise ConfigError(
        f"{'/'.join(parts)} is missing from the installation at {_PACKAGE}: install panko-ingest again"
    )
