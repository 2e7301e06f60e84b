"""Asking the monitor of a daemon on this host."""

import http.client
import json
from typing import Any

from oslo_config import cfg

_PATIENCE = 3.0
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
    except (OSError, http.client.HTTPException, ValueError, RecursionError):
        return None
    finally:
        connection.close()
    match found:
        case {
            "ok": bool(),
            "checks": dict(),
            "figures": {
                "readers": int(),
                "readers_consuming": int(),
                "consuming": list(),
                "per_second": dict(),
                "since_start": {"dead_letters": dict()},
            },
        }:
            return dict(found)
    return None  # something else answers there
