"""Runs where Ceilometer is installed: cases on standard input, what it makes of each on standard output.

It imports nothing of this project. An argument names the definitions file.
"""

import json
import logging
import sys

from ceilometer import service  # type: ignore[import-not-found]
from ceilometer.event import converter  # type: ignore[import-not-found]
from stevedore import extension


def main() -> None:
    """Convert every line."""
    results, sys.stdout = sys.stdout, sys.stderr  # the JSONPath library of Ceilometer prints
    conf = service.prepare_service(["differential"], config_files=[])
    logging.disable(logging.CRITICAL)
    conf.set_override("definitions_cfg_file", sys.argv[1], group="event")
    upstream = converter.setup_events(
        conf, extension.ExtensionManager(namespace="ceilometer.event.trait_plugin")
    )
    for line in sys.stdin:
        case = json.loads(line)
        try:
            event = upstream.to_event(case["priority"], case["notification"])
            result = {"event": event and event.serialize()}
        except Exception as error:  # noqa: BLE001 - whatever it raises, upstream loses the event
            result = {"error": f"{type(error).__name__}: {error}"}
        results.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
