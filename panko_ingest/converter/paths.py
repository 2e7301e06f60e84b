"""JSONPaths, parsed by jsonpath-ng and evaluated as Ceilometer's jsonpath-rw-ext does it.

What filters compare, and what is found in what is no list, differs between the two, and from release to
release of jsonpath-ng.
"""

import contextlib
import operator
import re
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import jsonpath_ng
from jsonpath_ng import DatumInContext, Index, JSONPath, Slice
from jsonpath_ng.ext import parser as extended
from jsonpath_ng.ext.arithmetic import Operation
from jsonpath_ng.ext.filter import Expression, Filter

_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
# What stands for all items of a list, is in quotes, or is a pattern as jsonpath-rw has it: behind a ~ for =~,
# and found at the beginning only.
_QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_PATTERN = re.compile(
    rf"(?P<all>\[\s*\*\s*\])|{_QUOTED}|`[^`]*`|(?<!=)~\s*(?:(?P<quoted>{_QUOTED})|(?P<word>[A-Za-z_][\w@\-]*))"
)
_AT_BEGINNING = "(?#~)"
_WILDCARD: Any = getattr(jsonpath_ng, "Wildcard", ())  # a kind of field before 1.16


@cache
def parse_path(path: str) -> JSONPath:
    """Return the expression of a JSONPath; the same one for the same text.

    :raises Exception: the text is no JSONPath; of no common class in jsonpath-ng.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # definitions of years ago are no news
        parsed: JSONPath = _parser().parse(_PATTERN.sub(_marked, path))
    for part in _parts(parsed):
        if (inside := _looks_into(part)) is not None:
            _find_as_ceilometer(part, inside)
        if isinstance(part, Filter):
            part.expressions = [_as_ceilometer_compares(one) for one in part.expressions]
        elif hasattr(part, "operands"):  # of || and &&, which newer releases know
            part.operands = [_as_ceilometer_compares(one) for one in part.operands]
        elif isinstance(part, Operation) and part.op is operator.mul:
            part.op = _product
    return parsed


@cache
def _parser() -> Any:
    # parse() makes a new one for each path; up to 1.7 that takes 13 ms, and a cloud's definitions have 400.
    if hasattr(extended, "ExtendedJsonPathParser"):
        return extended.ExtendedJsonPathParser()
    return extended.ExtentedJsonPathParser()  # type: ignore[operator]


def _marked(found: re.Match[str]) -> str:
    if found["all"]:
        return "[:]"  # [*] is .* to jsonpath-ng from 1.16 on
    if (word := found["word"]) is not None:
        return f"=~ '{_AT_BEGINNING}{word}'"
    if (quoted := found["quoted"]) is not None:
        return f"=~ {quoted[0]}{_AT_BEGINNING}{quoted[1:]}"
    return found[0]


def _parts(value: Any) -> Iterator[JSONPath]:
    """Yield the expressions that an expression consists of, itself first."""
    if isinstance(value, JSONPath):
        yield value
        value = list(vars(value).values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from _parts(part)


def _looks_into(part: JSONPath) -> type | None:
    """Return in what alone a part of a path finds something, None where jsonpath-ng is as Ceilometer is."""
    if isinstance(part, Filter | Index | Slice):
        return list
    is_wildcard = isinstance(part, _WILDCARD) or getattr(part, "fields", None) == ("*",)
    return dict if is_wildcard else None


def _find_as_ceilometer(part: JSONPath, inside: type) -> None:
    """Have a part of a path find nothing in anything else; a slice takes that for a list of one."""
    find = part.find

    def found(datum: Any) -> list[DatumInContext]:
        datum = DatumInContext.wrap(datum)
        if isinstance(datum.value, inside):
            with contextlib.suppress(IndexError):  # before the first item, in releases before 1.12
                return find(datum)
        elif isinstance(part, Slice):
            return find(DatumInContext([datum.value], path=datum.path, context=datum.context))
        return []

    vars(part)["find"] = found


def _as_ceilometer_compares(expression: JSONPath) -> JSONPath:
    if not isinstance(expression, Expression) or isinstance(expression.value, JSONPath):
        return expression
    target, op, wanted = expression.target, expression.op, expression.value
    if op in _COMPARISONS:
        # null is a word like any other to jsonpath-rw
        return _Comparison(target, op, "null" if wanted is None else wanted)
    if op == "=~" and not isinstance(wanted, str):
        raise ValueError("behind =~ stands a pattern in quotes")
    if op == "=~" and wanted.startswith(_AT_BEGINNING):
        return _Match(target, op, re.compile(wanted.removeprefix(_AT_BEGINNING)))
    return expression


class _Comparison(Expression):
    """What is there and not null, compared as an integer where that is wanted; true is 1."""

    def find(self, datum: Any) -> list[DatumInContext]:
        """Return those values of an item that compare as wanted."""
        return [found for found in self.target.find(DatumInContext.wrap(datum)) if self._holds(found.value)]

    def _holds(self, value: Any) -> bool:
        if value is None:
            return False
        try:
            if isinstance(self.value, int):
                value = int(value)
            return bool(_COMPARISONS[self.op](value, self.value))
        except (OverflowError, TypeError, ValueError):  # which cost Ceilometer the event, but for the last
            return False


class _Match(_Comparison):
    """A text that begins as a pattern says."""

    def _holds(self, value: Any) -> bool:
        return isinstance(value, str) and self.value.match(value) is not None


def _product(one: Any, other: Any) -> int | float:
    """Multiply numbers only: a text, or a list, would be repeated as often as the publisher likes."""
    if one is None or other is None:
        raise TypeError("there is nothing to multiply")  # by which jsonpath-ng finds nothing
    if not {one.__class__, other.__class__} <= {int, float}:
        raise ValueError("only numbers are multiplied")
    return one * other  # type: ignore[no-any-return]
