"""Which batches are recorded together: buses take turns, small batches share a transaction. No I/O here."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from panko_ingest.backoff import Backoff
from panko_ingest.batch import Batch
from panko_ingest.storage import RecordResult

FIRST_PAUSE = 0.2
LONGEST_PAUSE = 15.0


class Owner(Protocol):
    """Whose batches are recorded; called from the recording thread."""

    session: int
    """Batches of an older session are not worth recording: they are delivered again."""

    def settle(self, batch: Batch) -> None:
        """Take back a batch that is committed."""


@dataclass(slots=True, eq=False)
class _Waiting:
    """Batches of one bus that wait, and how those before them fared."""

    owner: Owner
    backoff: Backoff
    batches: deque[Batch] = field(default_factory=deque)
    done: int = 0
    """Messages of the first batch that are recorded already, piece by piece."""
    most: int = 0
    """Messages to record at once, as more were not taken; 0 for any."""


@dataclass(slots=True)
class Piece:
    """Part of a batch, or all of it, that is recorded in one transaction with others."""

    waiting: _Waiting
    batch: Batch
    events: range
    letters: range
    first: int
    """Where its events begin among all that are recorded."""

    @property
    def rows(self) -> int:
        """How many events and dead letters it has."""
        return len(self.events) + len(self.letters)


class RecordingQueue:
    """The batches of all buses that wait to be recorded, those of one bus in the order they came.

    A bus whose batch was not taken, although the store takes others, is tried again at its own pace, alone,
    and with fewer messages at once.

    :param most: messages of several batches that are recorded together at most.
    :param clock: monotonic seconds.
    """

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        self._most = most
        self._clock = clock
        self._waiting: deque[_Waiting] = deque()
        self.troubled: frozenset[Owner] = frozenset()
        """Those whose last batch was not taken."""

    @property
    def empty(self) -> bool:
        """Whether no batch waits."""
        return not any(waiting.batches for waiting in self._waiting)

    @property
    def due_in(self) -> float | None:
        """Seconds until something can be recorded; None while nothing waits."""
        return min((waiting.backoff.due_in for waiting in self._waiting if waiting.batches), default=None)

    def add(self, owner: Owner, batch: Batch) -> None:
        """Queue a batch."""
        for waiting in self._waiting:
            if waiting.owner is owner:
                break
        else:
            waiting = _Waiting(owner, Backoff(FIRST_PAUSE, LONGEST_PAUSE, self._clock))
            self._waiting.append(waiting)
        waiting.batches.append(batch)

    def next(self) -> list[Piece]:
        """Return what to record together: of the bus whose turn it is, and of others as far as they fit."""
        pieces: list[Piece] = []
        rows = 0
        for _ in range(len(self._waiting)):
            waiting = self._waiting[0]
            self._waiting.rotate(-1)
            _drop_stale(waiting)
            if waiting.backoff.due_in or not waiting.batches or (waiting.most and pieces):
                continue
            if waiting.most:
                return [_piece(waiting, waiting.batches[0], waiting.done, waiting.most, 0)]
            for batch in waiting.batches:
                size = len(batch.events) + len(batch.dead_letters)
                if pieces and (batch.alone or pieces[0].batch.alone or rows + size > self._most):
                    return pieces
                first = pieces[-1].first + len(pieces[-1].events) if pieces else 0
                pieces.append(_piece(waiting, batch, 0, size, first))
                rows += size
        return pieces

    def accept(self, piece: Piece) -> bool:
        """Take note that a piece is committed; return whether that was all of its batch."""
        waiting, batch = piece.waiting, piece.batch
        waiting.done += piece.rows
        if waiting.most:
            waiting.most *= 2
            waiting.backoff.succeeded()
            self._note_troubled()
        if waiting.done < len(batch.events) + len(batch.dead_letters):
            return False
        waiting.batches.popleft()
        waiting.done = 0
        if waiting.most >= max(len(batch.deliveries), self._most):
            waiting.most = 0
        return True

    def refuse(self, pieces: Sequence[Piece]) -> None:
        """Take note that the store takes other things, but not these."""
        for waiting in {piece.waiting for piece in pieces}:
            rows = sum(piece.rows for piece in pieces if piece.waiting is waiting)
            waiting.most = max(1, rows // 2)
            waiting.backoff.failed()
        self._note_troubled()

    def _note_troubled(self) -> None:
        self.troubled = frozenset(waiting.owner for waiting in self._waiting if waiting.backoff.failed_last)


def _drop_stale(waiting: _Waiting) -> None:
    """Forget batches whose session is over: they come again.

    But where the last one was not taken, it is the best probe: a store that is full still answers.
    """
    while (
        waiting.batches
        and waiting.batches[0].session != waiting.owner.session
        and not (waiting.backoff.failed_last and len(waiting.batches) == 1)
    ):
        waiting.batches.popleft()
        waiting.done = 0


def _piece(waiting: _Waiting, batch: Batch, start: int, most: int, first: int) -> Piece:
    """Return so many messages of a batch, its events before its dead letters."""
    events = len(batch.events)
    stop = min(start + most, events + len(batch.dead_letters))
    return Piece(
        waiting,
        batch,
        range(min(start, events), min(stop, events)),
        range(max(start - events, 0), max(stop - events, 0)),
        first,
    )


def parts(pieces: Sequence[Piece], result: RecordResult) -> list[RecordResult]:
    """Tell the result of each piece apart, by the positions of its events in their batch."""
    return [_part(piece, result) for piece in pieces]


def _part(piece: Piece, result: RecordResult) -> RecordResult:
    end = piece.first + len(piece.events)
    shift = piece.events.start - piece.first

    def own(indexes: Sequence[int]) -> tuple[int, ...]:
        return tuple(index + shift for index in indexes if piece.first <= index < end)

    return RecordResult(
        own(result.recorded),
        own(result.duplicates),
        tuple((index + shift, error) for index, error in result.failed if piece.first <= index < end),
    )
