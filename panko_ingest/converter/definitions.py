"""Event definitions: Ceilometer's YAML file, read, checked and told apart by event type."""

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import yaml

from panko_ingest.converter import values
from panko_ingest.converter.compiler import compile_traits
from panko_ingest.converter.globs import TypePatterns
from panko_ingest.converter.paths import parse_path
from panko_ingest.converter.plugins import SHIPPED
from panko_ingest.converter.traits import TraitDefinition
from panko_ingest.errors import DefinitionError
from panko_ingest.storage.models import DEFINITION_TYPES, MAX_NAME, Trait

LOG = logging.getLogger(__name__)

PLUGINS = "panko_ingest.trait_plugin"

_DEFINITION_KEYS = ("event_type", "traits")
_TRAIT_KEYS = ("type", "fields", "plugin")
_PLUGIN_KEYS = ("name", "parameters")

DEFAULT_TRAITS = {
    "service": ["publisher_id"],
    "request_id": ["ctxt.request_id"],
    "project_id": ["payload.tenant_id", "ctxt.project_id"],
    "user_id": ["payload.user_id", "ctxt.user_id"],
    "tenant_id": ["payload.tenant_id", "ctxt.project_id"],
}
"""The text traits that every event has unless its definition says otherwise, and their fields."""


class EventDefinition:
    """The traits of the events of some types.

    :param patterns: globs of event types, and after a ``!`` those to leave out.
    :param traits: by name, the default ones included.
    :param line: where it stands in the definitions file, 0 for the catch-all.
    """

    def __init__(self, patterns: list[str], traits: Mapping[str, TraitDefinition], line: int = 0) -> None:
        self.patterns = patterns
        self.traits = dict(traits)
        self.line = line
        self.types = TypePatterns(patterns)

    def __repr__(self) -> str:
        return f"EventDefinition({', '.join(self.patterns)})"

    @cached_property
    def to_traits(self) -> Callable[[dict[str, Any], values.Faults], list[Trait]]:
        """The compiled form: ``(notification, faults) -> traits``."""
        return compile_traits(self.traits.values())


def default_traits() -> dict[str, TraitDefinition]:
    """Return the definitions of the default traits."""
    return {name: TraitDefinition(name, Trait.TEXT_TYPE, fields) for name, fields in DEFAULT_TRAITS.items()}


def _log(warning: str) -> None:
    LOG.warning("%s", warning)


def load(path: str | Path, warn: Callable[[str], None] = _log) -> list[EventDefinition]:
    """Return the definitions of a file, in its order.

    :param warn: is told what in it means nothing, or something else than it seems to; the log by default.
    :raises DefinitionError: the file can't be read, or is wrong; the text lists every fault.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DefinitionError(f"[event] definitions_cfg_file: {path} can't be read: {error}") from error
    reader = _Reader(str(path))
    definitions = reader.read(text)
    if reader.faults:
        raise DefinitionError("\n".join(reader.faults))
    for warning in reader.warnings:
        warn(warning)
    return definitions


class _Mapping(dict[Any, Any]):
    """A mapping of the file that knows its own line and that of each key."""

    line = 0

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[Any, int] = {}


_MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """Loads a text and notes down the keys that stand twice in a mapping, each with its line."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.repeated: list[tuple[int, str]] = []

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        # Before merges put keys of another mapping beside its own.
        keys: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            if (key.tag, key.value) in keys:
                self.repeated.append((key.start_mark.line + 1, key.value))
            keys.add((key.tag, key.value))
        return node


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> Iterator[_Mapping]:
    mapping = _Mapping()
    mapping.line = node.start_mark.line + 1
    yield mapping  # before its content, as an anchor may refer to it from there
    loader.flatten_mapping(node)
    mapping.update(loader.construct_mapping(node))
    for key_node, _ in node.value:
        mapping.lines[loader.construct_object(key_node)] = key_node.start_mark.line + 1


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)


