"""The options of [database] that this storage reads, as plain values."""

from dataclasses import dataclass
from typing import Any

from oslo_config import cfg

from panko_ingest import config


@dataclass(frozen=True)
class StorageSettings:
    """Sizes, and times in seconds; each is the option of the same name."""

    partition_by: str = "none"
    skip_reference_checks: bool = True
    event_time_to_live: float = -1
    max_pool_size: int = 5
    max_overflow: int = 50
    pool_timeout: float = 30
    connection_recycle_time: int = 3600
    max_retries: int = 10
    retry_interval: float = 10
    statement_timeout: float = 60
    lock_timeout: float = 20
    mysql_wsrep_sync_wait: int | None = None

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts | None) -> "StorageSettings":
        """Read them from any ConfigOpts, with our defaults for those that it does not define or set."""
        if conf is None:
            return cls()
        for option in config.DATABASE_OPTS:
            try:
                conf.register_opt(option, group="database")
            except cfg.DuplicateOptError:
                # Another library's option of that name, such as oslo.db's: its value is what was meant.
                continue
        values: dict[str, Any] = {name: conf.database[name] for name in cls.__dataclass_fields__}
        if (values["max_retries"] or 0) < 0:
            # Panko counts tries to connect by it. A batch that is in the way of a lock for ever would hold
            # up all others, and a store that is away is waited for by the caller.
            del values["max_retries"]
        return cls(**{name: value for name, value in values.items() if value is not None})
