"""Asking the monitor of a daemon on this host."""

import http.client
import json
from typing import Any

from oslo_config import cfg

_PATIENCE = 3.0
_LARGEST = 1024 * 1024
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where to ask one that listens there


def readiness(conf: cfg.ConfigOpts) -> dict[str, Any] | None:
    """Return what /readyz says; None where no daemon of ours serves it."""
    host, port = conf.monitor.host, conf.monitor.port
    if not port:
        return None
    connection = http.client.HTTPConnection(_EVERYWHERE.get(host, host), port, timeout=_PATIENCE)
    try:
        connection.request("GET", "/readyz")
        found = json.loads(connection.getresponse().read(_LARGEST))
    except (OSError, http.client.HTTPException, ValueError, RecursionError):
        return None
    finally:
        connection.close()
    return found if _is_ours(found) else None


def consuming(daemon: dict[str, Any] | None, buses: int) -> list[int | None]:
    """Return how many consumers of the daemon each queue of each configured bus has; None: not known.

    :param daemon: what /readyz says; None where no daemon says it, which may run all the same: its monitor is
        off, starts anew, or is on another host.
    :param buses: how many are configured. A daemon that reads another number of them has not read that yet.
    """
    found: list[int | None] = daemon["figures"]["consuming"] if daemon else []
    return found if len(found) == buses else [None] * buses


def _is_ours(found: Any) -> bool:
    """Tell whether a daemon of ours can have said that: the port is anybody's on the host while none runs."""
    match found:
        case {
            "ok": bool(),
            "checks": dict(checks),
            "figures": {
                "readers": int(),
                "readers_consuming": int(),
                "consuming": [*consuming],
                "per_second": dict(rates),
                "since_start": {
                    "received": int(),
                    "recorded": int(),
                    "duplicates": int(),
                    "dropped": int(),
                    "workers_lost": int(),
                    "dead_letters": dict(letters),
                },
                "last_expiry": None | str(),
                "expiry_backlog": int(),
            },
        }:
            numbers = [*consuming, *rates.values(), *letters.values()]
            absent = found["figures"].get("absent_queues", [])  # which an earlier release does not tell
            return (
                all(isinstance(number, int | float) for number in numbers)
                and isinstance(absent, list)
                and all(isinstance(queue, str) for queue in absent)
                and all(
                    isinstance(check, dict) and {"ok", "text"} <= check.keys() for check in checks.values()
                )
            )
    return False
