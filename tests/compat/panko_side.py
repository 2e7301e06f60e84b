"""The part that runs in an environment with the published panko package (Python 3.8), not in ours.

python panko_side.py record URL COUNT     make the tables, as panko-dbsync does, and record events
python panko_side.py read URL             print all events as JSON
"""

import datetime
import json
import sys
from typing import Any

from oslo_config import cfg
from oslo_db import options  # type: ignore[import-not-found,unused-ignore]
from panko import storage  # type: ignore[import-not-found,unused-ignore]
from panko.storage import models  # type: ignore[import-not-found,unused-ignore]
from panko.storage.impl_sqlalchemy import Connection  # type: ignore[import-not-found,unused-ignore]

START = datetime.datetime(2020, 2, 29, 23, 59, 58, 123456)


def connect(url: str) -> Any:
    conf = cfg.ConfigOpts()
    options.set_defaults(conf)
    conf.register_opts(storage.OPTS, "database")
    conf([], project="panko")
    return Connection(url, conf)


def record(url: str, count: str) -> None:
    connection = connect(url)
    connection.upgrade()
    trait = models.Trait
    for number in range(int(count)):
        moment = START + datetime.timedelta(seconds=number // 3)
        traits = [
            trait("project_id", trait.TEXT_TYPE, f"p{number % 5}"),
            trait("untyped", trait.NONE_TYPE, "caf\xe9"),
            trait("memory_mb", trait.INT_TYPE, number * 1000),
            trait("load", trait.FLOAT_TYPE, number / 7.0),
            trait("launched_at", trait.DATETIME_TYPE, moment),
        ]
        raw = {"payload": {"n": number, "text": "\u2603"}} if number % 2 else {}
        event = models.Event(f"panko-{number:04}", f"type.{number % 4}", moment, traits, raw)
        connection.record_events([event])


def read(url: str) -> None:
    events = connect(url).get_events(storage.EventFilter())
    print(json.dumps([event.serialize() for event in events], default=str))  # noqa: T201


if __name__ == "__main__":
    if sys.argv[1] == "record":
        record(*sys.argv[2:])
    else:
        read(*sys.argv[2:])
