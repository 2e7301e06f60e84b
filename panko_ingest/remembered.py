"""What was found out about things that come again and again, remembered within a bound."""

from collections.abc import Callable
from typing import TypeVar

K = TypeVar("K", str, bytes)
V = TypeVar("V")


class Remembered(dict[K, V]):
    """What a function returns, by what it is given. Publishers choose that, so neither may grow without end.

    :param find: the function.
    :param most: keys to remember; with one more, all are forgotten.
    :param longest: characters, or bytes, of a key that is remembered.
    """

    def __init__(self, find: Callable[[K], V], most: int, longest: int) -> None:
        super().__init__()
        self._find: Callable[[K], V] = find
        self.most = most
        self.longest = longest

    def __missing__(self, key: K) -> V:
        value = self._find(key)
        if len(key) <= self.longest:
            if len(self) >= self.most:
                self.clear()
            self[key] = value
        return value
