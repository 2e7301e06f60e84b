"""What a Galera cluster is to us: how many nodes keep what is committed, and what it refuses."""

from collections.abc import Iterator, Mapping

from sqlalchemy import Connection

from panko_ingest.findings import FAILURE, OK, WARNING, Finding

ENOUGH_NODES = 3
"""Nodes from which on what is committed survives the crash of one, whatever is on its disk."""

LARGEST_BATCH = 128 * 1024 * 1024
"""Bytes that a batch may come to: what is in flight at most by default, and indexes."""

_ROWS_OF_A_BATCH = 30_000


def is_cluster(connection: Connection) -> bool:
    """Tell whether the server is a node of a cluster."""
    found = connection.exec_driver_sql("SHOW GLOBAL VARIABLES LIKE 'wsrep_on'").first()
    return found is not None and str(found[1]).upper() == "ON"


def durable_by_nodes(connection: Connection) -> bool:
    """Tell whether the nodes together keep what is committed, so that each may write it later."""
    return is_cluster(connection) and int(_status(connection)["wsrep_cluster_size"]) >= ENOUGH_NODES


def check(connection: Connection, settings: Mapping[str, str]) -> Iterator[Finding]:
    """Tell the state of a cluster, and whether it takes our batches."""
    if not is_cluster(connection):
        return
    status = _status(connection)
    size, state = int(status["wsrep_cluster_size"]), status["wsrep_local_state_comment"]
    text = f"Galera, {size} nodes, {status['wsrep_cluster_status']}; this one is {state}"
    if status["wsrep_cluster_status"] != "Primary":
        yield Finding(FAILURE, "cluster", f"{text}: it takes no writes until a majority is together again")
    elif size < ENOUGH_NODES:
        yield Finding(WARNING, "cluster", f"{text}: with fewer than {ENOUGH_NODES} a lost node may stop it")
    else:
        yield Finding(OK, "cluster", text)
    limits = {"wsrep_max_ws_size": LARGEST_BATCH, "wsrep_max_ws_rows": _ROWS_OF_A_BATCH}
    for name, needed in limits.items():
        value = int(settings.get(name) or 0)
        if 0 < value < needed:
            yield Finding(
                WARNING, name, f"{value}: a batch may be larger: set {needed}, or a smaller batch_size"
            )
        else:
            yield Finding(OK, name, f"{value}, which batches keep to" if value else "no limit")


def _status(connection: Connection) -> dict[str, str]:
    return {row[0]: row[1] for row in connection.exec_driver_sql("SHOW GLOBAL STATUS LIKE 'wsrep_%%'")}
