"""One trait of a definition: where its value is found in a notification, and of what type it is."""

from collections.abc import Sequence
from typing import Any

from jsonpath_ng import Child, Fields, JSONPath

from panko_ingest.converter import values
from panko_ingest.converter.paths import parse_path
from panko_ingest.converter.plugins import TraitPlugin


class TraitDefinition:
    """How one trait is made.

    :param name: the trait's.
    :param dtype: one of ``Trait``'s type numbers.
    :param fields: JSONPaths; the first value that is not null wins.
    :param plugin: makes values of all that the fields match; the first that is not null wins.
    :param constant: the value, whatever the notification; fields and plugin mean nothing then.
    :raises Exception: a field is no JSONPath.
    """

    def __init__(
        self,
        name: str,
        dtype: int,
        fields: Sequence[str],
        plugin: TraitPlugin | None = None,
        constant: int | None = None,
    ) -> None:
        self.name = name
        self.dtype = dtype
        self.fields = tuple(fields)
        self.plugin = plugin
        self.constant = constant
        self.paths = tuple(parse_path(field) for field in fields)

    def evaluate(self, notification: dict[str, Any]) -> Any:
        """Return the value that jsonpath-ng (and the plugin) find, None for none.

        :raises Exception: an expression or the plugin can't cope with what the notification holds.
        """
        if self.constant is not None:
            return self.constant
        if self.plugin is None:
            return next((value for path in self.paths for value in found(path, notification)), None)
        matches = [
            (_text(match.full_path), match.value)
            for path in self.paths
            for match in path.find(notification)
            if match.value is not None
        ]
        return next((value for value in self.plugin.trait_values(matches) if value is not None), None)

    def evaluate_safely(self, notification: dict[str, Any], faults: values.Faults) -> Any:
        """Return what ``evaluate`` does; None and a fault where that raises."""
        try:
            return self.evaluate(notification)
        except Exception as error:  # noqa: BLE001 - expressions and plugins raise whatever they like
            what = "the fields" if self.plugin is None else f"plugin {type(self.plugin).__name__}"
            faults.append((self.name, f"dropped: {what} failed with {type(error).__name__}"))
            return None


def _text(path: JSONPath) -> str:
    # Plugins know a path by its plain text; jsonpath-ng puts parentheses around it (1.8), and quotes in it.
    if isinstance(path, Child):
        return f"{_text(path.left)}.{_text(path.right)}"
    return ",".join(path.fields) if isinstance(path, Fields) else str(path)


def found(path: JSONPath, notification: dict[str, Any]) -> list[Any]:
    """Return the values that are not null at a path, in the document's order."""
    return [match.value for match in path.find(notification) if match.value is not None]
