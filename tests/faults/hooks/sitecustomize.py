"""Runs first in every Python process that finds this folder on its path, and spoils it as told.

``FAULT_SET`` sets constants: ``module:NAME=number`` separated by spaces. ``FAULT_KILL`` names a
function (``module:Class.method``) whose ``FAULT_KILL_CALL``-th call in a process kills that process
``before`` or ``after`` it (``FAULT_KILL_WHEN``; only calls with an argument count, or after it those with a
result), as often as there are files in ``FAULT_KILL_FOLDER``:
each kill takes one away. With ``FAULT_KILL_WHEN=raise`` the call fails instead, with ``stop`` the process
stands still. ``FAULT_KILL_STORING`` is an event type: who stores an event of it is killed.
"""

import functools
import importlib
import itertools
import os
import signal
from pathlib import Path
from typing import Any


def _set(spec: str) -> None:
    target, _, value = spec.partition("=")
    module, _, name = target.partition(":")
    setattr(importlib.import_module(module), name, float(value))


def _kill_at(spec: str, when: str, call: int, folder: Path) -> None:
    module, _, path = spec.partition(":")
    owner_name, _, name = path.partition(".")
    owner = getattr(importlib.import_module(module), owner_name)
    original = getattr(owner, name)
    calls = itertools.count(1)

    def fall() -> None:
        for ticket in sorted(folder.iterdir()):
            try:
                ticket.unlink()
            except FileNotFoundError:
                continue  # another worker took it
            if when == "raise":
                raise RuntimeError("a thread that fails for the test's sake")
            os.kill(os.getpid(), signal.SIGSTOP if when == "stop" else signal.SIGKILL)
            while True:  # the signal may need a moment
                signal.pause()

    @functools.wraps(original)
    def spoiled(self: Any, *arguments: Any, **named: Any) -> Any:
        if when == "after":
            result = original(self, *arguments, **named)
            if result and next(calls) == call:
                fall()
            return result
        if any(arguments) and next(calls) == call:
            fall()
        return original(self, *arguments, **named)

    setattr(owner, name, spoiled)


def _kill_storing(event_type: str) -> None:
    owner = importlib.import_module("panko_ingest.storage.recording.validation").Validator
    original = owner.rows

    def rows(self: Any, events: Any) -> Any:
        if any(event.event_type == event_type for event in events):
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, events)

    owner.rows = rows


for _spec in os.environ.get("FAULT_SET", "").split():
    _set(_spec)
if "FAULT_KILL" in os.environ:
    _kill_at(
        os.environ["FAULT_KILL"],
        os.environ["FAULT_KILL_WHEN"],
        int(os.environ["FAULT_KILL_CALL"]),
        Path(os.environ["FAULT_KILL_FOLDER"]),
    )
if "FAULT_KILL_STORING" in os.environ:
    _kill_storing(os.environ["FAULT_KILL_STORING"])
