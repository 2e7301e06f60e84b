"""What /healthz and /readyz say: made by the monitor, and read again by the commands that ask it."""

from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any, Self, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Check:
    """Whether something is well, and in words what it does, or what is wrong with it."""

    ok: bool
    text: str


@dataclass(frozen=True)
class Verdict:
    """Yes or no, by subject; what /healthz says."""

    ok: bool
    checks: dict[str, Check]

    @classmethod
    def of(cls, found: Mapping[str, tuple[bool, str]]) -> "Verdict":
        """Return the verdict on subjects of which each is well or not, in words."""
        checks = {name: Check(ok, text) for name, (ok, text) in found.items()}
        return Verdict(all(check.ok for check in checks.values()), checks)


@dataclass(frozen=True)
class SinceStart:
    """How many messages came since the daemon started, and what became of them."""

    received: int
    recorded: int
    duplicates: int
    dropped: int
    dead_letters: dict[str, int]
    """By stage."""
    workers_lost: int


@dataclass(frozen=True)
class Figures:
    """What the daemon did and does."""

    readers: int
    readers_consuming: int
    consuming: list[int]
    """Consumers of the daemon on each queue, by bus, in the order of the configuration."""
    absent_queues: list[str]
    lag_seconds: float
    in_hand: list[int]
    """Messages, by bus."""
    unwritten_seconds: float
    per_second: dict[str, float]
    since_start: SinceStart
    last_expiry: str | None
    """When the last round ended well, in ISO 8601."""
    expiry_backlog: int


@dataclass(frozen=True)
class Readiness(Verdict):
    """What /readyz says."""

    figures: Figures

    @classmethod
    def from_document(cls, found: Any) -> Self:
        """Return what a JSON document of this form says; what it has beside that is left out.

        :raises ValueError: it has another form, so that no daemon of ours can have said it.
        """
        read: Self = _read(cls, found)
        return read


def _read(kind: Any, found: Any) -> Any:
    """Return plain data as what a type says that it is."""
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        if isinstance(found, dict) and found.keys() >= hints.keys():
            return kind(**{name: _read(hint, found[name]) for name, hint in hints.items()})  # type: ignore[operator]
    elif get_origin(kind) is list:
        if isinstance(found, list):
            return [_read(get_args(kind)[0], one) for one in found]
    elif get_origin(kind) is dict:
        if isinstance(found, dict):
            return {name: _read(get_args(kind)[1], one) for name, one in found.items()}
    elif isinstance(found, int | float if kind is float else kind):
        return found
    raise ValueError(f"{found!r:.100} is no {kind}")
