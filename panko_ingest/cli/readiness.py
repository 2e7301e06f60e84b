"""Asking the monitor of a daemon on this host."""

import http.client
import json

from oslo_config import cfg

from panko_ingest.workers.readiness import Readiness

_PATIENCE = 3.0
_LARGEST = 1024 * 1024
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where to ask one that listens there


def readiness(conf: cfg.ConfigOpts) -> Readiness | None:
    """Return what /readyz says; None where no daemon of ours serves it."""
    host, port = conf.monitor.host, conf.monitor.port
    if not port:
        return None
    connection = http.client.HTTPConnection(_EVERYWHERE.get(host, host), port, timeout=_PATIENCE)
    try:
        connection.request("GET", "/readyz")
        # The port is anybody's on the host while no daemon runs.
        return Readiness.from_document(json.loads(connection.getresponse().read(_LARGEST)))
    except (OSError, http.client.HTTPException, ValueError, RecursionError):
        return None
    finally:
        connection.close()


def consuming(daemon: Readiness | None, buses: int) -> list[int | None]:
    """Return how many consumers of the daemon each queue of each configured bus has; None: not known.

    :param daemon: what /readyz says; None where no daemon says it, which may run all the same: its monitor is
        off, starts anew, or is on another host.
    :param buses: how many are configured. A daemon that reads another number of them has not read that yet.
    """
    found = daemon.figures.consuming if daemon else []
    return [*found] if len(found) == buses else [None] * buses
