"""A load of any length that takes no memory: a short one again and again, with new message ids."""

from collections.abc import Iterator, Sequence
from typing import overload

from tests.bodies import decode

_DIGITS = 8


class Repeats(Sequence[bytes]):
    """So many bodies, made when they are asked for, the same each time; a slice is of the same kind.

    :param bodies: to repeat, each with a UUID as its message_id; its first digits become the number of
        the round.
    """

    def __init__(self, bodies: Sequence[bytes], count: int) -> None:
        self._bodies = bodies
        self._places = [_place(body) for body in bodies]
        self._part = range(count)

    @property
    def first_round(self) -> "Repeats":
        """The first of the bodies that are repeated, as far as they are part of this."""
        return self[: len(self._bodies)]

    def __len__(self) -> int:
        return len(self._part)

    def __iter__(self) -> Iterator[bytes]:
        return map(self._make, self._part)

    @overload
    def __getitem__(self, index: int) -> bytes: ...

    @overload
    def __getitem__(self, index: slice) -> "Repeats": ...

    def __getitem__(self, index: int | slice) -> "bytes | Repeats":
        if not isinstance(index, slice):
            return self._make(self._part[index])
        part = object.__new__(Repeats)
        part._bodies, part._places, part._part = self._bodies, self._places, self._part[index]
        return part

    def _make(self, number: int) -> bytes:
        turn, which = divmod(number, len(self._bodies))
        body, place = self._bodies[which], self._places[which]
        return b"%s%08x%s" % (body[:place], turn, body[place + _DIGITS :])


def _place(body: bytes) -> int:
    message_id = decode(body).message["metadata"]["message_id"].encode()
    assert body.count(message_id) == 1
    return body.index(message_id)
