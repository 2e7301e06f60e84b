"""Turns the traits of a definition into one Python function.

Nearly all paths are plain: keys, an index, a split at the end. Their lookups are written out as
Python source, each container that several paths go through is fetched once, and values that are
already what a trait needs pass without a call. Every other path is left to jsonpath-ng. This is
the source of ``payload.disk_gb`` as an int::

    v = c2.get('disk_gb')
    if v is not None and (v.__class__ is int and -9223372036854775808 <= v <= 9223372036854775807
        or (v := convert6(v, 'disk_gb', faults)) is not None): add(new(Trait, ('disk_gb', 2, v)))

What comes from the definitions file goes into the source as its repr, or stays an object beside it.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from jsonpath_ng import Child, Fields, Index, JSONPath, Root, This
from jsonpath_ng.ext.filter import Expression, Filter
from jsonpath_ng.ext.string import Split

from panko_ingest.converter import values
from panko_ingest.converter.traits import TraitDefinition
from panko_ingest.redaction.shapes import SHORTEST_TOKEN
from panko_ingest.storage.models import Trait

TraitsFunction = Callable[[dict[str, Any], values.Faults], list[Trait]]

Step = tuple[Any, ...]
"""``("key", name)``, ``("index", number)``, ``("split", separator, segment, most)``, or
``("where", name, text)`` for those items of a list whose field is that text."""

# What a value must be to be a trait's as it is. Longer text may hold credentials, and so may that which a
# service or its client writes in words, or as an address.
_READY = {
    Trait.TEXT_TYPE: f"v.__class__ is str and len(v) < {SHORTEST_TOKEN} and v.isascii() and '\\0' not in v",
    Trait.INT_TYPE: f"v.__class__ is int and {-values.LARGEST_INT - 1} <= v <= {values.LARGEST_INT}",
    Trait.FLOAT_TYPE: "v.__class__ is float and v - v == 0.0",
}


_IN_WORDS = re.compile(
    "(?:args?|body|cause|command|comments?|data|description|details?|errors?|exception|failure|fault|headers?"
    r"|message|output|params|path|query|reason|statement|text|traceback|url)\Z",
    re.IGNORECASE,
)


def compile_traits(traits: Iterable[TraitDefinition]) -> TraitsFunction:
    """Return the function ``(notification, faults) -> traits`` of these definitions."""
    return _Writer(list(traits)).compile()


def _is_in_words(trait: TraitDefinition) -> bool:
    """Tell whether a text may be of any kind, by the names of the trait and of the last keys of its paths."""
    last_keys = (field.rpartition(".")[2] for field in trait.fields)
    return trait.dtype == Trait.TEXT_TYPE and any(map(_IN_WORDS.search, (trait.name, *last_keys)))


def plain_steps(path: JSONPath) -> tuple[Step, ...] | None:
    """Return the lookups that a path consists of, None where it is more than lookups."""
    if isinstance(path, Root) or type(path) is This:
        return ()
    if isinstance(path, Child):
        left = plain_steps(path.left)
        step = _plain_step(path.right)
        if left is None or step is None or not _may_follow(step[0], {kind for kind, *_ in left}):
            return None
        return (*left, step)
    step = _plain_step(path)
    return None if step is None else (step,)


def _may_follow(kind: str, before: set[str]) -> bool:
    """Leave to jsonpath-ng what goes on from a split, and all but keys and indexes behind a filter."""
    return "split" not in before and ("where" not in before or kind in {"key", "index"})


def _plain_step(path: JSONPath) -> Step | None:
    if isinstance(path, Fields) and len(path.fields) == 1 and path.fields[0] != "*":
        return ("key", path.fields[0])
    if isinstance(path, Index) and len(numbers := _indexes(path)) == 1:
        return ("index", numbers[0])
    if isinstance(path, Split) and path.segment != "*":
        return ("split", path.chars, int(path.segment), path.max_split)
    if isinstance(path, Filter) and len(path.expressions) == 1:
        return _plain_filter(path.expressions[0])
    return None


def _indexes(path: Index) -> tuple[int, ...]:
    # Until jsonpath-ng 1.7 there is but one, which has another name.
    numbers: tuple[int, ...] = path.indices if hasattr(path, "indices") else (vars(path)["index"],)
    return numbers


def _plain_filter(expression: Any) -> Step | None:
    if not isinstance(expression, Expression) or expression.op not in {"=", "=="}:
        return None
    steps = plain_steps(expression.target)
    if steps is None or len(steps) != 1 or steps[0][0] != "key" or not isinstance(expression.value, str):
        return None
    return ("where", steps[0][1], expression.value)


class _Writer:
    def __init__(self, traits: list[TraitDefinition]) -> None:
        self._traits = traits
        self._lines: list[str] = []
        self._variables: dict[tuple[Step, ...], str] = {(): "n"}
        self._names: dict[str, Any] = {
            "EMPTY": {},
            "Trait": Trait,
            "new": tuple.__new__,
            "split": _split,
            "item": _item,
            "where": _where,
        }
        self._uses = Counter(
            steps
            for trait in traits
            if trait.plugin is None
            for path in trait.paths
            if (steps := plain_steps(path))
        )

    def compile(self) -> TraitsFunction:
        for trait in self._traits:
            self._write_trait(trait)
        source = "\n".join(
            [
                "def to_traits(n, faults):",
                " traits = []",
                " add = traits.append",
                *self._lines,
                " return traits",
            ]
        )
        exec(compile(source, "<event definition>", "exec"), self._names)  # noqa: S102 - see the module's text
        return self._names["to_traits"]  # type: ignore[no-any-return]

    def _write_trait(self, trait: TraitDefinition) -> None:
        steps = [plain_steps(path) for path in trait.paths]
        if trait.constant is not None:
            self._line(f"v = {trait.constant!r}")
        elif trait.plugin is not None or not all(steps):
            self._line(f"v = {self._constant('evaluate', trait.evaluate_safely)}(n, faults)")
        else:
            first, *others = [self._value(plain) for plain in steps if plain]
            self._line(f"v = {first}")
            for other in others:
                self._line(f"if v is None: v = {other}")
        name, convert = repr(trait.name), self._constant("convert", values.CONVERTERS[trait.dtype])
        converted = f"(v := {convert}(v, {name}, faults)) is not None"
        ready = None if _is_in_words(trait) else _READY.get(trait.dtype)
        usable = f"({ready} or {converted})" if ready else converted
        self._line(f"if v is not None and {usable}: add(new(Trait, ({name}, {trait.dtype}, v)))")

    def _value(self, steps: tuple[Step, ...]) -> str:
        """Return an expression for the value at ``steps``, None where there is none."""
        known = self._variables.get(steps)
        if known is not None:
            return known
        expression = self._lookup(steps)
        if self._uses[steps] > 1:
            return self._assign(steps, expression)
        return expression

    def _lookup(self, steps: tuple[Step, ...]) -> str:
        filters = [number for number, step in enumerate(steps) if step[0] == "where"]
        if filters:
            return self._filter(steps, filters[0])
        *parents, (kind, *arguments) = steps
        parent = tuple(parents)
        if kind == "key":
            return f"{self._container(parent)}.get({arguments[0]!r})"
        function = "item" if kind == "index" else "split"
        return f"{function}({self._value(parent)}, {', '.join(map(repr, arguments))})"

    def _filter(self, steps: tuple[Step, ...], position: int) -> str:
        _, name, wanted = steps[position]
        return f"where({self._value(steps[:position])}, {name!r}, {wanted!r}, {steps[position + 1 :]!r})"

    def _container(self, steps: tuple[Step, ...]) -> str:
        """Return the variable of the object at ``steps``, which is empty where that is none."""
        key = (*steps, ("object",))
        if not steps:
            return "n"
        if key not in self._variables:
            name = self._assign(key, self._value(steps))
            self._line(f"if {name}.__class__ is not dict and not isinstance({name}, dict): {name} = EMPTY")
        return self._variables[key]

    def _assign(self, steps: tuple[Step, ...], expression: str) -> str:
        name = self._variables[steps] = f"c{len(self._variables)}"
        self._line(f"{name} = {expression}")
        return name

    def _constant(self, kind: str, value: Any) -> str:
        for name, known in self._names.items():
            if known is value:
                return name
        name = f"{kind}{len(self._names)}"
        self._names[name] = value
        return name

    def _line(self, text: str) -> None:
        self._lines.append(f" {text}")


def _split(value: Any, separator: str, segment: int, most: int) -> str | None:
    try:
        return value.split(separator, most)[segment]  # type: ignore[no-any-return]
    except (AttributeError, IndexError, TypeError, ValueError):
        return None


def _item(value: Any, index: int) -> Any:
    if isinstance(value, list | tuple) and -len(value) <= index < len(value):
        return value[index]
    return None


def _where(items: Any, name: str, wanted: str, rest: tuple[Step, ...]) -> Any:
    if not isinstance(items, list):
        return None
    for item in items:
        if isinstance(item, dict) and item.get(name) == wanted:
            value: Any = item
            for kind, argument in rest:
                if kind == "index":
                    value = _item(value, argument)
                else:
                    value = value.get(argument) if isinstance(value, dict) else None
            if value is not None:
                return value
    return None
