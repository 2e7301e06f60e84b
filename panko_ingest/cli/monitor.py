"""Asking the monitor of a daemon on this host."""

import http.client
import json
from typing import Any

from oslo_config import cfg

_PATIENCE = 10.0
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where to ask one that listens there


def readiness(conf: cfg.ConfigOpts) -> dict[str, Any] | None:
    """Return what /readyz says; None where no daemon of ours serves it."""
    host, port = conf.monitor.host, conf.monitor.port
    if not port:
        return None
    connection = http.client.HTTPConnection(_EVERYWHERE.get(host, host), port, timeout=_PATIENCE)
    try:
        connection.request("GET", "/readyz")
        found = json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    return found if isinstance(found, dict) and "figures" in found else None


def figures(conf: cfg.ConfigOpts) -> dict[str, Any] | None:
    """Return what a running daemon counts; None where none can be asked."""
    found = readiness(conf)
    return found["figures"] if found else None
