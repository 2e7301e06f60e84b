"""SIGHUP under load: good and bad configurations and definitions."""

import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from panko_ingest import resources
from tests.bus import Bus
from tests.faults.scene import Scene

pytestmark = [pytest.mark.rabbitmq, pytest.mark.postgresql, pytest.mark.timeout(900)]

REFUSED = "The new configuration is refused, the old one stays in force: "


def test_a_reload_takes_effect_or_is_refused_and_loses_nothing(
    tmp_path: Path, broker_url: str, postgresql_url: str
) -> None:
    scene = Scene(tmp_path, broker_url, postgresql_url, workers=2)
    daemon, conf = scene.daemon, scene.daemon.conf
    definitions = tmp_path / "event_definitions.yaml"

    def change(pattern: str, new: str) -> None:
        conf.write_text(re.sub(pattern, new, conf.read_text()))
        daemon.signal(signal.SIGHUP)

    with scene.running(), Bus(broker_url) as bus:

        def reads_with(workers: int) -> Callable[[], bool]:
            return lambda: bus.consumers() == workers

        with scene.fault("reload: from two workers to four"):
            change("workers = 2", "workers = 4")
            scene.wait_for(reads_with(4), 40, "four consumers")
        with scene.fault("reload: back to one worker"):
            change("workers = 4", "workers = 1")
            scene.wait_for(reads_with(1), 40, "one consumer")
        with scene.fault("reload: a bad value"):
            change("workers = 1", "workers = many")
            daemon.wait_for_log(REFUSED + r".*panko-ingest.conf:\d+ \[notification\] workers: is no number")
        with scene.fault("reload: bad definitions"):
            definitions.write_text("- event_type: x\n  traits: [no, dict]\n")
            change("workers = many", "workers = 1")
            daemon.wait_for_log(REFUSED + r"(.|\n)*event_definitions.yaml")
            scene.wait_for(reads_with(1), 10, "still one consumer")
        with scene.fault("reload: good definitions, three workers"):
            definitions.write_bytes(Path(resources.path("etc", "event_definitions.yaml")).read_bytes())
            change("workers = 1", "workers = 3")
            scene.wait_for(reads_with(3), 40, "three consumers")
