"""Trait plugins: code that makes a trait's value of what its fields hold.

A package of the operator's own offers more of them through the entry point group
``panko_ingest.trait_plugin``.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from panko_ingest import timestamps

Matches = Sequence[tuple[str, Any]]
"""``(path, value)`` of each field that matched and is not null, in the order of the fields."""


class TraitPlugin(ABC):
    """What a plugin must be; ``parameters`` of the definition are its constructor's keywords.

    Any class with a ``trait_values`` of this meaning will do, also one written for Ceilometer.
    """

    @abstractmethod
    def trait_values(self, match_list: Matches) -> Sequence[Any]:
        """Return the values found; the first that is not None becomes the trait's."""


class SplitPlugin(TraitPlugin):
    """One part of a text: ``{separator: ".", segment: 0, max_split: null}``."""

    def __init__(self, separator: str = ".", segment: int = 0, max_split: int | None = None) -> None:
        self._separator = separator
        self._segment = segment
        self._max_split = -1 if max_split is None else max_split

    def trait_values(self, match_list: Matches) -> list[str | None]:
        """Return the part of each value, None where it has too few."""
        return [self._part(str(value)) for _, value in match_list]

    def _part(self, text: str) -> str | None:
        parts = text.split(self._separator, self._max_split)
        try:
            return parts[self._segment]
        except IndexError:
            return None


class BitfieldPlugin(TraitPlugin):
    """Bits set by fields: ``{initial_bitfield: 0, flags: [{path: payload.x, bit: 0, value: y}]}``.

    A flag without a value is set as soon as its field is there.
    """

    def __init__(self, initial_bitfield: int = 0, flags: Sequence[Mapping[str, Any]] | None = None) -> None:
        self._initial = initial_bitfield
        self._flags = [
            (flag["path"], 1 << int(flag["bit"]), "value" in flag, flag.get("value")) for flag in flags or ()
        ]

    def trait_values(self, match_list: Matches) -> list[int]:
        """Return the bitfield."""
        found = dict(match_list)
        bitfield = self._initial
        for path, bit, has_value, value in self._flags:
            if path in found and (not has_value or found[path] == value):
                bitfield |= bit
        return [bitfield]


class TimedeltaPlugin(TraitPlugin):
    """Seconds between the times in two fields, never negative; nothing where one is missing."""

    def trait_values(self, match_list: Matches) -> list[float | None]:
        """Return the seconds between them.

        :raises ValueError: a field holds no time.
        """
        if len(match_list) != 2:  # noqa: PLR2004
            return [None]
        start, end = (timestamps.parse(value) for _, value in match_list)
        return [abs((end - start).total_seconds())]


class MapPlugin(TraitPlugin):
    """Another value for each: ``{values: {from: to}, default: null, case_sensitive: true}``."""

    def __init__(
        self, values: Mapping[Any, Any] | None = None, default: Any = None, case_sensitive: bool = True
    ) -> None:
        if not isinstance(values, Mapping) or not values:
            raise ValueError("parameter values: write an object of at least one value")
        self._case_sensitive = case_sensitive
        self._values = {self._fold(key): value for key, value in values.items()}
        self._default = default

    def trait_values(self, match_list: Matches) -> list[Any]:
        """Return what each value is mapped to."""
        return [self._values.get(self._fold(value), self._default) for _, value in match_list]

    def _fold(self, key: Any) -> Any:
        return key.casefold() if isinstance(key, str) and not self._case_sensitive else key


SHIPPED = (SplitPlugin, BitfieldPlugin, TimedeltaPlugin, MapPlugin)
"""Those that Ceilometer has, too, where they take any parameter and leave what they don't know."""
