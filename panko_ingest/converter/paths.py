"""JSONPaths, parsed by jsonpath-ng and evaluated as Ceilometer's jsonpath-rw-ext does it.

What filters compare differs between the two, and from release to release of jsonpath-ng.
"""

import operator
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from jsonpath_ng import DatumInContext, JSONPath
from jsonpath_ng.ext.filter import Expression, Filter
from jsonpath_ng.ext.parser import parse

_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@cache
def parse_path(path: str) -> JSONPath:
    """Return the expression of a JSONPath; the same one for the same text.

    :raises Exception: the text is no JSONPath; of no common class in jsonpath-ng.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # definitions of years ago are no news
        parsed = parse(path)
    for part in _parts(parsed):
        if isinstance(part, Filter):
            part.expressions = [_as_ceilometer_compares(one) for one in part.expressions]
        elif hasattr(part, "operands"):  # of || and &&, which newer releases know
            part.operands = [_as_ceilometer_compares(one) for one in part.operands]
    return parsed


def _parts(value: Any) -> Iterator[JSONPath]:
    """Yield the expressions that an expression consists of, itself first."""
    if isinstance(value, JSONPath):
        yield value
        value = list(vars(value).values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from _parts(part)


def _as_ceilometer_compares(expression: JSONPath) -> JSONPath:
    if (
        not isinstance(expression, Expression)
        or expression.op not in _COMPARISONS
        or isinstance(expression.value, JSONPath)
    ):
        return expression
    # null is a word like any other to jsonpath-rw
    wanted = "null" if expression.value is None else expression.value
    return _Comparison(expression.target, expression.op, wanted)


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
