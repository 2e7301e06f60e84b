"""Running worlds one after the other, and telling what happened in one."""

import logging
import sys

from tests.simulation.scenario import Scenario


def failures(seeds: range) -> list[tuple[int, list[str], str]]:
    """Run the worlds of some seeds; return of each that broke the seed, its faults and the reason."""
    found = []
    for seed in seeds:
        scenario = Scenario(seed)
        try:
            scenario.run()
        except Exception as error:  # noqa: BLE001 - whatever breaks is what we look for
            found.append((seed, scenario.kinds, f"{type(error).__name__}: {error}"))
    return found


def show(seed: int) -> None:
    """Run one world, and tell what happened in it, with what the daemon logged."""
    scenario = Scenario(seed)

    class Trace(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            scenario.world.tell(f"{record.levelname} {record.getMessage()}")

    logging.basicConfig(level=logging.INFO, handlers=[Trace()])
    try:
        scenario.run()
        outcome = "all that must hold did"
    except Exception as error:  # noqa: BLE001 - as above
        outcome = f"{type(error).__name__}: {error}"
    faults = ", ".join(scenario.kinds) or "none"
    sys.stdout.write("\n".join([f"faults: {faults}", *scenario.world.trace, outcome, ""]))
