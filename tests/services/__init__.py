"""Private servers for tests: made in a folder of their own, on free ports of the loopback interface.

They never touch a server that the machine runs already, and die with the process that started them.
"""

from tests.services.galera import Galera, GaleraNode
from tests.services.haproxy import HAProxy
from tests.services.mariadb import MariaDB
from tests.services.pgbouncer import PgBouncer
from tests.services.postgresql import PostgreSQL
from tests.services.rabbitmq import RabbitMQ, broker_cluster
from tests.services.server import NotInstalledError, Server

__all__ = [
    "Galera",
    "GaleraNode",
    "HAProxy",
    "MariaDB",
    "NotInstalledError",
    "PgBouncer",
    "PostgreSQL",
    "RabbitMQ",
    "Server",
    "broker_cluster",
]