class _Reader:
    """Reads one file and collects what is wrong with it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.faults: list[str] = []
        self.warnings: list[str] = []
        self._defaults = default_traits()
        self._plugins = {entry_point.name: entry_point for entry_point in entry_points(group=PLUGINS)}

    def read(self, text: str) -> list[EventDefinition]:
        try:
            loader = _Loader(text)
            document = loader.get_single_data()
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 0
            hint = ' (write "!..." in quotes)' if "constructor for the tag '!" in str(error.problem) else ""
            self._fault(line, f"no YAML: {error.problem}{hint}")
            return []
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            self._fault(0, f"no YAML: {error}")
            return []
        if not isinstance(document, list):
            self._fault(1, "must be a list of event definitions; [] is one without any")
            return []
        for line, key in loader.repeated:
            self._warn(line, f"{key} is there twice: the last one counts, as in Ceilometer")
        definitions = (self._definition(number, entry) for number, entry in enumerate(document, 1))
        return [definition for definition in definitions if definition is not None]

    def _definition(self, number: int, entry: Any) -> EventDefinition | None:
        if not isinstance(entry, _Mapping):
            self._fault(0, f"definition {number}: must have event_type and traits")
            return None
        where = f"definition {number}"
        patterns = self._patterns(where, entry)
        if patterns:
            where = f"definition {number} ({', '.join(patterns)[:80]})"
        self._warn_of_others(where, entry, _DEFINITION_KEYS)
        traits = self._traits(where, entry)
        if not patterns or traits is None:
            return None
        return EventDefinition(patterns, {**self._defaults, **traits}, entry.line)

    def _patterns(self, where: str, entry: _Mapping) -> list[str]:
        line = entry.lines.get("event_type", entry.line)
        if "event_type" not in entry:
            self._fault(line, f"{where}: event_type is missing")
            return []
        patterns = _texts(entry["event_type"])
        if not patterns:
            self._fault(line, f"{where}: event_type must be text or a list of text")
        return patterns

    def _traits(self, where: str, entry: _Mapping) -> dict[str, TraitDefinition] | None:
        line = entry.lines.get("traits", entry.line)
        if "traits" not in entry:
            self._fault(line, f"{where}: traits is missing; {{}} means the default traits only")
            return None
        traits = entry["traits"]
        if not isinstance(traits, _Mapping):
            self._fault(line, f"{where}: traits must be an object of trait names")
            return None
        read = (
            self._trait(traits.lines.get(name, traits.line), where, name, config)
            for name, config in traits.items()
        )
        return {trait.name: trait for trait in read if trait is not None}

    def _trait(self, line: int, where: str, name: Any, config: Any) -> TraitDefinition | None:
        where = f"{where}: trait {name}"
        before = len(self.faults)
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
            self._fault(line, f"{where}: a name must be text of at most {MAX_NAME} characters")
        if not isinstance(config, _Mapping):
            config = {"fields": config}  # Ceilometer's short form: nothing but the fields
        else:
            self._warn_of_others(where, config, _TRAIT_KEYS)
        type_name = config.get("type", "text")
        dtype = DEFINITION_TYPES.get(type_name.lower()) if isinstance(type_name, str) else None
        if dtype is None:
            self._fault(line, f"{where}: type {type_name!r} is none of {', '.join(DEFINITION_TYPES)}")
        constant = _constant(config.get("fields"))
        fields = self._fields(line, where, config) if constant is None else []
        plugin = self._plugin(line, where, config["plugin"]) if config.get("plugin") else None
        if len(self.faults) > before or dtype is None:
            return None
        return TraitDefinition(name, dtype, fields, plugin, constant)

    def _fields(self, line: int, where: str, config: Mapping[Any, Any]) -> list[str]:
        fields = _texts(config.get("fields"))
        if not fields:
            self._fault(line, f"{where}: fields must be a JSONPath or a list of them")
        for field in fields:
            self._check_path(line, where, field)
        return fields

    def _check_path(self, line: int, where: str, field: str) -> None:
        try:
            parse_path(field)
        except Exception as error:  # noqa: BLE001 - jsonpath-ng has no common base of what it raises
            self._fault(line, f"{where}: {field!r} is no JSONPath: {error}")
            return
        start = field.removeprefix("$.")
        if start.startswith("_context_"):
            self._warn(
                line,
                f"{where}: {field!r} matches nothing since Queens; "
                f"write ctxt.{start.removeprefix('_context_')}",
            )
        elif start in {"message_id", "timestamp"}:
            self._warn(line, f"{where}: {field!r} matches nothing since Queens; write metadata.{start}")

    def _plugin(self, line: int, where: str, config: Any) -> Any:
        if isinstance(config, str):
            config = {"name": config}
        name = config.get("name") if isinstance(config, dict) else None
        if not isinstance(name, str):
            self._fault(line, f"{where}: plugin must be a name, or have a name and parameters")
            return None
        if isinstance(config, _Mapping):
            self._warn_of_others(f"{where}: plugin {name}", config, _PLUGIN_KEYS)
        parameters = config.get("parameters") or {}
        if name not in self._plugins:
            self._fault(line, f"{where}: no plugin {name!r}; installed: {', '.join(sorted(self._plugins))}")
            return None
        if not isinstance(parameters, dict):
            self._fault(line, f"{where}: parameters of plugin {name} must be an object")
            return None
        try:
            plugin = self._plugins[name].load()
            if plugin in SHIPPED:
                parameters = self._known_parameters(line, f"{where}: plugin {name}", plugin, parameters)
            return plugin(**parameters)
        except Exception as error:  # noqa: BLE001 - an operator's plugin raises whatever it likes
            self._fault(line, f"{where}: plugin {name} refused its parameters: {error!r}")
            return None

    def _known_parameters(
        self, line: int, where: str, plugin: type, parameters: Mapping[Any, Any]
    ) -> dict[Any, Any]:
        known = inspect.signature(plugin).parameters
        for unknown in parameters.keys() - known.keys():
            self._warn(line, f"{where} has no parameter {unknown}; it means nothing, as in Ceilometer")
        return {name: value for name, value in parameters.items() if name in known}

    def _warn_of_others(self, where: str, mapping: _Mapping, known: Sequence[str]) -> None:
        for key in mapping:
            if key not in known:
                self._warn(
                    mapping.lines.get(key, mapping.line),
                    f"{where} has {key}, which means nothing, as in Ceilometer; known are {', '.join(known)}",
                )

    def _fault(self, line: int, reason: str) -> None:
        self.faults.append(f"{self.path}:{line}: {reason}" if line else f"{self.path}: {reason}")

    def _warn(self, line: int, reason: str) -> None:
        self.warnings.append(f"{self.path}:{line}: {reason}")


def _constant(fields: Any) -> int | None:
    """Return the number that stands in place of a JSONPath, None for anything else."""
    match fields:
        case int() | [int()]:
            return fields[0] if isinstance(fields, list) else fields
    return None


def _texts(value: Any) -> list[str]:
    """Return a text, or a list of texts, as a list; an empty one for anything else."""
    if isinstance(value, str):
        return [value]
    return value if isinstance(value, list) and all(isinstance(one, str) for one in value) else []
