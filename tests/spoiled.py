"""Has a test run the program in an environment that spoils it, by ``tests/faults/hooks``."""

import os
from pathlib import Path

HOOKS = Path(__file__).parent / "faults" / "hooks"


def spoiled(*constants: str, folders: tuple[Path, ...] = (), **settings: str) -> dict[str, str]:
    """Return the variables of such an environment.

    :param constants: what is set otherwise, as ``workers.supervisor:HANG_LIMIT=7`` of ``panko_ingest``.
    :param folders: others that Python finds modules in.
    :param settings: what else the hooks are told.
    """
    path = [str(HOOKS), *map(str, folders), os.environ.get("PYTHONPATH", "")]
    if constants:
        settings["FAULT_SET"] = " ".join(f"panko_ingest.{constant}" for constant in constants)
    return {"PYTHONPATH": os.pathsep.join(filter(None, path)), **settings}
